//! Descriptors in the event loop; copies of this process.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::process::Pid;

use tokio::io::{Interest, unix::AsyncFd};

/// Watches a file that its value owns: nothing else can close it as long as the value lives.
pub(crate) fn watch<T: AsRawFd + Into<OwnedFd>>(file: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the value owns its descriptor, so that it stays open and the same; `AsyncFd` gives it up when it is dropped.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(io::Error::from)
}

/// Of linux/fs.h: `_IO(0x12, 93)`.
const BLKROSET: libc::Ioctl = 0x125d;

/// Whether a block device can be written, by anybody.
pub(crate) fn set_read_only(device: &File, read_only: bool) -> io::Result<()> {
    let value = libc::c_int::from(read_only);
    // SAFETY: BLKROSET reads an integer, which lives across the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), BLKROSET, ptr::from_ref(&value)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Of linux/sched.h; the constant in `libc` overflows.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Runs `live` in a copy of this process, as after fork(2), in new namespaces and maybe in a cgroup; what it returns is the
/// copy's exit code. Only for a process with a single thread: in a copy of any other, a lock could be held for ever.
pub(crate) fn copy_self(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    live: impl FnOnce() -> i32,
) -> io::Result<Pid> {
    // SAFETY: `clone_args` is plain integers, for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the copy has all memory for itself; `args` lives across the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&args), size_of_val(&args)) };
    match pid {
        0 => exit(live()),
        1.. => Pid::from_raw(pid as libc::pid_t).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process without running anything of the memory it was copied from.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(code) }
}
