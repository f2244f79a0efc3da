//! Mounting in another mount namespace. A thread cannot enter one while others share its working directory, nor a user namespace
//! while there are others at all: a child does it, which lives for these few system calls.

use std::{
    ffi::CStr,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use libc::{c_char, c_int, c_long, c_uint};

use crate::sys::{Launched, clone};

// linux/mount.h
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;

/// Where shares are mounted.
pub(super) struct Namespaces<'a> {
    /// A pidfd of the file server.
    pub of: BorrowedFd<'a>,
    /// It has a user namespace of its own.
    pub has_users: bool,
}

pub(super) struct Mount<'a> {
    /// Of the host, absolute.
    pub source: &'a CStr,
    /// In the server's root, where nothing is yet.
    pub target: &'a CStr,
    pub read_only: bool,
    pub copy: Option<Copy<'a>>,
}

/// Where what is written goes, in place of the source. Both are directories of one file system.
pub(super) struct Copy<'a> {
    pub upper: &'a CStr,
    pub work: &'a CStr,
}

/// Numbers under which a child opens what it mounts, so that their paths are known: nobody else's are so high.
const LOWER: c_int = 1000;
const UPPER: c_int = 1001;
const WORK: c_int = 1002;

/// Starts a child that makes a mount; its exit code is the errno.
pub(super) fn attach(namespaces: &Namespaces<'_>, mount: &Mount<'_>) -> io::Result<Launched> {
    clone(0, || namespaces.attach(mount).map_or_else(|errno| errno, |()| 0))
}

/// Starts a child that removes a mount, also from what holds it open; its exit code is the errno.
pub(super) fn detach(namespaces: &Namespaces<'_>, target: &CStr) -> io::Result<Launched> {
    clone(0, || namespaces.detach(target).map_or_else(|errno| errno, |()| 0))
}

impl Namespaces<'_> {
    fn attach(&self, mount: &Mount<'_>) -> Result<(), c_int> {
        if self.has_users {
            self.enter(libc::CLONE_NEWUSER)?;
            // The host's mounts belong to others: a copy of the namespace is ours to take from.
            // SAFETY: takes an integer; the child has one thread.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        }
        let tree = match &mount.copy {
            None => copy_of(mount.source)?,
            Some(copy) => self.overlay(mount.source, copy)?,
        };
        restrict(tree, mount.read_only)?;
        let is_directory = is_directory(tree)?;
        self.enter(libc::CLONE_NEWNS)?;
        let place = make_place(mount.target, is_directory)?;
        attach_at(tree, place).inspect_err(|_| {
            let _ = remove_place(mount.target);
        })
    }

    /// The source, with what is written going elsewhere. A path could have characters in it that mean something to overlayfs;
    /// a descriptor's has none. What is mounted below the source is not seen.
    fn overlay(&self, source: &CStr, copy: &Copy<'_>) -> Result<c_int, c_int> {
        for (path, number) in [(source, LOWER), (copy.upper, UPPER), (copy.work, WORK)] {
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
            // SAFETY: the string ends in NUL.
            let opened = fd(unsafe { libc::open(path.as_ptr(), flags) }.into())?;
            // SAFETY: takes integers; what may have been there is a copy of our parent's.
            check(unsafe { libc::dup3(opened, number, libc::O_CLOEXEC) })?;
        }
        // SAFETY: the string ends in NUL.
        let context = fd(unsafe { libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), FSOPEN_CLOEXEC) })?;
        // Nothing but names and whole files is in the upper directory then.
        let plain = [(c"redirect_dir", c"nofollow"), (c"index", c"off"), (c"metacopy", c"off")];
        let layers = [
            (c"lowerdir", c"/proc/self/fd/1000"),
            (c"upperdir", c"/proc/self/fd/1001"),
            (c"workdir", c"/proc/self/fd/1002"),
        ];
        for (key, value) in layers.into_iter().chain(plain) {
            configure(context, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
        }
        if self.has_users {
            // Marks that need no privilege outside.
            configure(context, FSCONFIG_SET_FLAG, c"userxattr".as_ptr(), ptr::null())?;
        }
        configure(context, FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
        // SAFETY: takes integers.
        fd(unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, 0) })
    }

    fn detach(&self, target: &CStr) -> Result<(), c_int> {
        if self.has_users {
            self.enter(libc::CLONE_NEWUSER)?;
        }
        self.enter(libc::CLONE_NEWNS)?;
        // SAFETY: the string ends in NUL.
        check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) })?;
        remove_place(target)
    }

    fn enter(&self, kind: c_int) -> Result<(), c_int> {
        // SAFETY: takes an open descriptor and an integer.
        check(unsafe { libc::setns(self.of.as_raw_fd(), kind) })
    }
}

/// A copy of the mounts at and below a path, attached nowhere. What is opened here goes when the child ends.
fn copy_of(source: &CStr) -> Result<c_int, c_int> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as c_uint;
    // SAFETY: the string ends in NUL.
    fd(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })
}

/// fsconfig(2), which has no further use for what it is pointed to.
fn configure(context: c_int, command: c_uint, key: *const c_char, value: *const c_char) -> Result<(), c_int> {
    // SAFETY: key and value are strings that end in NUL, or null where the command takes none.
    check_long(unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) })
}

/// Nothing in it is executed or opened as a device by the server; and what happens to the host's mounts from now on, or to these,
/// stays there.
fn restrict(tree: c_int, read_only: bool) -> Result<(), c_int> {
    // SAFETY: `mount_attr` is plain integers, for which all zeroes is a valid value.
    let mut attributes: libc::mount_attr = unsafe { mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    if read_only {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    attributes.propagation = libc::MS_PRIVATE;
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let (attributes, len) = (ptr::from_ref(&attributes), size_of::<libc::mount_attr>());
    // SAFETY: the string ends in NUL; the attributes have the length that is said.
    check_long(unsafe { libc::syscall(libc::SYS_mount_setattr, tree, c"".as_ptr(), flags, attributes, len) })
}

fn is_directory(tree: c_int) -> Result<bool, c_int> {
    // SAFETY: `stat` is plain integers, for which all zeroes is a valid value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is writable and as long as fstat(2) expects.
    check(unsafe { libc::fstat(tree, &mut stat) })?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// What a mount of that kind can be attached to.
fn make_place(target: &CStr, directory: bool) -> Result<c_int, c_int> {
    if directory {
        // SAFETY: the string ends in NUL.
        check(unsafe { libc::mkdir(target.as_ptr(), 0) })?;
    } else {
        // SAFETY: the string ends in NUL.
        check(unsafe { libc::mknod(target.as_ptr(), libc::S_IFREG, 0) })?;
    }
    // SAFETY: the string ends in NUL.
    fd(unsafe { libc::open(target.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) }.into())
}

fn remove_place(target: &CStr) -> Result<(), c_int> {
    // SAFETY: the string ends in NUL.
    if unsafe { libc::rmdir(target.as_ptr()) } == 0 {
        return Ok(());
    }
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::unlink(target.as_ptr()) })
}

fn attach_at(tree: c_int, place: c_int) -> Result<(), c_int> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: the strings end in NUL.
    check_long(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, place, empty, flags) })
}

fn fd(result: c_long) -> Result<c_int, c_int> {
    check_long(result)?;
    c_int::try_from(result).map_err(|_| libc::EBADF)
}

fn check(result: c_int) -> Result<(), c_int> {
    check_long(result.into())
}

fn check_long(result: c_long) -> Result<(), c_int> {
    if result < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(()) }
}
