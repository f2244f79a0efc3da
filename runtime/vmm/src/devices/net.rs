//! virtio-net on a tap or a stream socket (VirtIO 1.2, section 5.1), without a control queue: what the driver may change, it changes
//! in the guest.
//!
//! The wire may be plugged in later: a network namespace can get its interfaces while the guest runs.
//!
//! A frame that cannot go on is lost, as on any wire. What the driver says of a frame reaches the host's kernel only as far as
//! it was negotiated: there, parsing of these headers has been wrong before.

mod backend;
mod header;
mod stream;

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
};

use securectr_vmm::spec::Wire;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::{
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
        VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_MTU,
    },
};

use self::{
    backend::{Backend, Tap},
    header::{HEADER_LEN, Header},
    stream::Stream,
};
use super::{
    AttachError, Progress, StateError, VirtioDevice,
    virtqueue::{Violation, Virtqueue},
};

/// The tap's, whose [`IOCTLS`] have rows of their own in the filter, and the stream's.
pub(super) const SYSCALLS: &[libc::c_long] =
    &[libc::SYS_read, libc::SYS_writev, libc::SYS_recvfrom, libc::SYS_shutdown];

/// What is asked of a tap, and what it is told. No other ioctl(2) is for a running VMM's event loop to make.
pub(crate) const IOCTLS: [u32; 3] =
    [libc::TUNGETIFF as u32, libc::TUNGETVNETHDRSZ as u32, libc::TUNSETOFFLOAD as u32];

const FORMAT: u32 = 1;
/// For the guest, and from it.
const QUEUE_SIZES: &[u16] = &[256, 256];
const MOST_CHAINS: usize = 256;
/// A frame of 65,550 bytes behind its header: the longest that segmentation offload makes (section 5.1.6.3.1).
const MAX_FRAME_LEN: usize = 65_562;
/// A call ends after this many in each direction, so that a busy network does not hold up the machine's other devices.
const MAX_FRAMES_A_CALL: usize = 64;
/// The least that Linux takes for an Ethernet device (ETH_MIN_MTU); below it the driver refuses the device.
const MIN_MTU: u16 = 68;

/// On any wire.
const PLAIN: u64 = 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// On a tap.
const OFFERED: u64 = PLAIN
    | 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6;

