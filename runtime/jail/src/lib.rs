//! How a process locks itself in, before it has read anything that a guest could have written. Each step is one function; those
//! who use it state the order.
//!
//! The parent makes the pid namespace, and the user namespace where there is one: a process cannot enter a pid namespace of its
//! own making.

pub mod seccomp;
mod sys;

use std::{ffi::CStr, fs, io, os::fd::RawFd, process};

use thiserror::Error;

/// The number of the descriptor on which a process finds its control socket, behind the standard streams.
pub const CONTROL_FD: RawFd = 3;

/// A directory that is sure to be there, since the checks have read from it: a new root is mounted over it.
const MOUNT_POINT: &CStr = c"/proc";

#[derive(Debug, Error)]
pub enum JailError {
    #[error("the parent has started this process with pid {0} in its pid namespace: it must be the first")]
    NotFirst(u32),
    #[error("the parent has started this process in a user namespace that maps {0:?}: it must map one id")]
    UserNamespace(String),
    #[error("descriptor {0} is not open")]
    NotOpen(RawFd, #[source] io::Error),
    #[error("descriptor {0} is a directory, which is a way out")]
    Directory(RawFd),
    #[error("{0}")]
    Step(&'static str, #[source] io::Error),
}

fn step(what: &'static str, result: io::Result<()>) -> Result<(), JailError> {
    result.map_err(|error| JailError::Step(what, error))
}

/// A process that shares its parent's pid namespace could signal whatever runs under its id.
pub fn check_first() -> Result<(), JailError> {
    if process::id() == 1 { Ok(()) } else { Err(JailError::NotFirst(process::id())) }
}

/// Whether this process is in a user namespace that maps one user and one group. A parent that forgets it would leave us root of
/// the host.
pub fn check_one_id() -> Result<(), JailError> {
    for map in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        let map = fs::read_to_string(map).map_err(|error| JailError::Step("read the id maps", error))?;
        if !maps_one_id(&map) {
            return Err(JailError::UserNamespace(map));
        }
    }
    Ok(())
}

/// user_namespaces(7): lines of "first id inside, first id outside, count".
fn maps_one_id(map: &str) -> bool {
    let fields: Vec<&str> = map.split_ascii_whitespace().collect();
    matches!(fields.as_slice(), ["0", _, "1"])
}

/// Checks that the standard streams, the control socket and `named` are open and no directories. Answers with the length of the
/// longest file, in bytes.
pub fn check_descriptors(named: &[RawFd]) -> Result<u64, JailError> {
    let mut longest = 0;
    for fd in (0..=CONTROL_FD).chain(named.iter().copied()) {
        let file = sys::stat(fd).map_err(|error| JailError::NotOpen(fd, error))?;
        if file.is_directory {
            return Err(JailError::Directory(fd));
        }
        longest = longest.max(file.len);
    }
    Ok(longest)
}

/// Closes all descriptors but the standard streams, the control socket and those in `named` (ascending).
pub fn close_others(named: &[RawFd]) -> Result<(), JailError> {
    for (first, last) in gaps(named) {
        step("close other descriptors", sys::close_range(first, last))?;
    }
    Ok(())
}

/// The ranges of numbers, both ends included, between those that stay.
fn gaps(named: &[RawFd]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut first = CONTROL_FD.unsigned_abs() + 1;
    for number in named.iter().map(|fd| fd.unsigned_abs()) {
        if number > first {
            gaps.push((first, number - 1));
        }
        first = number + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// Mount, network, ipc, uts and cgroup namespaces of its own: those beside user and pid.
pub fn make_namespaces() -> Result<(), JailError> {
    step("make namespaces", sys::unshare())
}

/// Makes an empty, read-only file system the root, and unmounts all that was there before.
pub fn empty_root() -> Result<(), JailError> {
    step("empty the root", sys::replace_root(MOUNT_POINT, libc::MS_RDONLY, c"size=4k,nr_inodes=1,mode=0"))
}

/// As [`empty_root`], with the bounds of tmpfs(5) that the caller states: things may be made and mounted in it.
pub fn bounded_root(options: &CStr) -> Result<(), JailError> {
    step("make the root", sys::replace_root(MOUNT_POINT, 0, options))
}

/// What a process may use at most, so that one that has been taken over cannot do much harm to the host. It never dumps core,
/// which would hold a guest's secrets, and never pins memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a file that it writes.
    pub file_len: Option<u64>,
    pub descriptors: u64,
}

pub fn set_limits(limits: Limits) -> Result<(), JailError> {
    let set = || {
        sys::set_limit(libc::RLIMIT_CORE, 0)?;
        sys::set_limit(libc::RLIMIT_MEMLOCK, 0)?;
        if let Some(len) = limits.file_len {
            sys::set_limit(libc::RLIMIT_FSIZE, len)?;
        }
        sys::set_limit(libc::RLIMIT_NOFILE, limits.descriptors)
    };
    step("set limits", set())
}

/// Gives up all capabilities but those in `kept` (a bit each, capabilities(7)), for good: nothing brings them back, not even
/// execve(2). Others of our id cannot look in any more.
pub fn give_up_privileges(kept: u64) -> Result<(), JailError> {
    step("give up privileges", sys::give_up_privileges(kept))
}

/// CAP_DAC_OVERRIDE of capabilities(7), as a bit.
pub const CAP_DAC_OVERRIDE: u64 = 1 << 1;

/// As [`give_up_privileges`], for a process that may be an ordinary user's or root's in a container: what it has of `kept` it keeps,
/// and what it cannot drop from its bounding set it has not, or cannot gain any more.
pub fn restrict_privileges(kept: u64) -> Result<(), JailError> {
    step("restrict privileges", sys::restrict_privileges(kept))
}

/// Bytes of memory of its own, threads' stacks included; what it has already counts. The address space is not limited: the C library
/// reserves 64 MiB of it for each thread, and uses little.
pub fn limit_memory(bytes: u64) -> Result<(), JailError> {
    step("limit memory", sys::set_limit(libc::RLIMIT_DATA, bytes))
}

/// From here on a change of this process's ids leaves its capabilities alone.
pub fn keep_capabilities_whatever_the_id() -> Result<(), JailError> {
    step("fix the capabilities", sys::fix_capabilities())
}

/// The kernel ends this process when the thread that has started it ends.
pub fn die_with_parent() -> Result<(), JailError> {
    step("die with the parent", sys::die_with_parent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_between_and_after_the_named_descriptors_is_closed() {
        assert_eq!(gaps(&[]), [(4, u32::MAX)]);
        assert_eq!(gaps(&[4, 5, 9]), [(6, 8), (10, u32::MAX)]);
    }

    #[test]
    fn the_hosts_own_user_namespace_is_told_by_its_map() {
        assert!(maps_one_id("         0 2000000042          1\n"));
        assert!(!maps_one_id("         0          0 4294967295\n"));
        assert!(!maps_one_id("         0     100000      65536\n"));
        assert!(!maps_one_id("0 1000 1\n1 100000 1\n"));
        assert!(!maps_one_id(""));
    }

    #[test]
    fn who_is_not_the_first_process_of_its_namespace_is_refused() {
        assert!(matches!(check_first(), Err(JailError::NotFirst(_))));
    }
}
