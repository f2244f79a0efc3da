use std::time::Duration;

use rustix::{process::Resource, thread::CapabilitySet};
use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({
        "process": { "args": ["true"], "cwd": "/" },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
    })
}

/// The minimal spec with one value put in at a JSON pointer.
fn with(place: &str, value: Value) -> Result<ContainerPlan, PlanError> {
    let mut spec = minimal();
    let mut target = &mut spec;
    for name in place.split('/').skip(1) {
        target = match name.parse::<usize>() {
            Ok(index) => &mut target[index],
            Err(_) => &mut target[name],
        };
    }
    *target = value;
    container(&serde_json::to_vec(&spec).unwrap(), &[])
}

fn files(resources: Value) -> Vec<(String, String)> {
    with("/linux/resources", resources).unwrap().limits.files
}

fn file(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_minimal_spec_is_a_container_without_rights() {
    let plan = container(&serde_json::to_vec(&minimal()).unwrap(), &[]).unwrap();
    assert_eq!(plan.process.args, [c"true".to_owned()]);
    assert_eq!(plan.process.capabilities.bounding, CapabilitySet::empty());
    assert!(plan.namespaces.has_own_pid() && plan.process.terminal.is_none() && plan.limits.files.is_empty());
}

#[test]
fn what_is_not_a_spec_is_refused() {
    for text in ["", "{", r#"{"process": 1}"#, r#"{"process": {"args": "sh"}}"#] {
        assert!(matches!(container(text.as_bytes(), &[]), Err(PlanError::Json(_))), "{text}");
    }
    assert!(matches!(container(b"{}", &[]), Err(PlanError::Unsupported(_) | PlanError::Missing("process"))));
}

#[test]
fn unknown_properties_are_ignored_as_the_specification_demands() {
    assert!(with("/linux/somethingNew", json!({ "x": 1 })).is_ok());
    assert!(with("/annotations", json!({ "x": "1" })).is_ok());
}

#[test]
fn known_properties_that_cannot_be_done_are_refused_by_name() {
    for (place, value) in [
        ("process.scheduler", json!({ "policy": "SCHED_FIFO" })),
        ("process.ioPriority", json!({ "class": "IOPRIO_CLASS_RT" })),
        ("process.execCPUAffinity", json!({ "initial": "0" })),
        ("process.selinuxLabel", json!("label")),
        ("linux.mountLabel", json!("label")),
        ("linux.intelRdt", json!({})),
        ("linux.timeOffsets", json!({ "monotonic": {} })),
        ("linux.gidMappings", json!([{}])),
        ("linux.netDevices", json!({ "eth0": {} })),
        ("linux.memoryPolicy", json!({})),
        ("linux.resources.rdma", json!({ "x": {} })),
        ("linux.resources.network", json!({ "classID": 7 })),
        ("linux.resources.memory.kernelTCP", json!(4096)),
        ("linux.resources.cpu.realtimeRuntime", json!(1)),
        ("linux.resources.blockIO.leafWeight", json!(10)),
        ("hooks.createContainer", json!([{ "path": "/x" }])),
    ] {
        let refusal = with(&format!("/{}", place.replace('.', "/")), value).unwrap_err();
        assert!(refusal.to_string().contains(place), "{place}: {refusal}");
    }
}

#[test]
fn a_limit_that_is_given_twice_is_refused() {
    let limit = |name: &str| json!({ "type": name, "soft": 1, "hard": 1 });
    assert!(with("/process/rlimits", json!([limit("RLIMIT_CORE"), limit("RLIMIT_CPU")])).is_ok());
    let refusal = with("/process/rlimits", json!([limit("RLIMIT_CORE"), limit("RLIMIT_CORE")])).unwrap_err();
    assert!(refusal.to_string().contains("RLIMIT_CORE"), "{refusal}");
}

#[test]
fn empty_values_ask_for_nothing() {
    assert!(with("/process/selinuxLabel", json!("")).is_ok());
    assert!(with("/linux/uidMappings", json!([])).is_ok());
    assert!(with("/linux/resources/memory", json!({ "disableOOMKiller": false, "kernel": -1 })).is_ok());
    assert!(
        with("/hooks", json!({ "startContainer": [], "prestart": [{ "path": "/on/the/host" }] })).is_ok()
    );
}

#[test]
fn memory_is_written_with_swap_apart() {
    let memory = |limit: i64, swap: i64| json!({ "memory": { "limit": limit, "swap": swap } });
    assert_eq!(files(memory(100, 300)), [file("memory.swap.max", "200"), file("memory.max", "100")]);
    assert_eq!(files(memory(100, 100)), [file("memory.swap.max", "0"), file("memory.max", "100")]);
    assert_eq!(files(memory(-1, -1)), [file("memory.swap.max", "max"), file("memory.max", "max")]);
    assert_eq!(files(memory(100, 0)), [file("memory.max", "100")]);
    assert!(with("/linux/resources", memory(300, 100)).is_err(), "less of both than of one");
    assert!(with("/linux/resources", memory(0, 100)).is_err(), "of both without of one");
}

#[test]
fn cpu_quotas_come_with_their_period() {
    let cpu = |value: Value| files(json!({ "cpu": value }));
    assert_eq!(cpu(json!({ "quota": 150_000, "period": 200_000 })), [file("cpu.max", "150000 200000")]);
    assert_eq!(cpu(json!({ "quota": 50_000 })), [file("cpu.max", "50000 100000")]);
    assert_eq!(cpu(json!({ "quota": -1, "period": 50_000 })), [file("cpu.max", "max 50000")]);
    assert_eq!(cpu(json!({ "quota": 0, "period": 0 })), [file("cpu.max", "max 100000")]);
}

#[test]
fn shares_and_weights_are_converted_at_their_ends() {
    for (shares, weight) in [(2, "1"), (1024, "39"), (262_144, "10000"), (1, "1"), (u64::MAX, "10000")] {
        assert_eq!(files(json!({ "cpu": { "shares": shares } })), [file("cpu.weight", weight)]);
    }
    for (old, new) in [(10, "default 1"), (1000, "default 10000"), (65_535, "default 10000")] {
        assert_eq!(files(json!({ "blockIO": { "weight": old } })), [file("io.weight", new)]);
    }
}

#[test]
fn block_devices_are_throttled_by_their_numbers() {
    let resources = json!({ "blockIO": {
        "throttleReadBpsDevice": [{ "major": 254, "minor": 0, "rate": 1000 }],
        "throttleWriteIOPSDevice": [{ "major": 254, "minor": 16, "rate": 0 }] } });
    assert_eq!(files(resources), [file("io.max", "254:0 rbps=1000"), file("io.max", "254:16 wiops=max")]);
}

#[test]
fn unified_files_stay_in_the_cgroup() {
    assert_eq!(files(json!({ "unified": { "memory.high": "1" } })), [file("memory.high", "1")]);
    assert_eq!(
        files(json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 }] })),
        [file("hugetlb.2MB.max", "4")]
    );
    for name in ["cgroup.procs", "../memory.max", "memory.max/../x", "cgroup.kill", "memory", ""] {
        assert!(with("/linux/resources/unified", json!({ name: "1" })).is_err(), "{name}");
    }
    assert!(with("/linux/resources/hugepageLimits", json!([{ "pageSize": "../B", "limit": 1 }])).is_err());
}

