//! The system calls that shut the jail.

use std::{ffi::CStr, io, mem, ptr};

use libc::{c_int, c_long, c_uint, c_ulong};
use securectr_vmm::spec::Fd;

/// Namespaces beside user and pid, which the parent has made.
const NAMESPACES: c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// Devices take a few descriptors each, vCPUs one, and each of at most 1,024 vsock connections one.
const MAX_DESCRIPTORS: u64 = 2048;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h), whose sets are two words of 32 bits.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
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

pub(super) fn stat(fd: Fd) -> io::Result<Stat> {
    // SAFETY: `stat` is plain integers, for which all zeroes is a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable and as long as fstat(2) expects.
    check(unsafe { libc::fstat(fd.0, &mut stat) })?;
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

/// Makes an empty, read-only file system the root, and unmounts all that was there before. `mount_point` is a directory.
pub(super) fn replace_root(mount_point: &CStr) -> io::Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE, None)?;
    mount(Some(c"tmpfs"), mount_point, flags, Some(c"size=4k,nr_inodes=1,mode=0"))?;
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

/// Not more than it needs, so that a VMM that has been taken over cannot do much harm to the host: no core dump with the guest's
/// secrets, no growing files, no pinned memory.
pub(super) fn set_limits(longest_file: u64) -> io::Result<()> {
    set_limit(libc::RLIMIT_CORE, 0)?;
    set_limit(libc::RLIMIT_MEMLOCK, 0)?;
    set_limit(libc::RLIMIT_FSIZE, longest_file)?;
    set_limit(libc::RLIMIT_NOFILE, MAX_DESCRIPTORS)
}

fn set_limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable and of the type that getrlimit(2) expects.
    check(unsafe { libc::getrlimit(resource, &mut limit) })?;
    let most = most.min(limit.rlim_max);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `limit` is of the type that setrlimit(2) expects.
    check(unsafe { libc::setrlimit(resource, &limit) })
}

/// No capability in any set, none to be had by execve(2), and no way for others of our id to look in.
pub(super) fn give_up_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0)?;
    // The kernel tells the number after its last capability by EINVAL (capabilities(7)).
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let sets = [CapabilitySet::default(); 2];
    // SAFETY: header and sets have the layout of capset(2), version 3, which only reads them here.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &header, &sets) })
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
