//! How guests end, and how the VMM does.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use securectr_vmm::control::{End, Event};

use super::{guest, parent::Setup};

fn end_of(code: &[Vec<u8>]) -> (Event, String) {
    let mut vm = Setup::new(guest::kernel(code)).start();
    let event = vm.event_after_running();
    assert!(vm.wait().success());
    (event, vm.console.whole_text())
}

#[test]
#[ignore = "needs KVM"]
fn a_reset_ends_the_guest_after_its_last_word() {
    let (event, console) = end_of(&[guest::say(b'h'), guest::say(b'i'), guest::reset()]);
    assert_eq!(event, Event::Ended(End::Reset));
    assert_eq!(console, "hi");
}

#[test]
#[ignore = "needs KVM"]
fn a_triple_fault_is_told() {
    let (event, _) = end_of(&[guest::fault()]);
    assert_eq!(event, Event::Ended(End::TripleFault));
}

#[test]
#[ignore = "needs KVM"]
fn what_kvm_cannot_run_is_told_with_its_place() {
    // Above the guest's 64 MiB.
    let (event, _) = end_of(&[guest::jump_to(0x1000_0000)]);
    let Event::Ended(End::KvmError(text)) = event else { panic!("{event:?}") };
    assert!(text.contains("internal error 1") && text.contains("rip 0x10000000"), "{text}");
}

#[test]
#[ignore = "needs KVM"]
fn the_vmm_ends_when_its_parent_closes_the_control_socket() {
    let mut vm = Setup::new(guest::kernel(&[guest::say_for_ever(b'.')])).start();
    assert_eq!(vm.event(), Event::Running);
    let (status, time) = vm.leave();
    assert_eq!(status.code(), Some(1));
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[test]
#[ignore = "needs KVM"]
fn the_vmm_ends_when_its_parent_is_killed() {
    let mut vm = Setup::new(guest::kernel(&[guest::say_for_ever(b'.')])).start();
    assert_eq!(vm.event(), Event::Running);
    let status = format!("/proc/{}/status", vm.pid());
    // Gone, or a zombie for whom it was left to.
    let lives = || fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ"));
    assert!(lives());
    vm.kill_launcher();
    let since = Instant::now();
    while lives() {
        assert!(since.elapsed() < Duration::from_secs(1), "{status} is still there");
        thread::sleep(Duration::from_millis(5));
    }
}
