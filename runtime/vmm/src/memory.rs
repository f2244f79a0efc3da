//! The guest's memory: anonymous but for what was saved of another's, backed as it is touched, and absent from core dumps.
//!
//! What a guest gets while it runs comes in chunks. Each is a mapping and a memslot of its own, made when its first block is plugged:
//! one slot for all that might come would let a guest use what it has not plugged, and would cost the host tables for it (KVM keeps 4
//! bytes for each 2 MiB of a slot, and where it tracks writes or pages shadow 2 to 10 for each 4 KiB).
//!
//! Locks: one around the list of regions, held for as long as it takes to copy a pointer.

mod chunks;
mod saved;
mod sys;
mod used;

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use kvm_ioctls::VmFd;
use securectr_vmm::spec::PAGE_LEN;
use thiserror::Error;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, mmap::FromRangesError};

pub(crate) use self::{
    chunks::{CHUNK_LEN, Chunks, Room},
    saved::{bring, lay, save},
    used::{PageMap, Used},
};
use crate::arch;

pub(crate) type GuestMemory = vm_memory::GuestMemoryMmap<()>;

pub(crate) const MIB: u64 = 1024 * 1024;

#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("map {0} MiB of guest memory")]
    Map(u32, #[source] FromRangesError),
    #[error("map what was saved of the guest's memory")]
    Saved(#[source] io::Error),
    #[error("keep guest memory out of core dumps")]
    CoreDump(#[source] io::Error),
    #[error("make memslot {0}")]
    Memslot(u32, #[source] kvm_ioctls::Error),
}

/// The guest's memory as it is now, the same for all that have a copy.
#[derive(Clone, Debug)]
pub(crate) struct LiveMemory(Arc<RwLock<Arc<GuestMemory>>>);

impl LiveMemory {
    pub(crate) fn new(memory: GuestMemory) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(memory))))
    }

    /// What is in it stays mapped as long as the answer is held.
    pub(crate) fn now(&self) -> Arc<GuestMemory> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, memory: GuestMemory) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(memory);
    }
}

/// Maps the memory of a guest, no page of which is backed yet.
pub(crate) fn allocate(memory_mib: u32) -> Result<GuestMemory, MemoryError> {
    let ranges = arch::memory_ranges(u64::from(memory_mib) * MIB);
    let memory = GuestMemory::from_ranges(&ranges).map_err(|error| MemoryError::Map(memory_mib, error))?;
    for region in memory.iter() {
        sys::keep_out_of_core_dumps(region).map_err(MemoryError::CoreDump)?;
    }
    Ok(memory)
}

/// The host has the whole pages of this range back; what the guest finds there is undefined. All of the range must be memory.
pub(crate) fn discard(memory: &GuestMemory, address: GuestAddress, len: usize) -> io::Result<()> {
    let page_len = PAGE_LEN as usize;
    let (mut address, mut rest) = (address, len);
    while rest > 0 {
        let region = memory.find_region(address).ok_or(io::ErrorKind::NotFound)?;
        let start = (address.raw_value() - region.start_addr().raw_value()) as usize;
        let here = rest.min(region.size() - start);
        let pages = start.next_multiple_of(page_len)..(start + here) / page_len * page_len;
        if !pages.is_empty() {
            sys::discard(region, &pages)?;
        }
        address = address.unchecked_add(here as u64);
        rest -= here;
    }
    Ok(())
}

/// Makes each region a memslot of the VM. The memory must live as long as the VM's vCPUs run.
pub(crate) fn give_to_vm(vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        sys::set_memslot(vm, slot, region).map_err(|error| MemoryError::Memslot(slot, error))?;
    }
    Ok(())
}
