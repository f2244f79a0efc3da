//! The VMM locks itself in, before it has read anything that a guest could have written.
//!
//! The parent has made the user and pid namespaces (a process cannot enter a pid namespace of its own making) and has mapped one
//! id that owns nothing. In them the VMM is root, for as long as it takes to make the other namespaces, to put an empty file
//! system in place of its root, and to give all capabilities up for good. What is left is a process that holds descriptors.
//!
//! All of it is 1.6 million instructions in the test host, 1.0 of them for the network namespace.

use std::os::fd::RawFd;

use securectr_jail::{self as jail, JailError, Limits};
use securectr_vmm::spec::Fd;

/// Devices take a few descriptors each, vCPUs one, and each of at most 1,024 vsock connections one.
const MAX_DESCRIPTORS: u64 = 2048;

/// Shuts the jail. Of the descriptors, the standard streams, the control socket and those in `named` (ascending) stay; a file may become
/// as long as `longest_saved`, in bytes.
pub(crate) fn enter(named: &[Fd], longest_saved: u64) -> Result<(), JailError> {
    let named: Vec<RawFd> = named.iter().map(|fd| fd.0).collect();
    jail::check_first()?;
    jail::check_one_id()?;
    // Disks do not grow: no file may become longer than the longest of them, or than a saved machine.
    let longest = jail::check_descriptors(&named)?.max(longest_saved);
    jail::close_others(&named)?;
    jail::make_namespaces()?;
    jail::empty_root()?;
    jail::set_limits(Limits { file_len: Some(longest), descriptors: MAX_DESCRIPTORS })?;
    jail::give_up_privileges(0)?;
    // Should the parent be dead already, the control socket's end of file says it.
    jail::die_with_parent()
}
