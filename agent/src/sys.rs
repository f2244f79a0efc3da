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

/// Of linux/random.h: `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)`.
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Mixes secret bytes into the kernel's random numbers, and lets none that comes from now on depend on earlier ones alone
/// (random(4)).
pub(crate) fn reseed(random: &File, entropy: &[u8]) -> io::Result<()> {
    // `struct rand_pool_info`: how many bits of entropy are in it, how many bytes follow, and these in words.
    let words = entropy.chunks(size_of::<u32>()).map(|bytes| {
        let mut word = [0; size_of::<u32>()];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u32::from_ne_bytes(word)
    });
    let len = entropy.len() as u32;
    let info: Vec<u32> = [len * u8::BITS, len].into_iter().chain(words).collect();
    // SAFETY: RNDADDENTROPY reads two integers and as many bytes behind them as the second says, all of which are in `info`.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, info.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no argument.
    match unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) } {
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
