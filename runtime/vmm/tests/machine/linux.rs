//! The guest's own kernel.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use securectr_vmm::control::{End, Event, Request};

use super::{
    guest,
    parent::{Setup, Vm},
};

const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/guest/vmlinux");

/// An initramfs whose init is a script for the host's static busybox.
fn initramfs(script: &str) -> File {
    let root = tempfile::tempdir().unwrap();
    fs::copy("/bin/busybox", root.path().join("busybox")).expect("the package busybox-static");
    let init = root.path().join("init");
    fs::write(&init, format!("#!/busybox sh\n{script}\n/busybox sleep 1\n/busybox reboot -f\n")).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    guest::temporary(&archive(root.path(), "busybox\ninit\n"))
}

fn archive(directory: &Path, names: &str) -> Vec<u8> {
    let mut cpio = Command::new("/bin/busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    cpio.stdin.take().unwrap().write_all(names.as_bytes()).unwrap();
    cpio.wait_with_output().unwrap().stdout
}

pub(crate) fn setup(script: &str) -> Setup {
    let kernel = File::open(KERNEL).expect("make guest builds it");
    // Without a node for the console in the archive, the script opens what devtmpfs has.
    let script = format!(
        "/busybox mount -t devtmpfs dev /dev\nexec >/dev/ttyS0 2>&1\n/busybox mkdir -p /proc /sys\n{script}"
    );
    Setup {
        initramfs: initramfs(&script),
        command_line: "console=ttyS0 quiet reboot=k panic=-1 maxcpus=1".to_owned(),
        memory_mib: 128,
        ..Setup::new(kernel)
    }
}

fn run(script: &str, vcpu_count: u8, memory_mib: u32) -> String {
    let mut vm = Setup { vcpu_count, memory_mib, ..setup(script) }.start();
    let event = vm.event_after_running();
    assert_eq!(event, Event::Ended(End::Reset), "{}", vm.console.text());
    vm.console.whole_text()
}

#[test]
#[ignore = "needs KVM"]
fn boots_to_init_and_takes_its_time_from_kvm() {
    let console = run(
        "/busybox mount -t sysfs sys /sys\necho up\n/busybox cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
        1,
        128,
    );
    assert!(console.contains("up") && console.contains("kvm-clock"), "{console}");
}

#[test]
#[ignore = "needs KVM"]
fn brings_its_other_vcpus_online() {
    let script = "/busybox mount -t sysfs sys /sys\n/busybox nproc\n\
        for cpu in 1 2 3; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done\n/busybox nproc";
    let console = run(script, 4, 128);
    let counts: Vec<&str> = console.lines().filter(|line| line.parse::<u8>().is_ok()).collect();
    assert_eq!(counts, ["1", "4"], "{console}");
}

#[test]
#[ignore = "needs KVM"]
fn a_vcpu_runs_when_it_is_allowed_to() {
    let script = "/busybox mount -t sysfs sys /sys\nonline() { echo 1 >/sys/devices/system/cpu/cpu$1/online && echo cpu$1 runs; }\n\
        online 1 &\n/busybox sleep 2\necho early on $(/busybox nproc)\nwait\nonline 2\necho late on $(/busybox nproc)";
    let mut vm = Setup { vcpu_count: 3, allowed_vcpu_count: Some(1), ..setup(script) }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for("early on 1");
    assert_eq!(vm.ask(Request::Pause), Event::Paused);
    assert_eq!(vm.ask(Request::AllowVcpus(2)), Event::VcpusAllowed(2));
    assert_eq!(vm.ask(Request::Resume), Event::Resumed);
    vm.console.wait_for("cpu1 runs");
    assert_eq!(vm.ask(Request::AllowVcpus(1)), Event::VcpusAllowed(2));
    assert_eq!(vm.ask(Request::AllowVcpus(9)), Event::VcpusAllowed(3));
    vm.console.wait_for("late on 3");
    assert_eq!(vm.event(), Event::Ended(End::Reset), "{}", vm.console.text());
}

#[test]
#[ignore = "needs KVM"]
fn has_memory_on_both_sides_of_the_hole() {
    // Lazily backed: the host needs not have it.
    let console = run("/busybox mount -t proc proc /proc\n/busybox grep MemTotal /proc/meminfo", 1, 4096);
    let total = console.lines().find_map(|line| line.trim().strip_prefix("MemTotal:")).unwrap();
    let kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib > 3900 << 10, "{kib}");
}

