//! virtio-vsock with its host side on Unix sockets (VirtIO 1.2, section 5.10; [`VsockSpec`] says who connects how).
//!
//! Streams are watched edge-triggered, and each remembers whether it may have more: so nothing is read for a guest that has
//! no room, nothing is polled for a peer that has stalled, and one that has much to say waits in line with the others.

mod connection;
mod host;
mod notice;
mod outlet;
mod packet;
mod peers;

use std::{collections::VecDeque, io, os::fd::RawFd};

use securectr_vmm::spec::VsockSpec;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::epoll::EventSet;

use self::{
    connection::{Connection, Outgoing, Received, Verdict},
    host::{Host, Line},
    notice::Notice,
    packet::{Address, GUEST_CID, HEADER_LEN, Incoming, MAX_DATA_LEN, Message, Op},
    peers::{Peer, Peers, Token},
};
use super::{
    DeviceError, Progress, StateError, VirtioDevice,
    virtqueue::{Buffers, Chain, Violation, Virtqueue},
};
use crate::descriptors::Descriptors;

pub(super) const SYSCALLS: &[libc::c_long] = &[
    // What has happened to streams, and which of them are watched.
    libc::SYS_epoll_wait,
    libc::SYS_epoll_ctl,
    // Clients, and the line in which they say where they want to go.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    // Data from and to guest memory, and what was kept on the way.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    // The ends of streams.
    libc::SYS_shutdown,
    libc::SYS_close,
];

const FORMAT: u32 = 1;
/// Buffers for the guest, from the guest, and for events. Linux fills the first with 4 KiB each.
const QUEUE_SIZES: &[u16] = &[128, 128, 8];
const CONFIG: [u8; 8] = GUEST_CID.to_le_bytes();

const MAX_CLIENTS_A_CALL: usize = 16;
const MAX_PACKETS_A_CALL: usize = 64;
const MAX_TURNS_A_CALL: usize = 64;
/// Answers that the guest has no buffers for; at this many we stop listening to it (section 5.10.6.1.1).
const MAX_RESETS: usize = 256;

