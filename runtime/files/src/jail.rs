//! The file server locks itself in, before it has read anything that a guest could have written.
//!
//! Its root is a file system of its own that holds nothing but what its parent mounts there: the shares. As root it stays in the
//! host's user namespace, so that owners are real, and keeps the capabilities of a file server and no others. It does not keep
//! CAP_MKNOD: a guest could leave a disk's device node where some user of the host finds it.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{CWD, Mode},
    mount::{OpenTreeFlags, open_tree},
    process::{fchdir, umask},
};
use securectr_files::{FilesSpec, Owners, REQUESTS_FD};
use securectr_jail::{self as jail, JailError, Limits};

use crate::identity;

/// Mount points of shares are all that is ever in it.
const ROOT_OPTIONS: &std::ffi::CStr = c"size=64k,nr_inodes=1k,mode=755";

/// A descriptor for each file that the guest knows: as many as Linux gives to a process by default (fs.nr_open).
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Shuts the jail.
pub(crate) fn enter(spec: FilesSpec) -> Result<(), JailError> {
    jail::check_first()?;
    if spec.owners == Owners::One {
        jail::check_one_id()?;
    }
    jail::check_descriptors(&[REQUESTS_FD])?;
    jail::close_others(&[REQUESTS_FD])?;
    jail::make_namespaces()?;
    let own_files = own_files().map_err(|errno| JailError::Step("find its own files", errno.into()))?;
    jail::bounded_root(ROOT_OPTIONS)?;
    // From here on a relative path of "7" is what descriptor 7 stands for, and there is no other way to say it: the mount ends
    // above the directory.
    fchdir(own_files).map_err(|errno| JailError::Step("enter its own files", errno.into()))?;
    // Modes are the guest's, whose umask is in them.
    umask(Mode::empty());
    jail::set_limits(Limits { file_len: None, descriptors: MAX_DESCRIPTORS })?;
    jail::keep_capabilities_whatever_the_id()?;
    jail::give_up_privileges(identity::CAPABILITIES.bits())?;
    // Should the parent be dead already, the control socket's end of file says it.
    jail::die_with_parent()
}

/// A mount of this process's `/proc/self/fd` alone.
fn own_files() -> rustix::io::Result<OwnedFd> {
    open_tree(CWD, c"/proc/self/fd", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}