#[test]
fn device_rules_have_wildcards() {
    let rules = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": -1, "access": "rm" }]);
    let rules = with("/linux/resources/devices", rules).unwrap().limits.devices;
    assert_eq!(rules[0], DeviceRule { allow: false, kind: None, major: None, minor: None, access: 7 });
    let kind = Some(DeviceKind::Character);
    assert_eq!(rules[1], DeviceRule { allow: true, kind, major: Some(1), minor: None, access: 3 });
    assert!(with("/linux/resources/devices", json!([{ "allow": true, "access": "x" }])).is_err());
}

#[test]
fn mount_options_are_told_apart() {
    let mount = json!([{ "destination": "/x", "type": "tmpfs",
        "options": ["nosuid", "ro", "rw", "noatime", "mode=755", "newinstance", "rslave", "rnodev", "defaults"] }]);
    let plan = with("/mounts", mount).unwrap().mounts.remove(0);
    let clear = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR__ATIME;
    assert_eq!(
        plan.attributes,
        Attributes { set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME, clear }
    );
    assert_eq!(plan.recursive_attributes, Attributes { set: libc::MOUNT_ATTR_NODEV, clear: 0 });
    assert!(plan.propagation.is_some_and(|propagation| propagation.recursive));
    let MountSource::FileSystem { kind, source, parameters } = plan.source else { panic!("not a bind") };
    assert_eq!((kind.as_str(), source.as_str()), ("tmpfs", "tmpfs"));
    assert_eq!(parameters, [("mode".into(), Some("755".into())), ("newinstance".into(), None)]);
}

