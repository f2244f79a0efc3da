//! Tables of what a thread may ask of the host's kernel; anything else kills the process. One row a system call, with its reason:
//! a row that nothing needs does not belong into a table.
//!
//! A filter is inherited by the threads that its thread starts.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum SeccompError {
    #[error("compile the system call filter of a {0} thread")]
    Compile(&'static str, #[source] seccompiler::BackendError),
    #[error("install the system call filter")]
    Install(#[source] seccompiler::Error),
}

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// From here on, the calling thread is confined.
    pub fn install(&self) -> Result<(), SeccompError> {
        seccompiler::apply_filter(&self.0).map_err(SeccompError::Install)
    }
}

/// A system call, and what its arguments are held to.
pub type Row = (c_long, &'static [Check]);

/// A condition on an argument, by its index.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// It is this.
    Is(u8, u32),
    /// None of these bits is set.
    Without(u8, u32),
    /// It is the first real-time signal, whose number is known only at run time.
    IsFirstRealTimeSignal(u8),
}

const EXEC: u32 = libc::PROT_EXEC as u32;

/// The allocator's and the standard library's, on any thread.
pub const COMMON: &[Row] = &[
    // Locks, channels, and waiting for one another; a channel yields when it meets a sender midway.
    (libc::SYS_futex, &[]),
    (libc::SYS_sched_yield, &[]),
    // A wait with a time limit: the time, where the vDSO cannot tell it, and the rest of the wait after SIGCONT or a freezer.
    (libc::SYS_clock_gettime, &[]),
    (libc::SYS_restart_syscall, &[]),
    // Events of devices, the console, news for the parent.
    (libc::SYS_write, &[]),
    // The allocator; no memory becomes executable.
    (libc::SYS_mmap, &[Check::Without(2, EXEC)]),
    (libc::SYS_mprotect, &[Check::Without(2, EXEC)]),
    (libc::SYS_munmap, &[]),
    (libc::SYS_madvise, &[]),
    // The parent hears of a panic; then the process aborts with all signals blocked.
    (libc::SYS_sendto, &[]),
    (libc::SYS_rt_sigprocmask, &[]),
    (libc::SYS_gettid, &[]),
    (libc::SYS_getpid, &[]),
    (libc::SYS_tgkill, &[Check::Is(2, libc::SIGABRT as u32)]),
    // The standard library's check, in debug builds, that what it closes is open.
    #[cfg(debug_assertions)]
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_GETFD as u32)]),
];

/// Compiles the filter of a kind of thread: the tables' rows, and the calls in `free`, which may have any arguments.
pub fn compile<'a>(
    thread: &'static str,
    tables: &[&[Row]],
    free: impl IntoIterator<Item = &'a c_long>,
) -> Result<Filter, SeccompError> {
    build(tables, free).map(Filter).map_err(|error| SeccompError::Compile(thread, error))
}

fn build<'a>(
    tables: &[&[Row]],
    free: impl IntoIterator<Item = &'a c_long>,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for &(syscall, checks) in tables.iter().copied().flatten() {
        let alternatives = rules.entry(syscall).or_default();
        if !checks.is_empty() {
            let conditions = checks.iter().map(|check| check.condition()).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    for &syscall in free {
        rules.insert(syscall, Vec::new());
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?.try_into()
}

impl Check {
    fn condition(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (argument, operator, value) = match self {
            Self::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Self::Without(argument, bits) => (argument, SeccompCmpOp::MaskedEq(bits.into()), 0),
            Self::IsFirstRealTimeSignal(argument) => {
                (argument, SeccompCmpOp::Eq, libc::SIGRTMIN().unsigned_abs())
            }
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    }
}
