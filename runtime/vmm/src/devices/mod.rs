//! The devices of a machine. Each is one file and one line in [`build`]; the transport before it is [`mmio`].

mod balloon;
mod block;
mod fs;
mod mem;
mod mmio;
mod net;
mod rng;
mod sys;
mod virtqueue;
mod vsock;

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
    sync::{Arc, Mutex},
};

use securectr_vmm::spec::VmSpec;
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::virtqueue::{Violation, Virtqueue};
pub(crate) use self::{
    block::{SharedThrottle, Throttles},
    mem::IOCTL as MEM_IOCTL,
    mmio::{Mmio, MmioState, StateError},
    net::IOCTLS as NET_IOCTLS,
};
use crate::{
    descriptors::{DescriptorError, Descriptors},
    memory::{LiveMemory, Room},
};

/// What each part needs of the kernel in the event loop's thread while the guest runs.
pub(crate) const SYSCALLS: &[(&str, &[libc::c_long])] = &[
    ("virtio-mmio", mmio::SYSCALLS),
    ("virtio-blk", block::SYSCALLS),
    ("virtio-net", net::SYSCALLS),
    ("virtio-fs", fs::SYSCALLS),
    ("virtio-vsock", vsock::SYSCALLS),
    ("virtio-rng", rng::SYSCALLS),
    ("virtio-balloon", balloon::SYSCALLS),
    ("virtio-mem", mem::SYSCALLS),
];

/// What [`Mmio::read`] and [`Mmio::write`] need of the kernel in a vCPU's thread: they write an eventfd, and wait for the lock.
pub(crate) const VCPU_SYSCALLS: &[libc::c_long] = &[libc::SYS_write, libc::SYS_futex];

/// A device, built and not yet known to KVM.
pub(crate) struct DeviceSlot {
    pub(crate) transport: Arc<Mutex<Mmio>>,
    /// Edge-triggered, for an irqfd.
    pub(crate) interrupt: EventFd,
    /// One a queue, for an ioeventfd on QueueNotify with the queue's index.
    pub(crate) queue_events: Vec<EventFd>,
}

/// What a device has to say beyond its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The guest has driven the device against the specification: which, and how. The device has stopped.
    Abuse(String),
    /// The host's disk has no room for what the guest wrote; the guest was told of an input/output error. Said once.
    DiskFull(String),
    /// What the guest has beside the memory that it was booted with, and what was asked for, in bytes.
    Memory { plugged: u64, requested: u64 },
    /// The device cannot do its work, through no fault of the guest.
    Failure(String),
}

impl News {
    fn about(self, name: &str) -> Self {
        match self {
            Self::Abuse(text) => Self::Abuse(format!("{name}: {text}")),
            Self::DiskFull(text) => Self::DiskFull(format!("{name}: {text}")),
            memory @ Self::Memory { .. } => memory,
            Self::Failure(text) => Self::Failure(format!("{name}: {text}")),
        }
    }
}

/// Whether a device has done all that it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits for the driver or for one of its descriptors.
    Done,
    /// It has used up its share of time and wants to be called again.
    More,
}

impl Progress {
    /// Of two kinds of work.
    fn and(self, other: Self) -> Self {
        if self == Self::More { self } else { other }
    }
}

/// The behaviour of a device. All is called from the event loop, except `kind` and `config`, which vCPUs ask for at any time.
/// A device may not wait for anything, must leave its queues alone outside of `process`, and must bound what it does in one call.
pub(crate) trait VirtioDevice: Send {
    /// Device id (VirtIO 1.2, section 5).
    fn kind(&self) -> u32;

    /// The device's own feature bits, the same at all times; those of the transport and of queues are not its business.
    fn features(&self) -> u64;

    /// The greatest size of each queue, powers of two, the same at all times.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space, of the same length at all times. Nothing but [`attach`](Self::attach), [`detach`](Self::detach) and
    /// [`resize`](Self::resize) changes it, but for what tells the driver of its own requests.
    fn config(&self) -> &[u8];

    /// A descriptor that becomes readable when the device has work that no queue announces. Asked for after each call, and
    /// watched between `activate` and `reset`.
    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    /// The driver is ready, and `features` have been agreed to. Queues may be ready or not. Comes once between resets.
    fn activate(&mut self, features: u64) -> io::Result<()>;

    /// Does what there is to do; there may be nothing. The device is active; `queues` are all of its queues, in their order.
    /// Afterwards the transport sends the interrupt that the driver wants. After an error it is not called until a reset.
    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation>;

    /// Back to the state before `activate`. The queues are gone already; chains that were popped must be forgotten.
    fn reset(&mut self);

    /// Takes what the parent has sent for it after the start.
    fn attach(&mut self, _: OwnedFd) -> Result<(), AttachError> {
        Err(AttachError::Impossible)
    }

    /// Gives up what [`attach`](Self::attach) took, or what it was made with.
    fn detach(&mut self) -> Result<(), AttachError> {
        Err(AttachError::Impossible)
    }