#[test]
#[ignore = "needs KVM"]
fn a_panic_is_a_reset_after_its_words() {
    let console = run("exit 3", 1, 128);
    assert!(console.contains("Kernel panic - not syncing: Attempted to kill init!"), "{console}");
}

#[test]
#[ignore = "needs KVM"]
fn a_disk_is_filled_and_emptied_while_it_runs() {
    let disk = guest::temporary(&[b"first\n".to_vec(), vec![0; 4090]].concat());
    let script = "/busybox mount -t sysfs sys /sys\nsize=/sys/block/vdb/size\n\
        echo serial $(/busybox cat /sys/block/vdb/serial) of $(/busybox cat $size)\n\
        until [ $(/busybox cat $size) = 8 ]; do /busybox usleep 10000; done\n\
        /busybox head -n 1 /dev/vdb\necho last | /busybox dd of=/dev/vdb bs=512 seek=7 conv=notrunc 2>/dev/null\n\
        echo written\nuntil [ $(/busybox cat $size) = 0 ]; do /busybox usleep 10000; done\n\
        echo rest $(/busybox cat /dev/vdb | /busybox wc -c)";
    let mut vm = Setup { empty_disks: 2, ..setup(script) }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for("serial disk-1 of 0");
    assert_eq!(vm.give(Request::AttachDisk { disk: 1, limits: None }, &disk), Event::DiskAttached(1));
    vm.console.wait_for("written");
    assert_eq!(vm.ask(Request::DetachDisk(1)), Event::DiskDetached(1));
    assert_eq!(vm.event(), Event::Ended(End::Reset), "{}", vm.console.text());
    let console = vm.console.whole_text();
    assert!(console.contains("first") && console.contains("rest 0"), "{console}");
    let mut written = [0; 5];
    disk.read_exact_at(&mut written, 7 * 512).unwrap();
    assert_eq!(&written, b"last\n");
}

/// Fills what it is given, and gives it back.
const FILL: &str = "/busybox mount -t proc proc /proc\n/busybox mkdir /t\n\
    total() { /busybox awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }\n\
    base=$(total)\nmore=$((base + 384))\necho booted\n\
    while [ $(total) -lt $more ]; do /busybox sleep 0.1; done\n\
    /busybox mount -t tmpfs -o size=400m tmpfs /t\n\
    /busybox dd if=/dev/zero of=/t/x bs=1M count=300 && echo filled\n\
    while [ $(total) -ge $more ]; do /busybox sleep 0.1; done\n/busybox rm /t/x\n\
    while [ $(total) -gt $base ]; do /busybox sleep 0.1; done\necho small again";

#[test]
#[ignore = "needs KVM"]
fn memory_comes_and_goes_while_it_runs() {
    let memory = Setup { hotplug_mib: 1024, ..setup(FILL) };
    let command_line = format!("{} memory_hotplug.online_policy=auto-movable", memory.command_line);
    let mut vm = Setup { command_line, ..memory }.start();
    assert_eq!(vm.event(), Event::Running);
    vm.console.wait_for("booted");
    resize(&mut vm, 384);
    vm.console.wait_for("filled");
    let full_mib = resident_mib(&vm);
    assert!(full_mib > 300, "{full_mib} MiB");
    resize(&mut vm, 0);
    vm.console.wait_for("small again");
    let empty_mib = resident_mib(&vm);
    assert!(empty_mib < 150, "{empty_mib} MiB of {full_mib}");
    assert_eq!(vm.event(), Event::Ended(End::Reset), "{}", vm.console.text());
}

/// Waits until the guest has done it. The first answer may come when it has done a part already, or all.
fn resize(vm: &mut Vm, mib: u32) {
    let done = Event::Memory { plugged_mib: mib, requested_mib: mib };
    let answer = vm.ask(Request::ResizeMemory(mib));
    assert!(matches!(answer, Event::Memory { requested_mib, .. } if requested_mib == mib), "{answer:?}");
    if answer != done {
        assert_eq!(vm.event(), done);
    }
}

/// What the host backs of a VMM's memory.
fn resident_mib(vm: &Vm) -> u64 {
    thread::sleep(Duration::from_millis(100));
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
