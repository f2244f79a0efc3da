//! Memory that comes while the guest runs, in chunks.

use std::{io, ops::Range, sync::Arc};

use kvm_ioctls::VmFd;
use securectr_vmm::spec::HOTPLUG_CHUNK_MIB;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestRegionMmap, GuestUsize};

use super::{LiveMemory, MIB, sys};

/// In bytes.
pub(crate) const CHUNK_LEN: u64 = HOTPLUG_CHUNK_MIB as u64 * MIB;

/// What the host does when memory comes and goes. Chunks are told by their number, and are closed at first.
pub(crate) trait Chunks: Send {
    /// The guest finds memory there from now on, all zeroes.
    fn open(&mut self, chunk: usize) -> io::Result<()>;

    /// The guest finds nothing there any more.
    fn close(&mut self, chunk: usize) -> io::Result<()>;

    /// What is in these bytes of an open chunk is forgotten, and does not cost anything until it is touched again.
    fn discard(&mut self, chunk: usize, range: &Range<u64>) -> io::Result<()>;
}

/// Where chunks come: a part of the guest's address space, behind all that it was booted with.
pub(crate) struct Room {
    vm: Arc<VmFd>,
    memory: LiveMemory,
    start: GuestAddress,
    first_slot: u32,
}

impl Room {
    /// The memslots from that of the last region on are free.
    pub(crate) fn new(vm: &Arc<VmFd>, memory: &LiveMemory, start: GuestAddress) -> Self {
        // A guest is booted with two regions at most.
        let first_slot = memory.now().num_regions() as u32;
        Self { vm: Arc::clone(vm), memory: memory.clone(), start, first_slot }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start.raw_value()
    }

    fn place(&self, chunk: usize) -> GuestAddress {
        self.start.unchecked_add(chunk as u64 * CHUNK_LEN)
    }

    /// A machine has fewer chunks than KVM has slots, whose numbers fit.
    fn slot(&self, chunk: usize) -> u32 {
        self.first_slot + chunk as u32
    }
}

impl Chunks for Room {
    fn open(&mut self, chunk: usize) -> io::Result<()> {
        let region = GuestRegionMmap::from_range(self.place(chunk), CHUNK_LEN as usize, None);
        let region = Arc::new(region.map_err(io::Error::other)?);
        sys::keep_out_of_core_dumps(&region)?;
        let more = self.memory.now().insert_region(Arc::clone(&region)).map_err(io::Error::other)?;
        sys::set_memslot(&self.vm, self.slot(chunk), &region)?;
        self.memory.set(more);
        Ok(())
    }

    fn close(&mut self, chunk: usize) -> io::Result<()> {
        let place = (self.place(chunk), CHUNK_LEN as GuestUsize);
        let (less, _region) = self.memory.now().remove_region(place.0, place.1).map_err(io::Error::other)?;
        // Before the mapping goes.
        sys::remove_memslot(&self.vm, self.slot(chunk))?;
        self.memory.set(less);
        Ok(())
    }

    fn discard(&mut self, chunk: usize, range: &Range<u64>) -> io::Result<()> {
        let memory = self.memory.now();
        let region = memory.find_region(self.place(chunk)).ok_or(io::ErrorKind::NotFound)?;
        sys::discard(region, &(range.start as usize..range.end as usize))
    }
}
