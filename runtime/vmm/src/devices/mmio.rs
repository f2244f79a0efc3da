//! The virtio-mmio transport, version 2 (VirtIO 1.2, section 4.2): registers, negotiation, queues and interrupts.
//! A device behind it is only its own behaviour.
//!
//! Threads: a vCPU reads and writes registers here, under the lock of its transport, and does nothing else: no device is
//! ever called from it. Whatever a register write sets off is done later by the event loop, which `wake` calls. The lock is
//! the only one here, and no transport knows another; that of a throttle is taken under it.

mod events;
mod negotiation;
mod queues;
mod state;

use std::{
    collections::VecDeque,
    io,
    os::fd::{OwnedFd, RawFd},
};

use virtio_bindings::{
    virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1},
    virtio_mmio::*,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) use self::state::{MmioState, StateError};
use self::{
    negotiation::{Negotiation, Step},
    queues::Queues,
};
use super::{AttachError, News, ResizeError, SharedThrottle, VirtioDevice, virtqueue::Violation};
use crate::memory::LiveMemory;

/// Calls that any device behind the transport makes: an eventfd is read for each notification and written for each interrupt.
pub(super) const SYSCALLS: &[libc::c_long] = &[libc::SYS_read, libc::SYS_write, libc::SYS_epoll_ctl];

/// "virt", little-endian (VirtIO 1.2, section 4.2.2).
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "sect": the specification leaves the value free.
const VENDOR: u32 = 0x7463_6573;
const MAX_NEWS: usize = 8;
const CONFIG_SPACE: u64 = VIRTIO_MMIO_CONFIG as u64;
/// What the transport itself offers beside the device's features.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A transport with its device.
pub(crate) struct Mmio {
    /// Which device it is, for people.
    name: String,
    device: Box<dyn VirtioDevice>,
    memory: LiveMemory,
    negotiation: Negotiation,
    queues: Queues,
    /// Grows when the configuration space has changed.
    config_generation: u32,
    /// Bits of InterruptStatus.
    interrupt_status: u32,
    /// The driver has reset us and the device does not know yet.
    reset_owed: bool,
    /// The device has been activated. Only the event loop changes it.
    running: bool,
    /// The device's own descriptor, when the event loop watches it.
    watched: Option<RawFd>,
    interrupt: EventFd,
    /// Calls the event loop.
    wake: EventFd,
    news: VecDeque<News>,
    news_event: EventFd,
}

impl Mmio {
    /// `interrupt` is written for each interrupt, `news_event` when there is something to [take](Mmio::take_news).
    pub(crate) fn new(
        name: String,
        device: Box<dyn VirtioDevice>,
        memory: LiveMemory,
        interrupt: EventFd,
        news_event: EventFd,
    ) -> io::Result<Self> {
        Ok(Self {
            name,
            negotiation: Negotiation::offering(device.features() | TRANSPORT_FEATURES),
            queues: Queues::new(device.queue_sizes())?,
            device,
            memory,
            config_generation: 0,
            interrupt_status: 0,
            reset_owed: false,
            running: false,
            watched: None,
            interrupt,
            wake: EventFd::new(EFD_NONBLOCK)?,
            news: VecDeque::new(),
            news_event,
        })
    }

    /// The notification events of the queues, in their order.
    pub(crate) fn queue_events(&self) -> io::Result<Vec<EventFd>> {
        self.queues.events()
    }

    /// What the event loop should know, oldest first.
    pub(crate) fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Gives the device what the parent has sent for it. The event loop's thread calls this, outside of events.
    pub(crate) fn attach(&mut self, fd: OwnedFd) -> Result<(), AttachError> {
        self.change_device(|device| device.attach(fd))
    }

    /// Takes from the device what it was given. The event loop's thread calls this, outside of events.
    pub(crate) fn detach(&mut self) -> Result<(), AttachError> {
        self.change_device(|device| device.detach())
    }

    /// Holds the device to what others do, too, or frees it. The event loop's thread calls this, outside of events.
    pub(crate) fn throttle(&mut self, throttle: Option<SharedThrottle>) -> Result<(), AttachError> {
        self.change_device(|device| device.throttle(throttle))
    }

