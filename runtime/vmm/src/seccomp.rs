//! What each kind of thread may ask of the host's kernel once the guest runs; anything else kills the process. One row a system
//! call, with its reason: a row that nothing needs does not belong here.
//!
//! A filter is inherited by the threads that its thread starts, so the vCPUs' threads are started before the main thread
//! installs its own.

use securectr_jail::seccomp::{COMMON, Check, Filter, Row, SeccompError, compile};

use crate::devices;

/// KVM's ioctls on a vCPU (linux/kvm.h).
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_GET_MP_STATE: u32 = 0x8004_ae98;
const KVM_GET_SREGS: u32 = 0x8138_ae83;
const KVM_GET_XSAVE: u32 = 0x9000_aea4;
const KVM_GET_XCRS: u32 = 0x8188_aea6;
const KVM_GET_DEBUGREGS: u32 = 0x8080_aea1;
const KVM_GET_LAPIC: u32 = 0x8400_ae8e;
const KVM_GET_MSRS: u32 = 0xc008_ae88;
const KVM_GET_VCPU_EVENTS: u32 = 0x8040_ae9f;

/// The same on a VM.
const KVM_GET_IRQCHIP: u32 = 0xc208_ae62;
const KVM_GET_CLOCK: u32 = 0x8030_ae7c;

const MAIN: &[Row] = &[
    (libc::SYS_epoll_wait, &[]),
    // Events of devices.
    (libc::SYS_read, &[]),
    // What a tap is, and which frames a network interface's driver takes.
    (libc::SYS_ioctl, &[Check::Is(1, devices::NET_IOCTLS[0])]),
    (libc::SYS_ioctl, &[Check::Is(1, devices::NET_IOCTLS[1])]),
    (libc::SYS_ioctl, &[Check::Is(1, devices::NET_IOCTLS[2])]),
    // Memory that comes and goes.
    (libc::SYS_ioctl, &[Check::Is(1, devices::MEM_IOCTL)]),
    // A machine that is saved: what KVM knows of it, and where it is written.
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_IRQCHIP)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_CLOCK)]),
    (libc::SYS_pwrite64, &[]),
    // Which of its memory there is.
    (libc::SYS_pread64, &[]),
    // Requests of the parent.
    (libc::SYS_recvmsg, &[]),
    // Stopping vCPUs.
    (libc::SYS_tgkill, &[Check::IsFirstRealTimeSignal(2)]),
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
    // What a machine's state is, when it is saved.
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_MP_STATE)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_SREGS)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_XSAVE)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_XCRS)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_DEBUGREGS)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_LAPIC)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_MSRS)]),
    (libc::SYS_ioctl, &[Check::Is(1, KVM_GET_VCPU_EVENTS)]),
    // Return from the signal that stops vCPUs.
    (libc::SYS_rt_sigreturn, &[]),
];

pub(crate) fn main_filter() -> Result<Filter, SeccompError> {
    compile("main", &[COMMON, MAIN], devices::SYSCALLS.iter().flat_map(|(_, syscalls)| *syscalls))
}

pub(crate) fn vcpu_filter() -> Result<Filter, SeccompError> {
    compile("vCPU", &[COMMON, VCPU], devices::VCPU_SYSCALLS)
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

    use libc::c_long;

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