#[derive(Debug, Error)]
pub(crate) enum NetError {
    #[error("look at the tap")]
    Query(#[source] io::Error),
    #[error("it is not a tap with IFF_NO_PI and IFF_VNET_HDR")]
    NotATap,
    #[error("it is not a connected Unix stream socket")]
    NotAStream,
    #[error("watch the stream")]
    Epoll(#[source] io::Error),
    #[error("an MTU of {0} bytes is less than {MIN_MTU}")]
    Mtu(u16),
    #[error("the MAC address {0:02x?} is not that of one interface")]
    Mac([u8; 6]),
    #[error("it has a tap already")]
    Plugged,
    #[error("tell the tap which offloads the driver takes")]
    Offloads(#[source] io::Error),
}

pub(super) struct Net {
    config: [u8; CONFIG_LEN],
    /// The other end of the wire; none as long as nobody has plugged it in. Without, what is sent is lost.
    backend: Option<Box<dyn Backend>>,
    /// The other end has gone: nothing comes any more.
    unplugged: bool,
    offered: u64,
    /// Of what was offered, what the driver takes.
    agreed: u64,
    /// A frame on its way to the guest, with its header: the first `held` bytes.
    frame: Vec<u8>,
    held: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct NetState {
    format: u32,
    mac: [u8; 6],
    mtu: u16,
}

impl Net {
    /// With what is at the other end of its wire, if that is known already.
    pub(super) fn new(other_end: Option<(Wire, OwnedFd)>, mac: [u8; 6], mtu: u16) -> Result<Self, NetError> {
        match other_end {
            None => Self::with_backend(None, mac, mtu),
            Some((Wire::Tap(_), tap)) => {
                let tap = Tap::new(tap.into())?;
                Self::with_backend(Some(Box::new(tap)), mac, mtu)
            }
            Some((Wire::Stream(_), socket)) => {
                let stream = Stream::new(socket, mtu)?;
                let net = Self::with_backend(Some(Box::new(stream)), mac, mtu)?;
                Ok(Self { offered: PLAIN, ..net })
            }
        }
    }

    fn with_backend(backend: Option<Box<dyn Backend>>, mac: [u8; 6], mtu: u16) -> Result<Self, NetError> {
        if mtu < MIN_MTU {
            return Err(NetError::Mtu(mtu));
        }
        if mac == [0; 6] || is_multicast(mac) {
            return Err(NetError::Mac(mac));
        }
        Ok(Self {
            config: config(mac, mtu),
            backend,
            unplugged: false,
            offered: OFFERED,
            agreed: 0,
            frame: vec![0; MAX_FRAME_LEN],
            held: 0,
        })
    }

    fn has(&self, feature: u32) -> bool {
        self.agreed & 1 << feature != 0
    }

    fn plug_in(&mut self, mut backend: Box<dyn Backend>) -> Result<(), NetError> {
        if self.backend.is_some() {
            return Err(NetError::Plugged);
        }
        backend.set_offloads(header::tap_offloads(self.agreed)).map_err(NetError::Offloads)?;
        self.backend = Some(backend);
        Ok(())
    }

    /// From the guest to the wire.
    fn transmit(&mut self, queue: &mut Virtqueue<'_>) -> Result<Progress, Violation> {
        for _ in 0..MAX_FRAMES_A_CALL {
            if self.backend.as_mut().is_some_and(|backend| !backend.has_room()) {
                // It tells when there is some.
                return Ok(Progress::Done);
            }
            let Some(chain) = queue.pop()? else { return Ok(Progress::Done) };
            let mut header = [0; HEADER_LEN];
            let Some((first, frame)) = chain.readable.split_at(HEADER_LEN) else {
                return Err(Violation::NoHeader);
            };
            first.read(&mut header);
            let header = Header::from_driver(header, self.agreed);
            if let (Some(header), Some(backend), ..=MAX_FRAME_LEN) =
                (header, &mut self.backend, chain.readable.len())
            {
                // A full queue, a frame that the kernel will not have, an interface that is gone: all lost.
                let _ = backend.send(&header, &frame);
            }
            queue.push(chain.head, 0)?;
        }
        Ok(Progress::More)
    }

    /// From the wire to the guest.
    fn receive(&mut self, queue: &mut Virtqueue<'_>) -> Result<Progress, Violation> {
        for _ in 0..MAX_FRAMES_A_CALL {
            if self.held == 0 && !self.take_frame() {
                return Ok(Progress::Done);
            }
            if !self.deliver(queue)? {
                // The driver announces its next buffer.
                return Ok(Progress::Done);
            }
            self.held = 0;
        }
        Ok(Progress::More)
    }

    /// Whether there is a frame now.
    fn take_frame(&mut self) -> bool {
        let Some(backend) = self.backend.as_mut().filter(|_| !self.unplugged) else { return false };
        match backend.receive(&mut self.frame) {
            // What has no header is no frame.
            Ok(len) => self.held = len.filter(|&len| len >= HEADER_LEN).unwrap_or(0),
            Err(_) => self.unplugged = true,
        }
        self.held > 0
    }

    /// Whether the frame is with the driver, or lost because the driver's only buffer for it is too small.
    fn deliver(&mut self, queue: &mut Virtqueue<'_>) -> Result<bool, Violation> {
        let most = if self.has(VIRTIO_NET_F_MRG_RXBUF) { MOST_CHAINS } else { 1 };
        let (mut chains, mut room) = (Vec::new(), 0);
        while room < self.held && chains.len() < most {
            let Some(chain) = queue.pop()? else {
                queue.unpop(chains.len() as u16);
                return Ok(false);
            };
            if chain.writable.len() == 0 {
                return Err(Violation::NoAnswer);
            }
            room += chain.writable.len();
            chains.push(chain);
        }
        if room < self.held {
            queue.unpop(chains.len() as u16);
            return Ok(true);
        }
        let mut rest = self.frame.get_mut(..self.held).unwrap_or_default();
        // At most MOST_CHAINS.
        header::set_buffer_count(rest, chains.len() as u16);
        let mut used = Vec::with_capacity(chains.len());
        for chain in &chains {
            let written = chain.writable.write(rest);
            rest = rest.get_mut(written..).unwrap_or_default();
            // At most MAX_FRAME_LEN.
            used.push((chain.head, written as u32));
        }
        queue.push_together(&used)?;
        Ok(true)
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    /// Not while a frame waits for the driver: a tap that stays readable would call us for nothing.
    fn poll_fd(&self) -> Option<RawFd> {
        let backend = self.backend.as_ref().filter(|_| self.held == 0 && !self.unplugged)?;
        Some(backend.fd())
    }

    /// Before the first frame, the tap learns which frames the driver takes: a restored one may have agreed to other features.
    fn activate(&mut self, features: u64) -> io::Result<()> {
        self.agreed = features;
        self.backend.as_mut().map_or(Ok(()), |backend| backend.set_offloads(header::tap_offloads(features)))
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        let [for_guest, from_guest] = queues else { return Ok(Progress::Done) };
        let sent = self.transmit(from_guest)?;
        Ok(self.receive(for_guest)?.and(sent))
    }

    fn reset(&mut self) {
        self.held = 0;
        self.agreed = 0;
    }

    fn attach(&mut self, tap: OwnedFd) -> Result<(), AttachError> {
        let plugged = Tap::new(tap.into()).and_then(|tap| self.plug_in(Box::new(tap)));
        plugged.map_err(AttachError::Net)
    }

    /// A frame that is held is lost.
    fn save(&self) -> Result<serde_json::Value, StateError> {
        let (mac, mtu) = parse_config(self.config);
        serde_json::to_value(NetState { format: FORMAT, mac, mtu }).map_err(StateError::Device)
    }

    /// The guest has read address and MTU: the new device must be like the old one.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = NetState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)?;
        if config(state.mac, state.mtu) == self.config {
            Ok(())
        } else {
            Err(StateError::Differs("MAC address or MTU"))
        }
    }
}

fn is_multicast(mac: [u8; 6]) -> bool {
    mac.first().is_some_and(|byte| byte & 1 != 0)
}

const CONFIG_LEN: usize = 12;

/// `struct virtio_net_config` (section 5.1.4): MAC address, status and number of queue pairs, which need features, MTU.
fn config(mac: [u8; 6], mtu: u16) -> [u8; CONFIG_LEN] {
    let [a, b, c, d, e, f] = mac;
    let [low, high] = mtu.to_le_bytes();
    [a, b, c, d, e, f, 0, 0, 0, 0, low, high]
}

fn parse_config([a, b, c, d, e, f, _, _, _, _, low, high]: [u8; CONFIG_LEN]) -> ([u8; 6], u16) {
    ([a, b, c, d, e, f], u16::from_le_bytes([low, high]))
}

#[cfg(test)]
pub(super) mod tests;
