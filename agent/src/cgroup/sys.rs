//! bpf(2): a device filter for a cgroup.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use super::devices::Instruction;

// Of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;

/// The part of `union bpf_attr` that loads a program; the kernel takes what is not there as zeroes.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The part that attaches one.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// The filter lives as long as the cgroup.
pub(super) fn attach_device_filter(program: &[Instruction], cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the attributes point to so many instructions and a string that ends in NUL, all of which outlive the call.
    let program = unsafe { bpf(PROG_LOAD, &load) }?;
    // SAFETY: this command returns a new descriptor, which nobody else knows.
    let program = unsafe { OwnedFd::from_raw_fd(program as libc::c_int) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(PROG_ATTACH, &attach) }.map(drop)
}

/// # Safety
///
/// What the attributes point to must be as the command wants it.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are readable at their full size; the caller answers for what is in them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
