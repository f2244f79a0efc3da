//! What is done to guest memory by address.

use std::{io, ops::Range};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

/// madvise(2), MADV_DONTDUMP.
pub(super) fn keep_out_of_core_dumps(region: &GuestRegionMmap) -> io::Result<()> {
    // SAFETY: the range is one mapping, alive as long as `region`; this advice does not change its content.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_DONTDUMP) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// madvise(2), MADV_DONTNEED: the host has these pages back, and the guest reads zeroes. `range` is in bytes from the region's start.
pub(super) fn discard(region: &GuestRegionMmap, range: &Range<usize>) -> io::Result<()> {
    let place = region.get_host_address(MemoryRegionAddress(range.start as u64)).map_err(io::Error::other)?;
    let len = range.len().min(region.size() - range.start);
    // SAFETY: the range is within one anonymous mapping, alive as long as `region`. Its content changes, as it may at any time: Rust
    // sees it only through vm-memory's volatile accesses.
    let result = unsafe { libc::madvise(place.cast(), len, libc::MADV_DONTNEED) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// KVM_SET_USER_MEMORY_REGION.
pub(super) fn set_memslot(vm: &VmFd, slot: u32, region: &GuestRegionMmap) -> Result<(), kvm_ioctls::Error> {
    let memslot = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the range is one mapping of this length. The guest reads and writes it as others do: Rust sees it only through
    // vm-memory's volatile accesses. The machine holds the memory as long as its vCPUs.
    unsafe { vm.set_user_memory_region(memslot) }
}

/// KVM_SET_USER_MEMORY_REGION with a length of 0: the guest finds nothing there from now on.
pub(super) fn remove_memslot(vm: &VmFd, slot: u32) -> Result<(), kvm_ioctls::Error> {
    let nothing = kvm_userspace_memory_region { slot, ..Default::default() };
    // SAFETY: takes memory away from the guest, and gives none.
    unsafe { vm.set_user_memory_region(nothing) }
}