#[derive(Debug, Error)]
pub(crate) enum VsockError {
    #[error("the listener is not a listening Unix stream socket")]
    NotAListener,
    #[error("the stream for port {0} is not a connected Unix stream socket")]
    NotAStream(u32),
    #[error("make the listener not wait")]
    Listener(#[source] io::Error),
    #[error("watch the listener")]
    Epoll(#[source] io::Error),
}

pub(super) struct Vsock {
    host: Host,
    peers: Peers,
    /// Connections that the guest is to be told do not exist.
    resets: VecDeque<Address>,
    notice: Notice,
}

#[derive(Debug, Serialize, Deserialize)]
struct VsockState {
    format: u32,
    guest_cid: u64,
    next_port: u32,
}

impl Vsock {
    pub(super) fn open(spec: &VsockSpec, descriptors: &mut Descriptors) -> Result<Self, DeviceError> {
        Host::open(spec, descriptors).map(Self::new)
    }

    fn new(host: Host) -> Self {
        Self { host, peers: Peers::default(), resets: VecDeque::new(), notice: Notice::default() }
    }

    fn accept_clients(&mut self) -> Progress {
        for _ in 0..MAX_CLIENTS_A_CALL {
            let Some(stream) = self.host.client() else { return Progress::Done };
            let token = self.peers.new_token();
            // Too many, or no memory to watch it: the client sees its connection closed.
            if !self.peers.is_full() && self.host.watch(token, &stream).is_ok() {
                self.peers.greet(token, stream);
                self.listen_to(token);
            }
        }
        Progress::More
    }

    /// A client may have said where it wants to go.
    fn listen_to(&mut self, token: Token) {
        let Some(Peer::Greeting(stream)) = self.peers.get(token) else { return };
        let line = host::read_line(stream);
        if line == Line::Part {
            return;
        }
        if let (Some(Peer::Greeting(stream)), Line::Connect(port)) = (self.peers.take(token), line) {
            let address = self.peers.new_address(port);
            self.peers.connect(token, Connection::requested(stream, address));
        }
    }

    fn stream_event(&mut self, token: Token, events: EventSet) {
        match self.peers.get(token) {
            Some(Peer::Greeting(_)) => self.listen_to(token),
            Some(Peer::Connection(_)) => {
                let lives =
                    self.peers.connection(token).is_some_and(|connection| connection.stream_event(events));
                if lives { self.peers.line_up(token) } else { self.end(token, Verdict::Reset) }
            }
            Some(Peer::Draining(_)) => {
                if let Some(Peer::Draining(draining)) = self.peers.take(token) {
                    if let Some(draining) = draining.stream_event() {
                        self.peers.drain(token, draining);
                    }
                }
            }
            // It was closed by an earlier event of the same call.
            None => {}
        }
    }

    /// What the guest has sent.
    fn transmit(&mut self, queue: &mut Virtqueue<'_>) -> Result<Progress, Violation> {
        for _ in 0..MAX_PACKETS_A_CALL {
            if self.resets.len() >= MAX_RESETS {
                break;
            }
            let Some(chain) = queue.pop()? else { return Ok(Progress::Done) };
            match Incoming::parse(&chain.readable).ok_or(Violation::NoHeader)? {
                Incoming::Packet(message, data) => self.packet(&message, &data),
                Incoming::Senseless(address) => match self.peers.at(address) {
                    Some((token, _)) => self.end(token, Verdict::Reset),
                    None => self.resets.push_back(address),
                },
                Incoming::Stray => {}
            }
            queue.push(chain.head, 0)?;
        }
        Ok(Progress::More)
    }

    fn packet(&mut self, message: &Message, data: &Buffers<'_>) {
        if let Some((token, connection)) = self.peers.at(message.address) {
            let verdict = connection.packet(message, data);
            self.end(token, verdict);
        } else if message.op != Op::Request {
            if message.op != Op::Reset {
                self.resets.push_back(message.address);
            }
        } else if !self.dial(message) {
            self.resets.push_back(message.address);
        }
    }

    /// The guest asks for a port of the host.
    fn dial(&mut self, request: &Message) -> bool {
        if self.peers.is_full() {
            return false;
        }
        let Some(stream) = self.host.dial(request.address.host_port) else { return false };
        let token = self.peers.new_token();
        if self.host.watch(token, &stream).is_err() {
            return false;
        }
        self.peers.connect(token, Connection::accepted(stream, request));
        true
    }

    /// Ends a connection, unless it is to be kept.
    fn end(&mut self, token: Token, verdict: Verdict) {
        if verdict == Verdict::Keep {
            return self.peers.line_up(token);
        }
        if let Some(Peer::Connection(connection)) = self.peers.take(token) {
            if verdict == Verdict::Reset {
                self.resets.push_back(connection.address);
            }
            if let Some(draining) = connection.drain() {
                self.peers.drain(token, draining);
            }
        }
    }

    /// Fills the guest's buffers: resets first, then each connection in its turn.
    fn fill(&mut self, queue: &mut Virtqueue<'_>) -> Result<Progress, Violation> {
        for _ in 0..MAX_TURNS_A_CALL {
            if self.resets.is_empty() && !self.peers.has_line() {
                return Ok(Progress::Done);
            }
            // Without a buffer nothing may be taken off: the guest announces the next one.
            let Some(chain) = queue.pop()? else { return Ok(Progress::Done) };
            if let Some(address) = self.resets.pop_front() {
                send(queue, &chain, Message::reset(address))?;
                continue;
            }
            let Some((token, connection)) = self.peers.next_in_line() else {
                queue.unpop(1);
                return Ok(Progress::Done);
            };
            match connection.next() {
                Some(Outgoing::Packet(message)) => send(queue, &chain, message)?,
                Some(Outgoing::Data { max_len, max_packets }) => {
                    receive(queue, chain, connection, (max_len, max_packets))?;
                }
                None => {
                    queue.unpop(1);
                    continue;
                }
            }
            self.peers.line_up(token);
        }
        Ok(Progress::More)
    }
}

/// Puts a packet without data into a buffer of the guest.
fn send(queue: &mut Virtqueue<'_>, chain: &Chain<'_>, message: Message) -> Result<(), Violation> {
    if chain.writable.write(&message.to_bytes()) < HEADER_LEN {
        return Err(Violation::NoAnswer);
    }
    // At most HEADER_LEN and MAX_DATA_LEN.
    queue.push(chain.head, (HEADER_LEN + message.len as usize) as u32)
}

/// Reads from a stream into the guest's buffers, several packets by one call to the kernel; buffers that are not needed
/// stay with the guest. The limit is in bytes and in packets.
fn receive<'m>(
    queue: &mut Virtqueue<'m>,
    first: Chain<'m>,
    connection: &mut Connection,
    (max_len, max_packets): (usize, usize),
) -> Result<(), Violation> {
    let mut room = Buffers::default();
    let mut packets = Vec::with_capacity(max_packets);
    let mut next = Some(first);
    while let Some(chain) = next {
        let data = chain.writable.after(HEADER_LEN).up_to(MAX_DATA_LEN.min(max_len - room.len()));
        if data.len() == 0 {
            return Err(Violation::NoAnswer);
        }
        data.slices().iter().for_each(|&slice| room.push(slice));
        packets.push((chain, data.len()));
        let full = packets.len() == max_packets || room.len() == max_len;
        next = if full { None } else { queue.pop()? };
    }
    let mut rest = match connection.receive(&room) {
        Received::Bytes(count) => count,
        Received::Nothing => 0,
    };
    let mut unused = 0;
    for (chain, len) in packets {
        let len = len.min(rest);
        rest -= len;
        if len == 0 {
            unused += 1;
        } else {
            send(queue, &chain, connection.data(len as u32))?;
        }
    }
    queue.unpop(unused);
    Ok(())
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    /// None: that means streams only.
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &CONFIG
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.host.poll_fd())
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        let [for_guest, from_guest, events] = queues else { return Ok(Progress::Done) };
        self.notice.advance(events)?;
        let (happened, mut progress) = self.host.events();
        for (token, events) in happened {
            self.stream_event(token, events);
        }
        if self.notice.is_heard() {
            progress = progress.and(self.accept_clients());
        }
        let heard = self.transmit(from_guest)?;
        progress = progress.and(self.fill(for_guest)?);
        // As long as the resets cannot be told, the next call comes with the guest's next buffer.
        Ok(if self.resets.len() < MAX_RESETS { progress.and(heard) } else { progress })
    }

    fn reset(&mut self) {
        self.peers = Peers::default();
        self.resets.clear();
        self.notice = Notice::default();
    }

    fn save(&self) -> Result<serde_json::Value, StateError> {
        let state = VsockState { format: FORMAT, guest_cid: GUEST_CID, next_port: self.peers.next_port() };
        serde_json::to_value(state).map_err(StateError::Device)
    }

    /// Connections do not survive: the guest is told so before it hears of any new one. The listener is another one.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = VsockState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)?;
        if state.guest_cid != GUEST_CID {
            return Err(StateError::Differs("guest CID"));
        }
        // A port is not used again: the guest may still have packets of its old connection under way.
        self.peers = Peers::starting_at(state.next_port).ok_or(StateError::Differs("range of ports"))?;
        self.notice = Notice::Owed;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
