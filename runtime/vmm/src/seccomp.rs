//! What each kind of thread may ask of the host's kernel once the guest runs; anything else kills the process. One row a system
//! call, with its reason: a row that nothing needs does not belong here.
//!
//! A filter is inherited by the threads that its thread starts, so the vCPUs' threads are started before the main thread
//! installs its own.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use thiserror::Error;
use vmm_sys_util::signal::SIGRTMIN;

use crate::devices;

#[derive(Debug, Error)]
pub(crate) enum SeccompError {
    #[error("compile the system call filter of a {0} thread")]
    Compile(&'static str, #[source] seccompiler::BackendError),
    #[error("install the system call filter")]
    Install(#[source] seccompiler::Error),
}

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter(BpfProgram);

impl Filter {
    /// From here on, the calling thread is confined.
    pub(crate) fn install(&self) -> Result<(), SeccompError> {
        seccompiler::apply_filter(&self.0).map_err(SeccompError::Install)
    }
}

/// A system call, and what its arguments are held to.
type Row = (c_long, &'static [Check]);

/// A condition on an argument, by its index.
#[derive(Clone, Copy)]
enum Check {
    /// It is this.
    Is(u8, u32),
    /// None of these bits is set.
    Without(u8, u32),
    /// It is the signal that stops vCPUs, whose number is known only at run time.
    IsStopSignal(u8),
}

/// KVM's ioctls on a vCPU (linux/kvm.h).
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_GET_REGS: u32 = 0x8090_ae81;

const EXEC: u32 = libc::PROT_EXEC as u32;

/// The allocator's and the standard library's, on any thread.
const COMMON: &[Row] = &[
    // Locks, channels, and waiting for one another.
    (libc::SYS_futex, &[]),
    // The allocator; no memory becomes executable.
    (libc::SYS_brk, &[]),
    (libc::SYS_mmap, &[Check::Without(2, EXEC)]),
    (libc::SYS_mprotect, &[Check::Without(2, EXEC)]),
    (libc::SYS_mremap, &[]),
    (libc::SYS_munmap, &[]),
    (libc::SYS_madvise, &[]),
    // Events of devices, the console, events for the parent.
    (libc::SYS_write, &[]),
    // Return from the signal that stops vCPUs.
    (libc::SYS_rt_sigreturn, &[]),
    // A panic: the standard library aborts with all signals blocked.
    (libc::SYS_rt_sigprocmask, &[]),
    (libc::SYS_gettid, &[]),
    (libc::SYS_getpid, &[]),
    (libc::SYS_tgkill, &[Check::Is(2, libc::SIGABRT as u32)]),
    (libc::SYS_exit_group, &[]),
    // The standard library's check, in debug builds, that what it closes is open.
    #[cfg(debug_assertions)]
    (libc::SYS_fcntl, &[Check::Is(1, libc::F_GETFD as u32)]),
];

const MAIN: &[Row] = &[
    (libc::SYS_epoll_wait, &[]),
    (libc::SYS_epoll_ctl, &[]),
    // Events of devices, requests of the parent.
    (libc::SYS_read, &[]),
    (libc::SYS_recvfrom, &[]),
    (libc::SYS_sendto, &[]),
    (libc::SYS_close, &[]),
    // Stopping vCPUs.
    (libc::SYS_tgkill, &[Check::IsStopSignal(2)]),
    // The thread's end: the standard library frees its alternate stack.
    (libc::SYS_sigaltstack, &[]),
];

const VCPU: &[Row] = &[
    (libc::SYS_ioctl, &[Check::Is(1, KVM_RUN)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_KVMCLOCK_CTRL)]),
    // To say where the guest was when KVM gave up.
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_REGS)]),
];

pub(crate) fn main_filter() -> Result<Filter, SeccompError> {
    compile("main", &[COMMON, MAIN], devices::SYSCALLS.iter().flat_map(|(_, syscalls)| *syscalls))
}

pub(crate) fn vcpu_filter() -> Result<Filter, SeccompError> {
    compile("vCPU", &[COMMON, VCPU], devices::VCPU_SYSCALLS)
}

/// `devices` are their own tables, whose calls may have any arguments.
fn compile<'a>(
    thread: &'static str,
    tables: &[&[Row]],
    devices: impl IntoIterator<Item = &'a c_long>,
) -> Result<Filter, SeccompError> {
    build(tables, devices).map(Filter).map_err(|error| SeccompError::Compile(thread, error))
}

fn build<'a>(
    tables: &[&[Row]],
    devices: impl IntoIterator<Item = &'a c_long>,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for &(syscall, checks) in tables.iter().copied().flatten() {
        let alternatives = rules.entry(syscall).or_default();
        if !checks.is_empty() {
            let conditions = checks.iter().map(|check| check.condition()).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    for &syscall in devices {
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
            Self::IsStopSignal(argument) => (argument, SeccompCmpOp::Eq, stop_signal()),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    }
}

fn stop_signal() -> u32 {
    let signal: c_int = SIGRTMIN();
    signal.unsigned_abs()
}
