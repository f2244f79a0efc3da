//! Stopping vCPUs, and letting them go on.

use std::{thread, time::Duration};

use securectr_vmm::control::{Event, Request};

use super::{
    guest,
    parent::{Setup, Vm},
};

fn chattering(vcpu_count: u8) -> Vm {
    let mut vm = Setup { vcpu_count, ..Setup::new(guest::kernel(&[guest::say_for_ever(b'.')])) }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for_more(0);
    vm
}

/// Pauses, lets what is under way arrive, and tells how much has come.
fn pause(vm: &mut Vm) -> usize {
    assert_eq!(vm.ask(Request::Pause), Event::Paused);
    thread::sleep(Duration::from_millis(100));
    vm.console.len()
}

#[test]
#[ignore = "needs KVM"]
fn a_paused_guest_stands_still_and_goes_on() {
    let mut vm = chattering(1);
    for _ in 0..3 {
        let len = pause(&mut vm);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(vm.console.len(), len);
        assert_eq!(vm.ask(Request::Resume), Event::Resumed);
        vm.console.wait_for_more(len);
    }
}

#[test]
#[ignore = "needs KVM"]
fn vcpus_that_wait_to_be_woken_can_be_paused() {
    let mut vm = chattering(4);
    let len = pause(&mut vm);
    assert_eq!(vm.ask(Request::Resume), Event::Resumed);
    vm.console.wait_for_more(len);
}

#[test]
#[ignore = "needs KVM"]
fn asking_twice_is_no_harm() {
    let mut vm = chattering(2);
    assert_eq!(vm.ask(Request::Resume), Event::Resumed);
    assert_eq!(vm.ask(Request::Pause), Event::Paused);
    let len = pause(&mut vm);
    assert_eq!(vm.ask(Request::Resume), Event::Resumed);
    vm.console.wait_for_more(len);
}

#[test]
#[ignore = "needs KVM"]
fn a_paused_vmm_still_ends_with_its_parent() {
    let mut vm = chattering(2);
    pause(&mut vm);
    let (status, time) = vm.leave();
    assert_eq!(status.code(), Some(1));
    assert!(time < Duration::from_secs(1), "{time:?}");
}
