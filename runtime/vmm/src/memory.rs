//! The guest's memory: anonymous, backed as it is touched, and absent from core dumps.

mod sys;

use std::io;

use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, mmap::FromRangesError};

use crate::arch;

pub(crate) type GuestMemory = vm_memory::GuestMemoryMmap<()>;

const MIB: u64 = 1024 * 1024;

#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("map {0} MiB of guest memory")]
    Map(u32, #[source] FromRangesError),
    #[error("keep guest memory out of core dumps")]
    CoreDump(#[source] io::Error),
    #[error("make memslot {0}")]
    Memslot(u32, #[source] kvm_ioctls::Error),
}

/// Maps the memory of a guest; no page of it is backed yet.
pub(crate) fn allocate(memory_mib: u32) -> Result<GuestMemory, MemoryError> {
    let ranges = arch::memory_ranges(u64::from(memory_mib) * MIB);
    let memory = GuestMemory::from_ranges(&ranges).map_err(|error| MemoryError::Map(memory_mib, error))?;
    for region in memory.iter() {
        sys::keep_out_of_core_dumps(region).map_err(MemoryError::CoreDump)?;
    }
    Ok(memory)
}

/// Makes each region a memslot of the VM. The memory must live as long as the VM's vCPUs run.
pub(crate) fn give_to_vm(vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        sys::set_memslot(vm, slot, region).map_err(|error| MemoryError::Memslot(slot, error))?;
    }
    Ok(())
}
