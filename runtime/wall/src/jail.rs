//! What this process gives up before it reads a frame: it has three sockets and nothing else.

use libc::c_long;
use securectr_jail::{
    self as jail, JailError, Limits,
    seccomp::{COMMON, Filter, Row, SeccompError, compile},
};
use securectr_wall::{GUEST_FD, WORLD_FD};

/// For tables of some 20,000 entries and two pieces of frames, in bytes. What they need at most was not measured.
const MAX_MEMORY: u64 = 32 << 20;

const MAIN: &[Row] = &[
    // Frames, and what the parent is told.
    (libc::SYS_ppoll, &[]),
    (libc::SYS_read, &[]),
    (libc::SYS_recvfrom, &[]),
    // Tables that grow.
    (libc::SYS_brk, &[]),
    (libc::SYS_mremap, &[]),
    // The end.
    (libc::SYS_close, &[]),
    (libc::SYS_sigaltstack, &[]),
    (libc::SYS_exit_group, &[]),
];

/// Hash tables are seeded once a thread, with the first of them.
const SEED: c_long = libc::SYS_getrandom;

/// Shuts the jail but for the filter.
pub(crate) fn enter() -> Result<(), JailError> {
    let named = [GUEST_FD, WORLD_FD];
    jail::check_first()?;
    jail::check_one_id()?;
    jail::die_with_parent()?;
    jail::check_descriptors(&named)?;
    jail::close_others(&named)?;
    jail::make_namespaces()?;
    jail::empty_root()?;
    jail::set_limits(Limits { file_len: Some(0), descriptors: 8 })?;
    jail::limit_memory(MAX_MEMORY)?;
    jail::give_up_privileges(0)
}

pub(crate) fn filter() -> Result<Filter, SeccompError> {
    compile("wall", &[COMMON, MAIN], &[SEED])
}
