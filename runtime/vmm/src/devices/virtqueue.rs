//! A virtqueue as a device sees it, and the descriptor chains in it (VirtIO 1.2, section 2.7).
//!
//! A [`Chain`] is walked once: what a device works with are pieces of guest memory that exist, in an order that the
//! specification allows, and no more of them than the queue is long. Their content still changes under our hands.

use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions, VolatileSlice};

use crate::memory;

/// The used ring (section 2.7.8): flags and index, then elements of a head and a length.
const USED_HEADER_LEN: u64 = 4;
const USED_ELEMENT_LEN: u64 = 8;

/// What a guest did against the specification, so that its device cannot go on until it is reset.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Violation {
    #[error("a queue was made ready whose size or addresses are not possible")]
    QueueSetUp,
    #[error("the available ring ran ahead of the queue")]
    AvailableRing,
    #[error("the used ring cannot be written")]
    UsedRing,
    #[error("a descriptor chain is broken, endless, or longer than its queue")]
    Chain,
    #[error("a descriptor points outside of the guest's memory")]
    Address,
    #[error("a descriptor chain has something to read after something to write")]
    Order,
    #[error("a request has no room for its answer")]
    NoAnswer,
    #[error("a request is shorter than its header")]
    NoHeader,
}

/// Pieces of guest memory that are read or written as one run of bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Buffers<'m> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    pub(crate) fn push(&mut self, slice: VolatileSlice<'m>) {
        if !slice.is_empty() {
            self.len += slice.len();
            self.slices.push(slice);
        }
    }

    fn extend(
        &mut self,
        memory: &'m GuestMemoryMmap,
        (address, len): (GuestAddress, usize),
        access: Permissions,
    ) -> Result<(), Violation> {
        for slice in memory.get_slices(address, len, access).map_err(|_| Violation::Address)? {
            self.push(slice.map_err(|_| Violation::Address)?);
        }
        Ok(())
    }

    /// The first `at` bytes and the rest; `None` when there are fewer.
    pub(crate) fn split_at(&self, at: usize) -> Option<(Self, Self)> {
        let (mut first, mut rest) = (Self::default(), Self::default());
        let mut wanted = at;
        for slice in &self.slices {
            let here = wanted.min(slice.len());
            let (before, after) = slice.split_at(here).ok()?;
            first.push(before);
            rest.push(after);
            wanted -= here;
        }
        (wanted == 0).then_some((first, rest))
    }

    /// At most the first `len` bytes.
    pub(crate) fn up_to(&self, len: usize) -> Self {
        self.split_at(len.min(self.len)).map_or_else(Self::default, |(first, _)| first)
    }

    /// All but the first `len` bytes; nothing when there are fewer.
    pub(crate) fn after(&self, len: usize) -> Self {
        self.split_at(len).map_or_else(Self::default, |(_, rest)| rest)
    }

    /// Copies the beginning into `bytes`; returns how many were copied.
    pub(crate) fn read(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let Some(room) = bytes.get_mut(done..).filter(|room| !room.is_empty()) else { break };
            done += slice.copy_to(room);
        }
        done
    }

    /// Copies `bytes` to the beginning, as far as there is room; returns how many were copied.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) else { break };
            let here = rest.len().min(slice.len());
            slice.copy_from(rest.get(..here).unwrap_or_default());
            done += here;
        }
        done
    }
}

/// Where pieces of guest memory lie, for a device that comes back to them in a later call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Vec<(GuestAddress, usize)>);

/// One request of the driver.
#[derive(Debug)]
pub(crate) struct Chain<'m> {
    /// Names the chain in the used ring.
    pub(crate) head: u16,
    /// What the driver tells the device.
    pub(crate) readable: Buffers<'m>,
    /// Where the device answers.
    pub(crate) writable: Buffers<'m>,
    /// The same, for an answer that takes its time.
    pub(crate) places: Places,
}

impl<'m> Chain<'m> {
    fn walk(
        memory: &'m GuestMemoryMmap,
        descriptors: DescriptorChain<&'m GuestMemoryMmap>,
        max_len: usize,
    ) -> Result<Self, Violation> {
        let mut chain = Self {
            head: descriptors.head_index(),
            readable: Buffers::default(),
            writable: Buffers::default(),
            places: Places::default(),
        };
        let mut ends = false;
        // The iterator stops at its own limit, at a bad index and at an unreadable table alike: only the last descriptor
        // says whether that was the end. One more than allowed tells a chain that is too long.
        for (position, descriptor) in descriptors.enumerate() {
            if position >= max_len {
                return Err(Violation::Chain);
            }
            ends = !descriptor.has_next();
            let (buffers, access) = if descriptor.is_write_only() {
                chain.places.0.push((descriptor.addr(), descriptor.len() as usize));
                (&mut chain.writable, Permissions::Write)
            } else if chain.writable.len() > 0 {
                return Err(Violation::Order);
            } else {
                (&mut chain.readable, Permissions::Read)
            };
            buffers.extend(memory, (descriptor.addr(), descriptor.len() as usize), access)?;
        }
        if ends { Ok(chain) } else { Err(Violation::Chain) }
    }
}

