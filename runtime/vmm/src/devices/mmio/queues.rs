//! The queues of a device while the driver sets them up (VirtIO 1.2, section 4.2.3.2). What the driver writes is kept as it
//! came, and checked as a whole when the queue is made ready.

use std::io;

use virtio_bindings::virtio_mmio::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    signal,
    state::{QueueState, StateError},
};
use crate::devices::virtqueue::{Violation, Virtqueue};

/// The driver's answer to "where is the queue", not yet looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Allegation {
    size: u32,
    descriptors: u64,
    driver_area: u64,
    device_area: u64,
}

#[derive(Debug)]
struct Slot {
    alleged: Allegation,
    queue: Queue,
    event: EventFd,
}

#[derive(Debug)]
pub(super) struct Queues {
    selected: u32,
    slots: Vec<Slot>,
}

impl Queues {
    pub(super) fn new(max_sizes: &[u16]) -> io::Result<Self> {
        let slot = |&max_size: &u16| {
            let queue = Queue::new(max_size).map_err(io::Error::other)?;
            Ok(Slot { alleged: Allegation::default(), queue, event: EventFd::new(EFD_NONBLOCK)? })
        };
        Ok(Self { selected: 0, slots: max_sizes.iter().map(slot).collect::<io::Result<_>>()? })
    }

    pub(super) fn events(&self) -> io::Result<Vec<EventFd>> {
        self.slots.iter().map(|slot| slot.event.try_clone()).collect()
    }

    pub(super) fn event(&self, index: usize) -> Option<&EventFd> {
        self.slots.get(index).map(|slot| &slot.event)
    }

    /// As the device works with them.
    pub(super) fn virtqueues<'m>(&'m mut self, memory: &'m GuestMemoryMmap) -> Vec<Virtqueue<'m>> {
        self.slots.iter_mut().map(|slot| Virtqueue::new(&mut slot.queue, memory)).collect()
    }

    pub(super) fn reset(&mut self) {
        self.selected = 0;
        for slot in &mut self.slots {
            slot.alleged = Allegation::default();
            slot.queue.reset();
        }
    }

    pub(super) fn select(&mut self, index: u32) {
        self.selected = index;
    }

    /// Zero for a queue that does not exist.
    pub(super) fn max_size(&self) -> u16 {
        self.selected().map_or(0, |slot| slot.queue.max_size())
    }

    pub(super) fn is_ready(&self) -> bool {
        self.selected().is_some_and(|slot| slot.queue.ready())
    }

    pub(super) fn stop(&mut self) {
        if let Some(slot) = self.selected_mut() {
            slot.queue.set_ready(false);
        }
    }

    /// Makes the selected queue ready, if it is one that can be.
    pub(super) fn start(&mut self, memory: &GuestMemoryMmap, event_idx: bool) -> Result<(), Violation> {
        match self.selected_mut() {
            Some(slot) if !slot.queue.ready() => slot.start(memory, event_idx),
            _ => Ok(()),
        }
    }

    /// A notification that did not come by the queue's event.
    pub(super) fn notify(&self, index: u32) {
        if let Some(event) = usize::try_from(index).ok().and_then(|index| self.event(index)) {
            signal(event);
        }
    }

    pub(super) fn set_register(&mut self, offset: u32, value: u32) {
        let Some(slot) = self.selected_mut().filter(|slot| !slot.queue.ready()) else { return };
        let alleged = &mut slot.alleged;
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => alleged.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut alleged.descriptors, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut alleged.descriptors, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut alleged.driver_area, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut alleged.driver_area, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut alleged.device_area, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut alleged.device_area, value),
            _ => {}
        }
    }

    pub(super) fn saved(&self) -> (u32, Vec<QueueState>) {
        let state = |slot: &Slot| QueueState {
            size: slot.alleged.size,
            descriptors: slot.alleged.descriptors,
            driver_area: slot.alleged.driver_area,
            device_area: slot.alleged.device_area,
            ready: slot.queue.ready(),
            next_available: slot.queue.next_avail(),
            next_used: slot.queue.next_used(),
        };
        (self.selected, self.slots.iter().map(state).collect())
    }

    /// Takes up saved queues, with the same checks as a driver's.
    pub(super) fn resume(
        &mut self,
        selected: u32,
        saved: &[QueueState],
        memory: &GuestMemoryMmap,
        event_idx: bool,
    ) -> Result<(), StateError> {
        if saved.len() != self.slots.len() {
            return Err(StateError::QueueCount { saved: saved.len(), own: self.slots.len() });
        }
        self.selected = selected;
        for (index, (slot, state)) in self.slots.iter_mut().zip(saved).enumerate() {
            slot.alleged = Allegation {
                size: state.size,
                descriptors: state.descriptors,
                driver_area: state.driver_area,
                device_area: state.device_area,
            };
            if state.ready {
                slot.start(memory, event_idx).map_err(|violation| StateError::Queue(index, violation))?;
                slot.queue.set_next_avail(state.next_available);
                slot.queue.set_next_used(state.next_used);
            }
        }
        Ok(())
    }

    fn selected(&self) -> Option<&Slot> {
        self.slots.get(usize::try_from(self.selected).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(self.selected).ok()?)
    }
}

impl Slot {
    fn start(&mut self, memory: &GuestMemoryMmap, event_idx: bool) -> Result<(), Violation> {
        let started = self.configure(event_idx).is_some() && self.queue.is_valid(memory);
        if !started {
            self.queue.reset();
            return Err(Violation::QueueSetUp);
        }
        Ok(())
    }

    fn configure(&mut self, event_idx: bool) -> Option<()> {
        let queue = &mut self.queue;
        queue.try_set_size(u16::try_from(self.alleged.size).ok()?).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.alleged.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.alleged.driver_area)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.alleged.device_area)).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Some(())
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}