    /// A driver that is ready is told when the configuration space is another one afterwards (section 2.5); one that is not yet
    /// has to read it all the same.
    fn change_device<E>(
        &mut self,
        change: impl FnOnce(&mut dyn VirtioDevice) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.device.config().to_vec();
        change(self.device.as_mut())?;
        if self.device.config() != before {
            self.config_generation = self.config_generation.wrapping_add(1);
            if self.negotiation.is_live() {
                self.interrupt(VIRTIO_MMIO_INT_CONFIG);
            }
        }
        self.call_event_loop();
        Ok(())
    }

    /// Asks the driver to have so many bytes of memory beside what the guest was booted with. The event loop's thread calls this,
    /// outside of events.
    pub(crate) fn resize(&mut self, bytes: u64) -> Result<(), ResizeError> {
        self.change_device(|device| device.resize(bytes))
    }

    /// A driver's read in the device's window, of any width. What is no register, or not read as one, is zero.
    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            let config = usize::try_from(offset).ok().and_then(|offset| self.device.config().get(offset..));
            for (byte, &value) in data.iter_mut().zip(config.unwrap_or_default()) {
                *byte = value;
            }
        } else if let (Ok(offset), 4) = (u32::try_from(offset), data.len()) {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    /// A driver's write in the device's window. What is no register, or not written as one, is ignored; so is the
    /// configuration space, since no device has anything to write there.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Ok(value)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            self.set_register(offset, u32::from_le_bytes(value));
        }
    }

    fn register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.kind(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => self.negotiation.offered_half(),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.queues.max_size().into(),
            VIRTIO_MMIO_QUEUE_READY => self.queues.is_ready().into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.negotiation.status(),
            // No shared memory: its length and base read as -1 (section 4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.negotiation.select_offered(value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.negotiation.select_accepted(value),
            VIRTIO_MMIO_DRIVER_FEATURES => self.negotiation.accept_half(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_QUEUE_SEL => self.queues.select(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => self.queues.notify(value),
            VIRTIO_MMIO_QUEUE_READY if value == 0 => self.queues.stop(),
            VIRTIO_MMIO_QUEUE_READY if self.negotiation.takes_queues() => {
                let event_idx = self.negotiation.has_accepted(VIRTIO_RING_F_EVENT_IDX);
                if let Err(violation) = self.queues.start(&self.memory.now(), event_idx) {
                    self.stop_for(violation);
                }
            }
            _ if self.negotiation.takes_queues() => self.queues.set_register(offset, value),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        match self.negotiation.set_status(value) {
            Step::Nothing => {}
            Step::Start => self.call_event_loop(),
            Step::Reset => {
                self.queues.reset();
                self.interrupt_status = 0;
                self.reset_owed = true;
                self.call_event_loop();
            }
        }
    }

    /// The guest has broken the specification: the device stops until a reset, and the event loop learns why.
    fn stop_for(&mut self, violation: Violation) {
        self.negotiation.add_status(VIRTIO_CONFIG_S_NEEDS_RESET);
        self.interrupt(VIRTIO_MMIO_INT_CONFIG);
        self.tell(News::Abuse(format!("{}: {violation}", self.name)));
    }

    /// A guest that breaks the rules faster than anyone listens is not told of each time.
    fn tell(&mut self, news: News) {
        if self.news.len() < MAX_NEWS {
            self.news.push_back(news);
        }
        signal(&self.news_event);
    }

    fn interrupt(&mut self, cause: u32) {
        self.interrupt_status |= cause;
        signal(&self.interrupt);
    }

    fn call_event_loop(&self) {
        signal(&self.wake);
    }
}

impl std::fmt::Debug for Mmio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mmio")
            .field("name", &self.name)
            .field("negotiation", &self.negotiation)
            .finish_non_exhaustive()
    }
}

/// An eventfd refuses a write only when its counter is full, and then its reader has been called already.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
mod tests;
