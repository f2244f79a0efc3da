//! The VMM locks itself in, before it has read anything that a guest could have written.
//!
//! The parent has made the user and pid namespaces (a process cannot enter a pid namespace of its own making) and has mapped one
//! id that owns nothing. In them the VMM is root, for as long as it takes to make the other namespaces, to put an empty file
//! system in place of its root, and to give all capabilities up for good. What is left is a process that holds descriptors.
//!
//! All of it is 1.6 million instructions in the test host, 1.0 of them for the network namespace.

mod sys;

use std::{fs, io, process};

use securectr_vmm::spec::{CONTROL_FD, Fd};
use thiserror::Error;

/// A directory that is sure to be there, since the checks have read from it: the new root is mounted over it.
const MOUNT_POINT: &std::ffi::CStr = c"/proc";

#[derive(Debug, Error)]
pub(crate) enum JailError {
    #[error("the parent has started this process with pid {0} in its pid namespace: it must be the first")]
    NotFirst(u32),
    #[error("the parent has started this process in a user namespace that maps {0:?}: it must map one id")]
    UserNamespace(String),
    #[error("descriptor {} is not open", .0.0)]
    NotOpen(Fd, #[source] io::Error),
    #[error("descriptor {} is a directory, which is a way out", .0.0)]
    Directory(Fd),
    #[error("{0}")]
    Step(&'static str, #[source] io::Error),
}

/// Shuts the jail. Of the descriptors, the standard streams, the control socket and those in `named` (ascending) stay.
pub(crate) fn enter(named: &[Fd]) -> Result<(), JailError> {
    check_namespaces()?;
    let longest = check_descriptors(named)?;
    step("close other descriptors", close_others(named))?;
    step("make namespaces", sys::unshare())?;
    step("empty the root", sys::replace_root(MOUNT_POINT))?;
    step("set limits", sys::set_limits(longest))?;
    step("give up privileges", sys::give_up_privileges())?;
    step("die with the parent", sys::die_with_parent())
}

fn step(what: &'static str, result: io::Result<()>) -> Result<(), JailError> {
    result.map_err(|error| JailError::Step(what, error))
}

/// A parent that forgets a namespace would leave us root of the host.
fn check_namespaces() -> Result<(), JailError> {
    if process::id() != 1 {
        return Err(JailError::NotFirst(process::id()));
    }
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

/// Answers with the length of the longest file, in bytes: disks do not grow.
fn check_descriptors(named: &[Fd]) -> Result<u64, JailError> {
    let mut longest = 0;
    for fd in (0..=CONTROL_FD.0).map(Fd).chain(named.iter().copied()) {
        let file = sys::stat(fd).map_err(|error| JailError::NotOpen(fd, error))?;
        if file.is_directory {
            return Err(JailError::Directory(fd));
        }
        longest = longest.max(file.len);
    }
    Ok(longest)
}

fn close_others(named: &[Fd]) -> io::Result<()> {
    for (first, last) in gaps(named) {
        sys::close_range(first, last)?;
    }
    Ok(())
}

/// The ranges of numbers, both ends included, between those that stay.
fn gaps(named: &[Fd]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut first = CONTROL_FD.0.unsigned_abs() + 1;
    for number in named.iter().map(|fd| fd.0.unsigned_abs()) {
        if number > first {
            gaps.push((first, number - 1));
        }
        first = number + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_between_and_after_the_named_descriptors_is_closed() {
        assert_eq!(gaps(&[]), [(4, u32::MAX)]);
        assert_eq!(gaps(&[Fd(4), Fd(5), Fd(9)]), [(6, 8), (10, u32::MAX)]);
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
        assert!(matches!(enter(&[]), Err(JailError::NotFirst(_))));
    }
}
