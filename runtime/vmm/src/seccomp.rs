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

const MAIN: &[Row] = &[
    (libc::SYS_epoll_wait, &[]),
    // Events of devices.
    (libc::SYS_read, &[]),
    // What a tap is, and which frames a network interface's driver takes.
    (libc::SYS_ioctl, &[Check::Is(1, devices::NET_IOCTLS[0])]),
    (libc::SYS_ioctl, &[Check::Is(1, devices::NET_IOCTLS[1])]),
    (libc::SYS_ioctl, &[Check::Is(1, devices::NET_IOCTLS[2])]),
    // Requests of the parent.
    (libc::SYS_recvmsg, &[]),
    // Stopping vCPUs.
    (libc::SYS_tgkill, &[Check::IsStopSignal(2)]),
    // The allocator's, where it begins and for what is large.
    (libc::SYS_brk, &[]),
    (libc::SYS_mremap, &[]),
    // The end: the standard library frees its alternate stack.
    (libc::SYS_sigaltstack, &[]),
    (libc::SYS_exit_group, &[]),
];

const VCPU: &[Row] = &[
    (libc::SYS_ioctl, &[Check::Is(1, KVM_RUN)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_KVMCLOCK_CTRL)]),
    // To say where the guest was when KVM gave up.
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_REGS)]),
    // Return from the signal that stops vCPUs.
    (libc::SYS_rt_sigreturn, &[]),
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

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        env, fs,
        os::unix::process::{ExitStatusExt, parent_id},
        panic,
        process::{self, Command},
        thread,
    };

    use super::*;

    /// Runs one of the tests below that cannot return, and answers with the signal that has ended it.
    fn signal_of(test: &str) -> Option<i32> {
        let name = format!("seccomp::tests::{test}");
        let output =
            Command::new(env::current_exe().unwrap()).args(["--ignored", "--exact", &name]).output().unwrap();
        output.status.signal()
    }

    #[test]
    fn a_system_call_without_a_row_ends_the_process() {
        assert_eq!(signal_of("asks_for_its_parent_on_the_main_thread"), Some(libc::SIGSYS));
        assert_eq!(signal_of("opens_a_file_on_a_vcpus_thread"), Some(libc::SIGSYS));
    }

    #[test]
    fn a_panic_is_an_abort_and_not_a_breach_of_the_filter() {
        assert_eq!(signal_of("panics_on_the_main_thread"), Some(libc::SIGABRT));
        assert_eq!(signal_of("panics_on_a_vcpus_thread"), Some(libc::SIGABRT));
    }

    #[test]
    fn a_thread_that_meets_another_in_a_channel_may_yield() {
        assert_eq!(signal_of("yields_on_the_main_thread"), Some(libc::SIGABRT));
        assert_eq!(signal_of("yields_on_a_vcpus_thread"), Some(libc::SIGABRT));
    }

    #[test]
    #[ignore = "ends its process"]
    fn yields_on_the_main_thread() {
        main_filter().unwrap().install().unwrap();
        thread::yield_now();
        process::abort();
    }

    #[test]
    #[ignore = "ends its process"]
    fn yields_on_a_vcpus_thread() {
        vcpu_filter().unwrap().install().unwrap();
        thread::yield_now();
        process::abort();
    }

    #[test]
    #[ignore = "ends its process"]
    fn asks_for_its_parent_on_the_main_thread() {
        main_filter().unwrap().install().unwrap();
        let _ = parent_id();
    }

    #[test]
    #[ignore = "ends its process"]
    fn opens_a_file_on_a_vcpus_thread() {
        vcpu_filter().unwrap().install().unwrap();
        let _ = fs::read("/dev/null");
    }

    #[test]
    #[ignore = "ends its process"]
    fn panics_on_the_main_thread() {
        panic::set_hook(Box::new(|_| process::abort()));
        main_filter().unwrap().install().unwrap();
        panic!();
    }

    #[test]
    #[ignore = "ends its process"]
    fn panics_on_a_vcpus_thread() {
        panic::set_hook(Box::new(|_| process::abort()));
        vcpu_filter().unwrap().install().unwrap();
        panic!();
    }

    #[test]
    fn a_row_without_conditions_stands_alone() {
        for table in [[COMMON, MAIN].concat(), [COMMON, VCPU].concat()] {
            let free: Vec<c_long> =
                table.iter().filter(|(_, checks)| checks.is_empty()).map(|&(syscall, _)| syscall).collect();
            let all = |wanted| table.iter().filter(|&&(syscall, _)| syscall == wanted).count();
            assert!(free.iter().all(|&syscall| all(syscall) == 1), "{free:?}");
        }
    }

    #[test]
    fn no_device_lifts_a_condition() {
        let held: BTreeSet<c_long> = [COMMON, MAIN, VCPU]
            .concat()
            .iter()
            .filter(|(_, checks)| !checks.is_empty())
            .map(|&(syscall, _)| syscall)
            .collect();
        let devices =
            devices::SYSCALLS.iter().flat_map(|(_, syscalls)| *syscalls).chain(devices::VCPU_SYSCALLS);
        for syscall in devices {
            assert!(!held.contains(syscall), "{syscall}");
        }
    }
}
