//! A machine that is saved, and others that go on where it was.

use std::fs::File;

use securectr_vmm::control::{End, Event, Request};
use serde_json::{Value, json};

use super::{
    guest,
    linux::setup,
    parent::{Saved, Setup, Vm},
};

const MEMORY_MIB: u32 = 128;

/// Counts in memory alone, so that it tells whether it goes on where it was.
const COUNT: &str = "/busybox mount -t sysfs sys /sys\n/busybox mount -t proc proc /proc\n\
    secret=$(/busybox cat /proc/sys/kernel/random/uuid)\nn=0\necho ready\n\
    while [ $(/busybox cat /sys/block/vda/size) = 0 ]; do n=$((n+1)); /busybox usleep 20000; done\n\
    echo counted $n\n/busybox head -n 1 /dev/vda\necho secret $secret\n\
    echo seconds $(/busybox cut -d . -f 1 /proc/uptime)";

/// Boots one, and saves it when it has said that it is ready.
fn template(script: &str, vcpu_count: u8) -> Saved {
    let saved = Saved::new(MEMORY_MIB);
    let mut vm = Setup { empty_disks: 1, vcpu_count, ..setup(script) }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for("ready");
    assert_eq!(vm.give(Request::Save, &saved.file), Event::Saved);
    saved
}

fn clone(saved: &Saved, vcpu_count: u8, disk: &[u8]) -> Vm {
    let mut disk = disk.to_vec();
    disk.resize(4096, 0);
    let disks = vec![guest::temporary(&disk)];
    Setup { disks, vcpu_count, restored: Some(saved.again()), ..setup("") }.start()
}

fn end(vm: &mut Vm) -> String {
    let event = vm.event_after_running();
    assert_eq!(event, Event::Ended(End::Reset), "{}", vm.console.text());
    vm.console.whole_text()
}

fn said<'a>(console: &'a str, word: &str) -> &'a str {
    let line = console.lines().find_map(|line| line.trim().strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word:?} in {console}")).trim()
}

#[test]
#[ignore = "needs KVM"]
fn clones_go_on_where_a_machine_was_saved_each_by_itself() {
    let saved = template(COUNT, 1);
    let secrets: Vec<_> = ["first", "second"]
        .map(|disk| {
            let console = end(&mut clone(&saved, 1, format!("{disk}\n").as_bytes()));
            assert!(console.contains(disk), "{console}");
            assert!(!console.contains("ready"), "it was said before: {console}");
            assert!(said(&console, "seconds").parse::<u64>().unwrap() < 60, "{console}");
            said(&console, "counted").parse::<u64>().unwrap();
            said(&console, "secret").to_owned()
        })
        .into();
    assert_eq!(secrets[0], secrets[1], "both have what the saved one had");
}

#[test]
#[ignore = "needs KVM"]
fn a_clone_has_the_vcpus_of_the_machine_it_was() {
    let script = "/busybox mount -t sysfs sys /sys\nfor cpu in 1 2; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done\n\
        (while :; do :; done) &\n(while :; do :; done) &\necho ready\n\
        while [ $(/busybox cat /sys/block/vda/size) = 0 ]; do :; done\necho cpus $(/busybox nproc)";
    let saved = template(script, 3);
    assert_eq!(said(&end(&mut clone(&saved, 3, b"x")), "cpus"), "3");
}

#[test]
#[ignore = "needs KVM"]
fn a_machine_that_was_saved_can_go_on_itself_and_be_saved_again() {
    let mut vm = Setup { empty_disks: 1, ..setup(COUNT) }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for("ready");
    for _ in 0..2 {
        assert_eq!(vm.give(Request::Save, &Saved::new(MEMORY_MIB).file), Event::Saved);
        assert_eq!(vm.ask(Request::Resume), Event::Resumed);
    }
    assert_eq!(
        vm.give(Request::AttachDisk { disk: 0, limits: None }, &guest::temporary(&[b'x'; 4096])),
        Event::DiskAttached(0)
    );
    assert_eq!(vm.event(), Event::Ended(End::Reset));
}