    /// Holds it to what others that have the same throttle do, too; without one it is free.
    fn throttle(&mut self, _: Option<SharedThrottle>) -> Result<(), AttachError> {
        Err(AttachError::Impossible)
    }

    /// Changes what is asked of the driver: how much memory it is to have, in bytes, beside what the guest was booted with.
    fn resize(&mut self, _: u64) -> Result<(), ResizeError> {
        Err(ResizeError::Impossible)
    }

    /// What the device has to say; asked after each call.
    fn take_news(&mut self) -> Option<News> {
        None
    }

    /// The device's own state, at rest.
    fn save(&self) -> Result<serde_json::Value, StateError>;

    /// Takes up a saved state, which is hostile. Comes before `activate`, on a fresh device of the same kind.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError>;
}

#[derive(Debug, Error)]
pub(crate) enum DeviceError {
    #[error("take a descriptor of a device")]
    Descriptor(#[from] DescriptorError),
    #[error("disk {0}")]
    Disk(usize, #[source] block::DiskError),
    #[error("network interface {0}")]
    Net(usize, #[source] net::NetError),
    #[error("file system {0:?}")]
    Fs(String, #[source] fs::FsError),
    #[error("virtio-vsock")]
    Vsock(#[source] vsock::VsockError),
    #[error("make the transport of {0}")]
    Transport(String, #[source] io::Error),
}

#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("this kind of device takes nothing while it runs")]
    Impossible,
    #[error("plug in a network interface")]
    Net(#[source] net::NetError),
    #[error("fill an empty disk")]
    Disk(#[source] block::DiskError),
}

#[derive(Debug, Error)]
pub(crate) enum ResizeError {
    #[error("this kind of device has no memory")]
    Impossible,
    #[error("{asked} bytes of memory are more than the {most} there is room for, or no multiple of a block")]
    Size { asked: u64, most: u64 },
}

/// What devices are made of, beside what the spec names.
pub(crate) struct Parts<'a> {
    pub(crate) memory: &'a LiveMemory,
    /// Where more memory goes, when there is room for it.
    pub(crate) room: Option<Room>,
    pub(crate) throttles: &'a mut Throttles,
}

/// Builds the devices that the spec asks for: disks, network interfaces and file systems in their order, vsock, rng, balloon, and memory
/// when there is room for more. `news` is written when a transport has something to [tell](Mmio::take_news).
pub(crate) fn build(
    spec: &VmSpec,
    descriptors: &mut Descriptors,
    parts: Parts<'_>,
    news: &EventFd,
) -> Result<Vec<DeviceSlot>, DeviceError> {
    let Parts { memory, room, throttles } = parts;
    let mut devices: Vec<(String, Box<dyn VirtioDevice>)> = Vec::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let file = disk.file.map(|file| descriptors.take(file)).transpose()?;
        let throttle = disk.limits.map(|limits| throttles.get(limits));
        let block = block::Block::new(file.map(Into::into), disk.read_only, index)
            .and_then(|block| block.throttled(throttle));
        devices.push((
            format!("virtio-blk {index}"),
            Box::new(block.map_err(|error| DeviceError::Disk(index, error))?),
        ));
    }
    for (index, spec) in spec.nets.iter().enumerate() {
        let other_end = spec.wire.map(|wire| descriptors.take(wire.fd())).transpose()?;
        let net = net::Net::new(spec.wire.zip(other_end), spec.mac, spec.mtu);
        let net = net.map_err(|error| DeviceError::Net(index, error))?;
        devices.push((format!("virtio-net {index}"), Box::new(net)));
    }
    for spec in &spec.filesystems {
        let fs = fs::Fs::new(&spec.tag, descriptors.take(spec.server)?);
        let fs = fs.map_err(|error| DeviceError::Fs(spec.tag.clone(), error))?;
        devices.push((format!("virtio-fs {}", spec.tag), Box::new(fs)));
    }
    devices.push(("virtio-vsock".to_owned(), Box::new(vsock::Vsock::open(&spec.vsock, descriptors)?)));
    devices.push(("virtio-rng".to_owned(), Box::new(rng::Rng)));
    devices.push(("virtio-balloon".to_owned(), Box::new(balloon::Balloon)));
    if let Some(room) = room {
        let mem = mem::Mem::new(room.start(), spec.hotplug_mib, Box::new(room));
        devices.push(("virtio-mem".to_owned(), Box::new(mem)));
    }
    devices.into_iter().map(|(name, device)| slot(name, device, memory, news)).collect()
}

fn slot(
    name: String,
    device: Box<dyn VirtioDevice>,
    memory: &LiveMemory,
    news: &EventFd,
) -> Result<DeviceSlot, DeviceError> {
    let build = || -> io::Result<DeviceSlot> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        let transport =
            Mmio::new(name.clone(), device, memory.clone(), interrupt.try_clone()?, news.try_clone()?)?;
        let queue_events = transport.queue_events()?;
        Ok(DeviceSlot { transport: Arc::new(Mutex::new(transport)), interrupt, queue_events })
    };
    build().map_err(|error| DeviceError::Transport(name.clone(), error))
}

#[cfg(test)]
mod testing;
