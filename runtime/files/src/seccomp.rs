//! What the server's threads may ask of the host's kernel: a file server's work, relative to descriptors that they hold. Nothing
//! here makes a descriptor of a file handle (open_by_handle_at(2)), which would lead out of the jail, nor a process, a socket or a
//! mount.

use securectr_jail::seccomp::{COMMON, Filter, Row, SeccompError, compile};

const FILES: &[Row] = &[
    // Requests, and the parent's.
    (libc::SYS_recvfrom, &[]),
    // Looking up and opening.
    (libc::SYS_openat, &[]),
    (libc::SYS_close, &[]),
    (libc::SYS_statx, &[]),
    (libc::SYS_fstatfs, &[]),
    (libc::SYS_readlinkat, &[]),
    (libc::SYS_getdents64, &[]),
    (libc::SYS_lseek, &[]),
    // Content.
    (libc::SYS_pread64, &[]),
    (libc::SYS_pwrite64, &[]),
    (libc::SYS_pwritev2, &[]),
    (libc::SYS_ftruncate, &[]),
    (libc::SYS_fallocate, &[]),
    (libc::SYS_copy_file_range, &[]),
    (libc::SYS_fsync, &[]),
    (libc::SYS_fdatasync, &[]),
    (libc::SYS_dup, &[]),
    // Names.
    (libc::SYS_mkdirat, &[]),
    (libc::SYS_mknodat, &[]),
    (libc::SYS_symlinkat, &[]),
    (libc::SYS_linkat, &[]),
    (libc::SYS_unlinkat, &[]),
    (libc::SYS_renameat2, &[]),
    // Attributes.
    (libc::SYS_fchmodat, &[]),
    (libc::SYS_fchownat, &[]),
    (libc::SYS_utimensat, &[]),
    (libc::SYS_getxattr, &[]),
    (libc::SYS_listxattr, &[]),
    (libc::SYS_setxattr, &[]),
    (libc::SYS_removexattr, &[]),
    // On behalf of a user of the guest, and without the right to leave set-user-ID bits.
    (libc::SYS_setfsuid, &[]),
    (libc::SYS_setfsgid, &[]),
    (libc::SYS_capset, &[]),
    // The allocator's, where it begins and for what is large.
    (libc::SYS_brk, &[]),
    (libc::SYS_mremap, &[]),
    // A worker's beginning, and the end of all.
    (libc::SYS_sigaltstack, &[]),
    (libc::SYS_exit_group, &[]),
];

pub(crate) fn filter() -> Result<Filter, SeccompError> {
    compile("file server", &[COMMON, FILES], &[])
}
