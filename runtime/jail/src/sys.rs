//! The system calls that shut the jail.

use std::{ffi::CStr, io, mem, os::fd::RawFd, ptr};

use libc::{c_int, c_long, c_uint, c_ulong};

/// Namespaces beside user and pid, which the parent has made.
const NAMESPACES: c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h), whose sets are two words of 32 bits.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// linux/securebits.h
const SECBIT_NO_SETUID_FIXUP: c_ulong = 1 << 2;
const SECBIT_NO_SETUID_FIXUP_LOCKED: c_ulong = 1 << 3;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
struct CapabilitySet {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

pub(super) struct Stat {
    pub is_directory: bool,
    /// In bytes.
    pub len: u64,
}

pub(super) fn stat(fd: RawFd) -> io::Result<Stat> {
    // SAFETY: `stat` is plain integers, for which all zeroes is a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable and as long as fstat(2) expects.
    check(unsafe { libc::fstat(fd, &mut stat) })?;
    let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    Ok(Stat { is_directory, len: stat.st_size.unsigned_abs() })
}

/// Both ends included.
pub(super) fn close_range(first: c_uint, last: c_uint) -> io::Result<()> {
    // SAFETY: takes integers. The range has no descriptor that this process owns: only the parent's leftovers.
    check(unsafe { libc::close_range(first, last, 0) })
}

pub(super) fn unshare() -> io::Result<()> {
    // SAFETY: takes an integer; this process has one thread and shares nothing that it would miss.
    check(unsafe { libc::unshare(NAMESPACES) })
}

/// Makes a tmpfs the root, and unmounts all that was there before. `mount_point` is a directory.
pub(super) fn replace_root(mount_point: &CStr, flags: c_ulong, options: &CStr) -> io::Result<()> {
    let flags = flags | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE, None)?;
    mount(Some(c"tmpfs"), mount_point, flags, Some(options))?;
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::chdir(mount_point.as_ptr()) })?;
    // pivot_root(2), NOTES: with the same directory twice, the old root is stacked on top of the new one, and goes with the
    // next call.
    // SAFETY: both strings end in NUL.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::chdir(c"/".as_ptr()) })
}

fn mount(kind: Option<&CStr>, target: &CStr, flags: c_ulong, options: Option<&CStr>) -> io::Result<()> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    let options = options.map_or(ptr::null(), CStr::as_ptr).cast();
    // SAFETY: the strings end in NUL, or are null where mount(2) ignores them.
    check(unsafe { libc::mount(kind, target.as_ptr(), kind, flags, options) })
}

/// As much as is asked for, where this process may raise its limit that far; otherwise as much as it had.
pub(super) fn set_limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `limit` is of the type that setrlimit(2) expects.
    match check(unsafe { libc::setrlimit(resource, &limit) }) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        set => return set,
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable and of the type that getrlimit(2) expects.
    check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is of the type that setrlimit(2) expects.
    check(unsafe { libc::setrlimit(resource, &limit) })
}

/// No capability but those kept, none to be had by execve(2), and no way for others of our id to look in.
pub(super) fn give_up_privileges(kept: u64) -> io::Result<()> {
    gain_no_privileges()?;
    clear_bounding_set()?;
    set_capabilities(kept)
}

/// As above, but for capabilities that this process has not, and for a bounding set that it may not change.
pub(super) fn restrict_privileges(kept: u64) -> io::Result<()> {
    gain_no_privileges()?;
    match clear_bounding_set() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        cleared => cleared?,
    }
    set_capabilities(kept & permitted_capabilities()?)
}

fn gain_no_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0)
}

fn clear_bounding_set() -> io::Result<()> {
    // The kernel tells the number after its last capability by EINVAL (capabilities(7)).
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

fn set_capabilities(kept: u64) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let set = |bits: u64| CapabilitySet { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let sets = [set(kept & u64::from(u32::MAX)), set(kept >> 32)];
    // SAFETY: header and sets have the layout of capset(2), version 3, which only reads them here.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &header, &sets) })
}

fn permitted_capabilities() -> io::Result<u64> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [const { CapabilitySet { effective: 0, permitted: 0, inheritable: 0 } }; 2];
    // SAFETY: header and sets have the layout of capget(2), version 3; the sets are writable.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &header, &mut sets) })?;
    let [low, high] = sets.map(|set| u64::from(set.permitted));
    Ok(low | high << 32)
}

/// capabilities(7), "The securebits flags".
pub(super) fn fix_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED, 0)
}

/// The kernel ends this process when the thread that has started it ends. Should that be so already, the control socket's end of
/// file says it.
pub(super) fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0)
}

fn prctl(option: c_int, argument: c_ulong, second: c_ulong) -> io::Result<()> {
    let none: c_ulong = 0;
    // SAFETY: the options that are used here take integers.
    check(unsafe { libc::prctl(option, argument, second, none, none) })
}

fn check(result: c_int) -> io::Result<()> {
    check_long(result.into())
}

fn check_long(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