#[test]
fn binds_are_known_by_type_or_option() {
    let plan = |mount: Value| with("/mounts", json!([mount]));
    for (kind, option, expected) in [("bind", "ro", true), ("none", "bind", false), ("bind", "rbind", true)] {
        let mount = json!({ "destination": "/x", "type": kind, "source": "/y", "options": [option] });
        let source = plan(mount).unwrap().mounts.remove(0).source;
        assert!(
            matches!(source, MountSource::Bind { path, recursive, copy_up: false } if path == "/y" && recursive == expected)
        );
    }
    let relative = plan(json!({ "destination": "x/y", "type": "bind", "source": "/y" })).unwrap();
    assert_eq!(relative.mounts[0].destination, "/x/y", "as the specification has it");
    assert!(plan(json!({ "destination": "/x", "type": "bind", "source": "y" })).is_err());
    assert!(plan(json!({ "destination": "/x", "type": "bind" })).is_err());
    assert!(plan(json!({ "destination": "/x" })).is_err());
    let refusal = plan(json!({ "destination": "/x", "type": "bind", "source": "/y", "options": ["mode=1"] }));
    assert!(refusal.unwrap_err().to_string().contains("mode"));
    let options = json!(["bind", "sync", "lazytime", "silent", "noiversion", "nodev"]);
    let plan = plan(json!({ "destination": "/x", "source": "/y", "options": options })).unwrap();
    assert!(matches!(plan.mounts[0].source, MountSource::Bind { .. }), "what mount(2) ignores is no refusal");
}

#[test]
fn what_is_mounted_gets_other_options() {
    let mount = json!([{ "destination": "/x", "type": "tmpfs", "options": ["remount", "ro", "size=1m"] }]);
    let plan = with("/mounts", mount).unwrap().mounts.remove(0);
    assert_eq!(plan.attributes.set, libc::MOUNT_ATTR_RDONLY);
    let MountSource::Remount { parameters } = plan.source else { panic!("a new mount") };
    assert_eq!(parameters, [("size".into(), Some("1m".into()))]);
}

#[test]
fn the_roots_propagation_is_its_mounts_only_when_it_says_so() {
    let propagation = |word: &str| with("/linux/rootfsPropagation", json!(word)).map(|plan| plan.propagation);
    for (word, recursive) in [("shared", false), ("rshared", true), ("private", false), ("runbindable", true)]
    {
        assert_eq!(propagation(word).unwrap().unwrap().recursive, recursive, "{word}");
    }
    assert!(propagation("viral").is_err());
}

#[test]
fn a_device_is_a_node_or_a_pipe() {
    let device = |kind: &str| with("/linux/devices", json!([{ "path": "/dev/x", "type": kind, "minor": 7 }]));
    for (kind, expected) in
        [("c", FileType::CharacterDevice), ("b", FileType::BlockDevice), ("p", FileType::Fifo)]
    {
        assert_eq!(device(kind).unwrap().devices[0].kind, expected);
    }
    assert!(device("s").is_err());
}

