//! What has no safe wrapper: clone3 into a jailed process's namespaces, and its pidfd.

use std::{
    ffi::CStr,
    fs::{self, File},
    io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::Arc,
};

use nix::{
    fcntl::OFlag,
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::{Gid, Uid, geteuid, pipe2},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Descriptors are moved above this before they are laid in place, so that no target is overwritten before it is moved.
const ABOVE_TARGETS: RawFd = 256;

/// A program to start in a pid namespace of its own.
pub(crate) struct Launch<'a> {
    pub program: &'a CStr,
    /// Its descriptors: the first becomes 0, and so on. It gets no others.
    pub fds: &'a [OwnedFd],
    pub identity: Identity,
}

/// Who a program is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// Root of a user namespace of its own, in which there is nobody else; outside it is this user.
    Alone { uid: Uid, gid: Gid },
    /// Root of the host, as we are.
    HostRoot,
}

/// A started process: its pid, and a pidfd, which cannot come to mean another process.
#[derive(Debug)]
pub(crate) struct Launched {
    pub pid: libc::pid_t,
    pub pidfd: OwnedFd,
}

/// Starts a program by clone3(2) and execve(2). When the program cannot be executed, the process exits with the errno.
pub(crate) fn launch(launch: &Launch<'_>) -> io::Result<Launched> {
    let moved = launch.fds.iter().map(move_up).collect::<io::Result<Vec<OwnedFd>>>()?;
    let raw: Vec<RawFd> = moved.iter().map(AsRawFd::as_raw_fd).collect();
    let (gate_reader, gate) = pipe2(OFlag::O_CLOEXEC)?;
    let child = Child { launch, fds: &raw, gate: gate_reader.as_raw_fd(), drops_groups: geteuid().is_root() };
    let launched = clone_child(&child)?;
    if let Identity::Alone { uid, gid } = launch.identity {
        write_id_maps(launched.pid, uid, gid)?;
    }
    // The child waits for this byte; should we die before, it reads an end of file and exits.
    nix::unistd::write(&gate, &[1])?;
    Ok(launched)
}

fn move_up(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_DUPFD_CLOEXEC takes no pointers; the descriptor is open, since it is borrowed.
    let raw = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, ABOVE_TARGETS) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What the child needs between clone3 and execve. It shares a copy of our memory, so all is allocated before.
struct Child<'a> {
    launch: &'a Launch<'a>,
    fds: &'a [RawFd],
    gate: RawFd,
    drops_groups: bool,
}

fn clone_child(child: &Child<'_>) -> io::Result<Launched> {
    let user_namespace = match child.launch.identity {
        Identity::Alone { .. } => libc::CLONE_NEWUSER,
        Identity::HostRoot => 0,
    };
    clone(user_namespace | libc::CLONE_NEWPID, || child.become_program())
}

/// Starts a process that does `work` and exits with what it returns. It runs on a copy of our memory in which other threads may
/// have stood anywhere: `work` makes system calls and nothing else, and so allocates nothing.
pub(crate) fn clone(flags: libc::c_int, work: impl FnOnce() -> libc::c_int) -> io::Result<Launched> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is plain integers, for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child runs on a copy of this stack, as after fork(2); it only makes system calls, and
    // ends by execve or _exit. `args` and `pidfd` live across the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&args), size_of_val(&args)) };
    match pid {
        0 => {
            let code = work();
            // SAFETY: `_exit` ends the process without running anything of the copied memory.
            unsafe { libc::_exit(code) }
        }
        1.. => {
            // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor there.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Launched { pid: pid as libc::pid_t, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The life of a child that only is there: without our descriptors, until a signal ends it.
pub(crate) fn stand_still() -> libc::c_int {
    // SAFETY: takes integers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: takes integers; nothing of this process uses a descriptor from here on.
    unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    // SAFETY: takes no arguments.
    unsafe { libc::setsid() };
    loop {
        // SAFETY: takes no arguments.
        unsafe { libc::pause() };
    }
}

/// Waits for a process that has been killed, so that it does not stay as a zombie.
pub(crate) fn reap(pidfd: &OwnedFd) {
    let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
}

/// Makes the child root of its user namespace, which has that one user and group.
fn write_id_maps(pid: libc::pid_t, uid: Uid, gid: Gid) -> io::Result<()> {
    if !geteuid().is_root() {
        // user_namespaces(7): who may not change groups must give up setgroups(2) before mapping one.
        fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{pid}/gid_map"), format!("0 {gid} 1"))?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("0 {uid} 1"))
}

impl Child<'_> {
    /// Returns only when it fails, with the errno.
    fn become_program(&self) -> libc::c_int {
        match self.prepare() {
            Ok(()) => self.execute(),
            Err(errno) => errno,
        }
    }

    fn prepare(&self) -> Result<(), libc::c_int> {
        let mut byte = 0_u8;
        // SAFETY: reads at most one byte into a byte that lives here.
        let read = unsafe { libc::read(self.gate, ptr::from_mut(&mut byte).cast(), 1) };
        if read != 1 {
            return Err(libc::EPIPE);
        }
        // A session of its own: Ctrl-C at the terminal is for us to forward, not for the VMM to die of.
        // SAFETY: takes no arguments.
        check(unsafe { libc::setsid() })?;
        if self.drops_groups {
            // SAFETY: with a length of zero the pointer is not read.
            check(unsafe { libc::setgroups(0, ptr::null()) })?;
        }
        // SAFETY: takes integers.
        check(unsafe { libc::setresgid(0, 0, 0) })?;
        // SAFETY: takes integers.
        check(unsafe { libc::setresuid(0, 0, 0) })?;
        let mut target = 0;
        for &fd in self.fds {
            // SAFETY: takes integers; `fd` is above every target.
            check(unsafe { libc::dup2(fd, target) })?;
            target += 1;
        }
        let cloexec = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
        // SAFETY: takes integers; closes at execve what the caller of this process may have left open.
        check(unsafe { libc::close_range(target as libc::c_uint, libc::c_uint::MAX, cloexec) })
    }

    fn execute(&self) -> libc::c_int {
        let program = self.launch.program.as_ptr();
        let argv = [program, ptr::null()];
        let environment: [*const libc::c_char; 1] = [ptr::null()];
        // SAFETY: the strings end in NUL, the arrays in null, and all outlive the call, which returns only on failure.
        unsafe { libc::execve(program, argv.as_ptr(), environment.as_ptr()) };
        errno()
    }
}

fn check(result: libc::c_int) -> Result<(), libc::c_int> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> libc::c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Kills the process of a pidfd; one that is dead already stays dead.
pub(crate) fn kill(pidfd: &OwnedFd) {
    let signal = libc::c_long::from(libc::SIGKILL);
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal(2) takes an open descriptor, integers, and a null that stands for "as kill(2) would".
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
}

/// Watches a pidfd for its process's end.
pub(crate) fn watch(pidfd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the `Arc` keeps the descriptor open, and it is never replaced.
    Ok(unsafe { AsyncFd::register(pidfd) }?)
}

/// Watches a file for what has priority, as the kernel's own files have it.
pub(crate) fn watch_priority(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: the value owns its descriptor, so that it stays open and the same; `AsyncFd` gives it up when it is dropped.
    unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.map_err(io::Error::from)
}

/// Locks an open file as long as it is open, here or with whom it was given to. Whether nobody else has.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: takes integers.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error => Err(error),
        },
    }
}
