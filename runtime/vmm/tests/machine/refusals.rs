//! What the VMM refuses, with the cause that its parent hears.

use securectr_vmm::control::Event;

use super::{guest, parent::Setup};

fn assert_refused(setup: Setup, cause: &str) {
    let mut vm = setup.start();
    let Event::Failed(text) = vm.event() else { panic!("not refused: {cause}") };
    assert!(text.contains(cause), "{text}");
    assert_eq!(vm.wait().code(), Some(1));
}

fn setup() -> Setup {
    Setup::new(guest::kernel(&[guest::reset()]))
}

#[test]
#[ignore = "needs KVM"]
fn to_run_outside_of_namespaces() {
    assert_refused(Setup { namespaces: false, ..setup() }, "it must be the first");
}

#[test]
#[ignore = "needs KVM"]
fn sizes_out_of_bounds() {
    assert_refused(
        Setup { hotplug_mib: 100, ..setup() },
        "100 MiB of memory that may come later are too many, or no multiple of 128",
    );
    assert_refused(Setup { hotplug_mib: 2 << 20, ..setup() }, "are too many");
    assert_refused(Setup { memory_mib: 0, ..setup() }, "0 MiB of memory are out of bounds: 16 to");
    assert_refused(Setup { vcpu_count: 0, ..setup() }, "0 vCPUs are out of bounds: 1 to 64");
    assert_refused(Setup { vcpu_count: 65, ..setup() }, "65 vCPUs are out of bounds");
    assert_refused(
        Setup { vcpu_count: 2, allowed_vcpu_count: Some(3), ..setup() },
        "3 of 2 vCPUs cannot be let run",
    );
    let disks = (0..17).map(|_| guest::temporary(&[0; 512])).collect();
    assert_refused(Setup { disks, ..setup() }, "20 devices are too many: 19");
}

#[test]
#[ignore = "needs KVM"]
fn a_kernel_that_is_none() {
    assert_refused(Setup::new(guest::temporary(b"#!/bin/sh\n")), "load the guest kernel");
}

#[test]
#[ignore = "needs KVM"]
fn an_initramfs_without_room() {
    let initramfs = guest::temporary(&[]);
    initramfs.set_len(100 << 20).unwrap();
    assert_refused(Setup { initramfs, ..setup() }, "memory is too small");
}

#[test]
#[ignore = "needs KVM"]
fn a_command_line_that_linux_would_cut() {
    assert_refused(Setup { command_line: "x".repeat(2048), ..setup() }, "command line");
}

#[test]
#[ignore = "needs KVM"]
fn a_directory_for_a_disk() {
    let directory = std::fs::File::open("/").unwrap();
    assert_refused(Setup { disks: vec![directory], ..setup() }, "is a directory, which is a way out");
}
