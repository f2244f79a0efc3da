//! What has no safe wrapper: execve, mount_setattr, seccomp, personality.

use std::{
    ffi::{CStr, CString},
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use crate::seccomp::Filter;

/// Returns only when it fails, with the errno.
pub(super) fn execve(program: &CStr, args: &[CString], env: &[CString]) -> i32 {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: all strings end in NUL, both arrays in null, and all outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// A program gets every signal as the kernel gives it to a new process.
pub(super) fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is no handler of ours. For signals that cannot be set it fails, which is no harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set that it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was filled above; a null takes no old set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
}

/// Those that a process sends itself by what it does wrong: held back, they would only hide it.
const OWN_FAULTS: [libc::c_int; 7] =
    [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];

/// Holds all signals back, for [`next_signal`].
pub(super) fn hold_signals() {
    let mut all = held();
    // SAFETY: the set is a whole one; a null takes no old set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw mut all, ptr::null_mut()) };
}

/// Waits for a signal that is held back, and takes it.
pub(super) fn next_signal() -> io::Result<i32> {
    let all = held();
    // SAFETY: the set is a whole one and outlives the call; a null takes no details.
    match unsafe { libc::sigwaitinfo(&raw const all, ptr::null_mut()) } {
        signal @ 1.. => Ok(signal),
        _ => Err(io::Error::last_os_error()),
    }
}

fn held() -> libc::sigset_t {
    let mut all = mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    for signal in OWN_FAULTS {
        // SAFETY: the set was filled above.
        unsafe { libc::sigdelset(all.as_mut_ptr(), signal) };
    }
    // SAFETY: it was filled above.
    unsafe { all.assume_init() }
}

/// Ended children leave nothing behind that would have to be waited for.
pub(super) fn ignore_children() {
    // SAFETY: SIG_IGN is no handler of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// mount_setattr(2) on a mount that is open; `recursive` for all below it, too.
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends in NUL, the attributes are of the size that is told, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(&attributes),
            size_of_val(&attributes),
        )
    };
    check(result)
}

/// Puts a filter on this process; needs CAP_SYS_ADMIN or no_new_privs.
pub(super) fn load_seccomp(filter: &Filter) -> io::Result<()> {
    let mut program = filter.program.clone();
    // As many as there are, since `seccomp::compile` refuses more than 4096.
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program points to `len` instructions, which outlive the call; the kernel checks what they do.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, filter.flags, ptr::from_ref(&program))
    };
    check(result)
}

pub(super) fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::personality(domain.into()) }.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a cgroup namespace whose root is the cgroup that this process is in.
pub(super) fn new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: takes an integer; this flag changes nothing that Rust's standard library counts on.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into())
}

/// Closes every descriptor above stderr but those of `kept`. Whoever owned the others must not use them any more.
pub(super) fn close_others(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut first = libc::STDERR_FILENO + 1;
    for &fd in kept.iter() {
        if fd > first {
            close_range(first, (fd - 1) as libc::c_uint)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, libc::c_uint::MAX)
}

/// Closes every descriptor. Nothing of this process may use one any more.
pub(super) fn close_all() -> io::Result<()> {
    close_range(0, libc::c_uint::MAX)
}

fn close_range(first: RawFd, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes integers. What it closes is not used any more, as the caller answers for.
    check(unsafe { libc::close_range(first as libc::c_uint, last, 0) }.into())
}
