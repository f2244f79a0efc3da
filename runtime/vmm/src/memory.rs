//! The guest's memory: anonymous, backed as it is touched, and absent from core dumps.
//!
//! What a guest gets while it runs comes in chunks. Each is a mapping and a memslot of its own, made when its first block is plugged:
//! one slot for all that might come would let a guest use what it has not plugged, and would cost the host tables for it (KVM keeps 4
//! bytes for each 2 MiB of a slot, and where it tracks writes or pages shadow 2 to 10 for each 4 KiB).
//!
//! Locks: one around the list of regions, held for as long as it takes to copy a pointer.

mod chunks;
mod private;
mod sys;

use std::{
    fs::File,
    io,
    sync::{Arc, PoisonError, RwLock},
};

use kvm_ioctls::VmFd;
use securectr_vmm::spec::Expected;
use thiserror::Error;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend,
    mmap::{FromRangesError, MmapRegionError},
};

pub(crate) use self::{
    chunks::{CHUNK_LEN, Chunks, Room},
    private::bring,
};
use crate::arch;

pub(crate) type GuestMemory = vm_memory::GuestMemoryMmap<()>;

pub(crate) const MIB: u64 = 1024 * 1024;

#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("map {0} MiB of guest memory")]
    Map(u32, #[source] FromRangesError),
    #[error("map the file with the guest's memory")]
    File(#[source] io::Error),
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

/// What a guest's memory is made of.
pub(crate) enum Backing {
    /// No page of it is backed yet.
    Anonymous,
    /// What is written is in the file.
    Shared(File),
    /// What is written is not.
    Private(File, Expected),
}

/// Maps the memory of a guest.
pub(crate) fn allocate(memory_mib: u32, backing: Backing) -> Result<GuestMemory, MemoryError> {
    let ranges = arch::memory_ranges(u64::from(memory_mib) * MIB);
    let memory = match &backing {
        Backing::Shared(file) => shared(&ranges, file),
        Backing::Anonymous | Backing::Private(..) => GuestMemory::from_ranges(&ranges),
    };
    let memory = memory.map_err(|error| MemoryError::Map(memory_mib, error))?;
    if let Backing::Private(file, expected) = &backing {
        private::lay(&memory, file).map_err(MemoryError::File)?;
        if *expected == Expected::Unknown {
            private::map_alone(&memory, file);
        }
    }
    for region in memory.iter() {
        sys::keep_out_of_core_dumps(region).map_err(MemoryError::CoreDump)?;
    }
    Ok(memory)
}

/// The ranges lie behind each other in the file, which has all of them: what is mapped beyond its end kills who touches it.
fn shared(ranges: &[(GuestAddress, usize)], file: &File) -> Result<GuestMemory, FromRangesError> {
    let file = Arc::new(file.try_clone().map_err(MmapRegionError::Mmap)?);
    let mut start = 0;
    let with_file = ranges.iter().map(|&(address, len)| {
        let offset = FileOffset::from_arc(Arc::clone(&file), start);
        start += len as u64;
        (address, len, Some(offset))
    });
    GuestMemory::from_ranges_with_files(with_file)
}

/// Makes each region a memslot of the VM. The memory must live as long as the VM's vCPUs run.
pub(crate) fn give_to_vm(vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        sys::set_memslot(vm, slot, region).map_err(|error| MemoryError::Memslot(slot, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use vm_memory::Bytes;

    use super::*;

    const PLACE: GuestAddress = GuestAddress(0x5000);

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * MIB).unwrap();
        file
    }

    fn written(backing: impl FnOnce(File) -> Backing) -> ([u8; 4], u64) {
        let file = file();
        file.write_all_at(b"seen", PLACE.0 + 8).unwrap();
        let memory = allocate(2, backing(file.try_clone().unwrap())).unwrap();
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(PLACE.0 + 8)).unwrap(), *b"seen");
        memory.write_slice(b"said", PLACE).unwrap();
        let mut found = [0; 4];
        file.read_exact_at(&mut found, PLACE.0).unwrap();
        (found, file.metadata().unwrap().len())
    }

    #[test]
    fn a_shared_file_has_what_the_guest_writes_and_a_private_one_has_not() {
        assert_eq!(written(Backing::Shared), (*b"said", 2 * MIB));
        assert_eq!(written(|file| Backing::Private(file, Expected::Unknown)), ([0; 4], 2 * MIB));
    }

    #[test]
    fn a_file_that_is_shorter_than_the_memory_is_refused() {
        let short = Backing::Private(file(), Expected::Unknown);
        assert!(matches!(allocate(3, short), Err(MemoryError::File(_))));
    }
}
