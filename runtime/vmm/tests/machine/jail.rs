//! What the jail looks like from outside, while a guest runs.

use std::{collections::BTreeSet, fs, path::Path};

use securectr_vmm::control::Event;

use super::{
    guest,
    parent::{Setup, Vm},
};

fn running() -> Vm {
    let mut vm = Setup::new(guest::kernel(&[guest::say_for_ever(b'.')])).start();
    assert_eq!(vm.event(), Event::Running);
    vm
}

/// Fields of proc_pid_status(5), of each thread.
fn statuses(vm: &Vm) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", vm.pid())).unwrap();
    threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap()).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

#[test]
#[ignore = "needs KVM"]
fn no_thread_has_a_capability_or_a_way_to_one() {
    let vm = running();
    let statuses = statuses(&vm);
    // Newer kernels add one of KVM's.
    let names: BTreeSet<&str> = statuses.iter().map(|status| field(status, "Name")).collect();
    assert!(names.is_superset(&BTreeSet::from(["securectr-vmm", "vcpu0"])), "{names:?}");
    for status in &statuses {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(status, set), "0000000000000000", "{set}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1");
    }
}

#[test]
#[ignore = "needs KVM"]
fn every_thread_is_filtered_once() {
    let vm = running();
    for status in statuses(&vm) {
        assert_eq!(field(&status, "Seccomp"), "2", "filter mode");
        assert_eq!(field(&status, "Seccomp_filters"), "1", "its own filter only");
    }
}

#[test]
#[ignore = "needs KVM"]
fn its_namespaces_are_its_own() {
    let vm = running();
    for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        assert_ne!(of(&vm.pid().to_string()), of("self"), "{kind}");
    }
}

#[test]
#[ignore = "needs KVM"]
fn its_root_is_empty_and_read_only() {
    let vm = running();
    let process = format!("/proc/{}", vm.pid());
    assert_eq!(fs::read_dir(Path::new(&process).join("root")).unwrap().count(), 0);
    assert_eq!(fs::read_link(Path::new(&process).join("cwd")).unwrap(), Path::new("/"));
    let mounts = fs::read_to_string(Path::new(&process).join("mounts")).unwrap();
    let [mount] = mounts.lines().collect::<Vec<_>>()[..] else { panic!("{mounts}") };
    let options: BTreeSet<&str> = mount.split(' ').nth(3).unwrap().split(',').collect();
    assert!(options.is_superset(&BTreeSet::from(["ro", "nosuid", "nodev", "noexec"])), "{mount}");
}

#[test]
#[ignore = "needs KVM"]
fn it_holds_no_descriptor_beyond_its_work() {
    let vm = running();
    let mut others = BTreeSet::new();
    for fd in fs::read_dir(format!("/proc/{}/fd", vm.pid())).unwrap() {
        let target = fs::read_link(fd.unwrap().path()).unwrap().display().to_string();
        let kind = target.split([':', '[']).next().unwrap().to_owned();
        match kind.as_str() {
            "pipe" | "socket" | "/dev/null" => {}
            "anon_inode" => assert!(
                ["[eventfd]", "[eventpoll]", "kvm-vm", "kvm-vcpu"].iter().any(|known| target.contains(known)),
                "{target}"
            ),
            _ => {
                others.insert(target);
            }
        }
    }
    // Which of its own pages there are, without where.
    assert_eq!(others, BTreeSet::from([format!("/proc/{}/pagemap", vm.pid())]));
}

#[test]
#[ignore = "needs KVM"]
fn it_cannot_dump_core_nor_make_a_file_longer_than_what_it_saves() {
    let vm = running();
    let limits = fs::read_to_string(format!("/proc/{}/limits", vm.pid())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((limit("Max core file size"), limit("Max locked memory")), (0, 0));
    // 64 MiB of memory, and 8 for the rest.
    assert_eq!(limit("Max file size"), 72 << 20);
    assert_eq!(limit("Max open files"), 2048);
}