#[test]
fn rlimits_have_their_infinity() {
    let rlimits = json!([{ "type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX }]);
    let rlimits = with("/process/rlimits", rlimits).unwrap().process.rlimits;
    assert_eq!(rlimits.len(), 1);
    assert_eq!(rlimits[0].0, Resource::Core);
    assert_eq!((rlimits[0].1.current, rlimits[0].1.maximum), (Some(0), None));
    assert!(with("/process/rlimits", json!([{ "type": "RLIMIT_FLY", "soft": 0, "hard": 0 }])).is_err());
}

#[test]
fn strings_with_nul_are_refused() {
    assert!(with("/process/args", json!(["a\0b"])).is_err());
    assert!(with("/process/env", json!(["a\0b"])).is_err());
    assert!(with("/linux/maskedPaths", json!(["/a\0b"])).is_err());
}

#[test]
fn sysctls_are_read_as_sysctl_reads_them() {
    let path = |key: &str| with("/linux/sysctl", json!({ key: "1" })).map(|plan| plan.sysctls[0].0.clone());
    assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
    assert_eq!(path("net/ipv4/conf/eth0.1/rp_filter").unwrap(), "net/ipv4/conf/eth0.1/rp_filter");
    assert_eq!(path("net.ipv4.conf.eth0/1.rp_filter").unwrap(), "net/ipv4/conf/eth0.1/rp_filter");
    for key in ["", "/etc/passwd", "net/../../x", "a\0"] {
        assert!(path(key).is_err(), "{key:?}");
    }
}

#[test]
fn a_host_name_needs_a_namespace() {
    let mut spec = minimal();
    spec["hostname"] = json!("name");
    assert!(container(&serde_json::to_vec(&spec).unwrap(), &[]).is_err());
    spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts", "path": "/proc/7/ns/uts" }]);
    assert!(container(&serde_json::to_vec(&spec).unwrap(), &[]).is_ok());
}

#[test]
fn another_process_keeps_the_containers_filter() {
    let plan = with("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW" })).unwrap();
    let process = json!({ "args": ["sh"], "cwd": "/", "terminal": true, "consoleSize": { "width": 100_000, "height": 24 } });
    let process = exec(&serde_json::to_vec(&process).unwrap(), &plan.process).unwrap();
    assert!(process.seccomp.is_some());
    assert_eq!(process.terminal, Some(WindowSize { columns: u16::MAX, rows: 24 }));
}

#[test]
fn what_ctr_writes_by_itself_is_a_container() {
    let plan = container(include_bytes!("fixtures/ctr.json"), &[]).unwrap();
    assert_eq!((plan.mounts.len(), plan.limits.devices.len()), (7, 10));
    assert!(plan.process.no_new_privileges && plan.process.seccomp.is_none());
    assert!(plan.limits.files.is_empty());
}

#[test]
fn what_docker_writes_by_itself_is_a_container() {
    let plan = container(include_bytes!("fixtures/docker.json"), &[]).unwrap();
    let source = |place: &str| &plan.mounts.iter().find(|mount| mount.destination == place).unwrap().source;
    assert!(
        matches!(source("/sys/fs/cgroup"), MountSource::FileSystem { kind, .. } if kind == "cgroup2"),
        "there is no other in the guest"
    );
    assert!(matches!(source("/etc/hosts"), MountSource::Bind { recursive: true, .. }));
    assert!(plan.process.seccomp.is_some() && plan.namespaces.has_own_pid());
    assert_eq!(plan.limits.files, [file("pids.max", "max")]);
    assert_eq!(plan.sysctls.len(), 2);
}

#[test]
fn a_hook_of_the_containers_start_gets_its_state() {
    let hooks = |hook: Value| with("/hooks", json!({ "startContainer": [hook] })).map(|plan| plan.hooks);
    let plan = hooks(json!({ "path": "/bin/hook", "timeout": 3 })).unwrap();
    let hook = &plan.start_container[0];
    assert_eq!(
        (hook.args.as_slice(), hook.timeout),
        ([c"/bin/hook".to_owned()].as_slice(), Some(Duration::from_secs(3)))
    );
    let state: Value = serde_json::from_slice(&plan.state_json("web", 1).unwrap()).unwrap();
    assert_eq!(
        (&state["id"], &state["status"], &state["pid"]),
        (&json!("web"), &json!("created"), &json!(1))
    );
    for hook in [
        json!({}),
        json!({ "path": "hook" }),
        json!({ "path": "/hook", "timeout": 0 }),
        json!({ "path": "/\0" }),
    ] {
        assert!(hooks(hook.clone()).is_err(), "{hook}");
    }
}
