//! What is done to guest memory by address.

use std::{fs::File, io, ops::Range, os::fd::AsRawFd};

use kvm_bindings::{KVMIO, kvm_pre_fault_memory, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};
use vmm_sys_util::{ioctl::ioctl_with_mut_ref, ioctl_iowr_nr};

/// madvise(2), MADV_DONTDUMP.
pub(super) fn keep_out_of_core_dumps(region: &GuestRegionMmap) -> io::Result<()> {
    // SAFETY: the range is one mapping, alive as long as `region`; this advice does not change its content.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_DONTDUMP) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// madvise(2), MADV_DONTNEED: the host has these pages back, and the guest reads what the mapping has: zeroes, or a file. `range` is in
/// bytes from the region's start.
pub(super) fn discard(region: &GuestRegionMmap, range: &Range<usize>) -> io::Result<()> {
    advise(region, range, libc::MADV_DONTNEED)
}

/// madvise(2), MADV_RANDOM: nothing is read ahead.
pub(super) fn advise_random(region: &GuestRegionMmap, range: &Range<usize>) -> io::Result<()> {
    advise(region, range, libc::MADV_RANDOM)
}

/// madvise(2), MADV_POPULATE_WRITE, of Linux 5.14: as if each page had been written, but for its content.
pub(super) fn populate_for_writing(region: &GuestRegionMmap, range: &Range<usize>) -> io::Result<()> {
    advise(region, range, libc::MADV_POPULATE_WRITE)
}

fn advise(region: &GuestRegionMmap, range: &Range<usize>, advice: libc::c_int) -> io::Result<()> {
    let place = region.get_host_address(MemoryRegionAddress(range.start as u64)).map_err(io::Error::other)?;
    let len = range.len().min(region.size() - range.start);
    // SAFETY: the range is within the region's mappings, alive as long as `region`. If its content changes, then as it may at any time:
    // Rust sees it only through vm-memory's volatile accesses.
    let result = unsafe { libc::madvise(place.cast(), len, advice) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// mmap(2) of a part of a file in the place of what a region has there: private, so that nothing that is written comes to the file.
pub(super) fn lay_file(
    region: &GuestRegionMmap,
    range: &Range<usize>,
    file: &File,
    offset: u64,
) -> io::Result<()> {
    let place = region.get_host_address(MemoryRegionAddress(range.start as u64)).map_err(io::Error::other)?;
    let len = range.len().min(region.size() - range.start);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range is within the region's own mapping, which nobody has touched yet, and goes with it.
    let laid =
        unsafe { libc::mmap(place.cast(), len, access, flags, file.as_raw_fd(), offset as libc::off_t) };
    if laid == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// pwrite(2): a part of a region comes to a place in a file.
pub(super) fn write_out(
    region: &GuestRegionMmap,
    range: &Range<usize>,
    file: &File,
    offset: u64,
) -> io::Result<()> {
    let mut written = 0;
    while written < range.len() {
        let place = MemoryRegionAddress((range.start + written) as u64);
        let place = region.get_host_address(place).map_err(io::Error::other)?;
        let len = (range.len() - written).min(region.size() - range.start - written);
        // SAFETY: the kernel reads what is within the region's mappings, alive as long as `region`, whoever else writes to it.
        let count = unsafe {
            libc::pwrite(file.as_raw_fd(), place.cast(), len, (offset + written as u64) as libc::off_t)
        };
        match count {
            1.. => written += count as usize,
            0 => return Err(io::ErrorKind::WriteZero.into()),
            _ => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// What comes next in a file that is no hole, in bytes (lseek(2), SEEK_DATA); none behind the last.
pub(super) fn next_data(file: &File, from: u64) -> Option<Range<u64>> {
    let seek = |from: u64, whence| {
        // SAFETY: takes integers.
        u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, whence) }).ok()
    };
    let start = seek(from, libc::SEEK_DATA)?;
    Some(start..seek(start, libc::SEEK_HOLE)?)
}

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// KVM_PRE_FAULT_MEMORY, of Linux 6.10: as if the guest had read all of this, which is in its memory.
pub(super) fn pre_fault(vcpu: &VcpuFd, address: u64, len: u64) -> io::Result<()> {
    let mut rest = kvm_pre_fault_memory { gpa: address, size: len, ..Default::default() };
    while rest.size > 0 {
        // SAFETY: KVM reads and writes the structure, which lives across the call; what is mapped is the guest's own memory.
        if unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut rest) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
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