/// A queue in the hands of its device.
#[derive(Debug)]
pub(crate) struct Virtqueue<'m> {
    queue: &'m mut Queue,
    memory: &'m GuestMemoryMmap,
    /// Something was pushed, and the driver has not been asked yet whether it wants to know.
    pushed: bool,
    /// Several of them at once.
    pushed_together: bool,
}

impl<'m> Virtqueue<'m> {
    pub(crate) fn new(queue: &'m mut Queue, memory: &'m GuestMemoryMmap) -> Self {
        Self { queue, memory, pushed: false, pushed_together: false }
    }

    /// The next chain. After `None` the driver will announce the next one.
    pub(crate) fn pop(&mut self) -> Result<Option<Chain<'m>>, Violation> {
        if !self.queue.ready() {
            return Ok(None);
        }
        // Twice: a chain may have come while the driver was asked to announce the next one.
        for _ in 0..2 {
            let next = self.queue.iter(self.memory).map_err(|_| Violation::AvailableRing)?.next();
            if let Some(descriptors) = next {
                return Chain::walk(self.memory, descriptors, usize::from(self.queue.max_size())).map(Some);
            }
            if !self.queue.enable_notification(self.memory).map_err(|_| Violation::UsedRing)? {
                return Ok(None);
            }
        }
        Err(Violation::AvailableRing)
    }

    /// The writable pieces of a chain that was popped and not pushed.
    pub(crate) fn buffers_at(&self, places: &Places) -> Result<Buffers<'m>, Violation> {
        let mut buffers = Buffers::default();
        for &place in &places.0 {
            buffers.extend(self.memory, place, Permissions::Write)?;
        }
        Ok(buffers)
    }

    /// Gives the host back the whole pages of a chain that was popped and not pushed.
    pub(crate) fn discard(&self, places: &Places) -> Result<(), Violation> {
        places.0.iter().try_for_each(|&(address, len)| {
            memory::discard(self.memory, address, len).map_err(|_| Violation::Address)
        })
    }

    /// Puts the last `count` chains back that were popped and not pushed.
    pub(crate) fn unpop(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Returns a chain to the driver, with the number of bytes written into it.
    pub(crate) fn push(&mut self, head: u16, written: u32) -> Result<(), Violation> {
        self.pushed = true;
        self.queue.add_used(self.memory, head, written).map_err(|_| Violation::UsedRing)
    }

    /// Returns several chains, with the bytes written into each, so that the driver finds all of them or none.
    pub(crate) fn push_together(&mut self, chains: &[(u16, u32)]) -> Result<(), Violation> {
        let Some((&(last, last_written), before)) = chains.split_last() else { return Ok(()) };
        let first = self.queue.next_used();
        // Elements behind the index that the driver sees; the last one moves it.
        for (offset, &(head, written)) in (0_u16..).zip(before) {
            let position = first.wrapping_add(offset).checked_rem(self.queue.size()).unwrap_or(0);
            let place = self.queue.used_ring() + USED_HEADER_LEN + u64::from(position) * USED_ELEMENT_LEN;
            let element = u64::from(head) | u64::from(written) << 32;
            self.memory.write_obj(element.to_le(), GuestAddress(place)).map_err(|_| Violation::UsedRing)?;
        }
        self.queue.set_next_used(first.wrapping_add(before.len() as u16));
        self.push(last, last_written)?;
        // The crate has counted one of them: it cannot tell whether the driver waits for one of the others.
        self.pushed_together |= !before.is_empty();
        Ok(())
    }

    /// The driver's index of the available ring: how many chains it has ever given, modulo 2^16.
    pub(crate) fn given(&self) -> Result<u16, Violation> {
        let index = self.queue.avail_idx(self.memory, Ordering::Acquire);
        index.map(|index| index.0).map_err(|_| Violation::AvailableRing)
    }

    /// Whether the driver wants an interrupt for what was pushed since it was last asked.
    pub(crate) fn wants_interrupt(&mut self) -> Result<bool, Violation> {
        if !std::mem::take(&mut self.pushed) {
            return Ok(false);
        }
        let wants = self.queue.needs_notification(self.memory).map_err(|_| Violation::AvailableRing)?;
        Ok(wants || std::mem::take(&mut self.pushed_together))
    }
}