#[test]
#[ignore = "needs KVM"]
fn a_machine_that_cannot_be_written_down_goes_on() {
    let mut vm = Setup { empty_disks: 1, ..setup(COUNT) }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for("ready");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let Event::NotSaved(why) = vm.give(Request::Save, &full) else { panic!("it was saved") };
    assert!(why.starts_with("write the machine: "), "{why}");
    assert_eq!(vm.ask(Request::Resume), Event::Resumed);
    assert_eq!(
        vm.give(Request::AttachDisk { disk: 0, limits: None }, &guest::temporary(&[b'x'; 4096])),
        Event::DiskAttached(0)
    );
    assert_eq!(vm.event(), Event::Ended(End::Reset));
}

#[test]
#[ignore = "needs KVM"]
fn a_state_that_cannot_be_is_refused() {
    let saved = template(COUNT, 1);
    let good = saved.state();
    let with = |pointer: &str, value: Value| {
        let mut state = good.clone();
        *state.pointer_mut(pointer).unwrap() = value;
        serde_json::to_vec(&state).unwrap()
    };
    let first_vcpu = good["vcpus"][0].clone();
    let wrong = [
        (b"{".to_vec(), "understand the state"),
        (vec![b' '; (8 << 20) + 1], "longer than"),
        (with("/format", json!(1)), "format 1"),
        (with("/vcpus", json!([])), "0 vCPUs"),
        (with("/vcpus", json!([first_vcpu, first_vcpu])), "2 vCPUs"),
        (with("/devices", json!([])), "0 devices"),
        (with("/devices/0/kind", json!(1)), "device id 1"),
        (with("/devices/0/queues/0/descriptors", json!(u64::MAX)), "restore device 0"),
        (with("/vcpus/0/msrs", json!([[0x10, 0], [0x1234_5678, 1]])), "MSR 0x12345678"),
        (with("/vm/chips/0", good["vm"]["chips"][1].clone()), "interrupt chip 1"),
    ];
    for (state, because) in wrong {
        let restored = Some(saved.with_state(&state));
        let mut vm = Setup { empty_disks: 1, restored, ..setup("") }.start();
        match vm.event() {
            Event::Failed(why) if why.contains(because) => {}
            other => panic!("{other:?} in place of {because:?}"),
        }
    }
}

/// The places of all values that have none below them.
fn leaves(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Array(all) => {
            all.iter()
                .enumerate()
                .for_each(|(index, value)| leaves(value, format!("{place}/{index}"), found));
        }
        Value::Object(all) => {
            all.iter().for_each(|(name, value)| leaves(value, format!("{place}/{name}"), found));
        }
        _ => found.push(place),
    }
}

/// What somebody could write in the place of a value.
fn others(value: &Value, number: u64) -> Value {
    match (value, number % 5) {
        (Value::String(text), 0..=2) if text.len() > 1 => {
            let at = number as usize / 5 % text.len();
            json!(format!("{}{:x}{}", &text[..at], number % 16, &text[at + 1..]))
        }
        (Value::Number(_), 0) => json!(0),
        (Value::Number(_), 1) => json!(u64::MAX),
        (Value::Number(old), 2) => json!(old.as_u64().unwrap_or(0) ^ 1 << (number / 5 % 64)),
        (Value::Number(_), 3) => json!(number),
        (_, 4) => json!([number]),
        _ => Value::Null,
    }
}

#[test]
#[ignore = "needs KVM"]
fn a_state_that_was_changed_anywhere_is_refused_or_taken_up() {
    let saved = template(COUNT, 2);
    let good = saved.state();
    let mut places = Vec::new();
    leaves(&good, String::new(), &mut places);
    // xorshift64: the same changes each time.
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..100 {
        let mut state = good.clone();
        let mut place = "";
        for _ in 0..1 + number % 3 {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            place = &places[number as usize % places.len()];
            let value = state.pointer_mut(place).unwrap();
            *value = others(value, number >> 8);
        }
        let restored = Some(saved.with_state(&serde_json::to_vec(&state).unwrap()));
        let mut vm = Setup { empty_disks: 1, vcpu_count: 2, restored, ..setup("") }.start();
        match vm.event() {
            Event::Running => taken += 1,
            Event::Failed(why) if why.starts_with("restore the machine: ") => refused += 1,
            other => panic!("{place}: {other:?}"),
        }
    }
    assert!(refused > 0 && taken > 0, "{refused} refused, {taken} taken up");
}
