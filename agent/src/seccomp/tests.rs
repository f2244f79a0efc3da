//! The programs are run by an interpreter of the few instructions that they are made of.

use super::*;

struct Call {
    architecture: u32,
    number: u32,
    args: [u64; 6],
}

fn call(name: &str, args: [u64; 6]) -> Call {
    Call { architecture: 0xc000_003e, number: name.parse::<Sysno>().unwrap() as u32, args }
}

fn run(filter: &Filter, call: &Call) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.architecture,
        _ => {
            let argument = call.args[(offset as usize - 16) / 8];
            if offset % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = filter.program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match u32::from(step.code) {
            0x20 => accumulator = word(step.k),
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return step.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn profile(json: &str) -> Filter {
    compile(&serde_json::from_str(json).unwrap()).unwrap()
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const PERMISSION: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

#[test]
fn listed_calls_are_allowed_and_others_refused() {
    let filter = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read", "write", "exit_group", "openat2", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#,
    );
    for name in ["read", "write", "exit_group", "openat2"] {
        assert_eq!(run(&filter, &call(name, [0; 6])), ALLOW, "{name}");
    }
    assert_eq!(run(&filter, &call("open", [0; 6])), PERMISSION);
    assert_eq!(run(&filter, &call("clone3", [0; 6])), libc::SECCOMP_RET_ERRNO | 38);
}

#[test]
fn every_number_gets_what_its_name_was_given() {
    let names: Vec<_> = Sysno::iter().step_by(3).collect();
    let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
    let filter = profile(&format!(
        r#"{{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{{"names": [{list}], "action": "SCMP_ACT_ALLOW"}}]}}"#
    ));
    for name in Sysno::iter() {
        let expected = if names.contains(&name) { ALLOW } else { libc::SECCOMP_RET_KILL_THREAD };
        assert_eq!(run(&filter, &call(name.name(), [0; 6])), expected, "{name}");
    }
}

#[test]
fn what_is_newer_than_the_profile_does_not_exist() {
    let filter = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["clone3"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let newer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    assert_eq!(run(&filter, &call("openat2", [0; 6])), newer);
    assert_eq!(run(&filter, &Call { architecture: 0xc000_003e, number: 9999, args: [0; 6] }), newer);
}

#[test]
fn another_architecture_is_killed() {
    let filter = profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    let foreign = Call { architecture: 0x4000_0003, number: 1, args: [0; 6] };
    assert_eq!(run(&filter, &foreign), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn comparisons_are_of_64_bits() {
    let values = [0, 1, 7, u64::from(u32::MAX), 1 << 32, (1 << 32) + 1, (7 << 32) + 7, u64::MAX];
    type Test = fn(u64, u64) -> bool;
    let tests: [(&str, Test); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (op, holds) in tests {
        for limit in values {
            let filter = profile(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                    "args": [{{"index": 2, "value": {limit}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
            ));
            for value in values {
                let expected = if holds(value, limit) { ALLOW } else { PERMISSION };
                assert_eq!(
                    run(&filter, &call("ioctl", [0, 0, value, 0, 0, 0])),
                    expected,
                    "{value} {op} {limit}"
                );
            }
        }
    }
}

#[test]
fn a_masked_comparison_looks_only_at_the_mask() {
    // As docker's profile has it: clone without new namespaces.
    let filter = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    assert_eq!(run(&filter, &call("clone", [libc::CLONE_VM as u64, 0, 0, 0, 0, 0])), ALLOW);
    assert_eq!(run(&filter, &call("clone", [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0])), PERMISSION);
}

#[test]
fn conditions_on_different_arguments_must_all_hold_and_on_one_argument_any() {
    let all = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&all, &call("socket", [1, 2, 0, 0, 0, 0])), ALLOW);
    assert_eq!(run(&all, &call("socket", [1, 3, 0, 0, 0, 0])), PERMISSION);
    let any = profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&any, &call("socket", [2, 0, 0, 0, 0, 0])), ALLOW);
    assert_eq!(run(&any, &call("socket", [3, 0, 0, 0, 0, 0])), PERMISSION);
}

#[test]
fn a_condition_outranks_what_holds_without_one() {
    let filter = profile(
        r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 21522, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&filter, &call("ioctl", [0, 21522, 0, 0, 0, 0])), PERMISSION);
    assert_eq!(run(&filter, &call("ioctl", [0, 0, 0, 0, 0, 0])), ALLOW);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for json in [
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SCMP_ACT_NOTIFY"]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ACT_NOTIFY"]}"#,
    ] {
        let refusal = compile(&serde_json::from_str(json).unwrap()).unwrap_err();
        assert!(refusal.to_string().contains("SCMP_ACT_NOTIFY"), "{refusal}");
    }
}

#[test]
fn an_error_is_only_for_actions_that_have_one() {
    let refuses = |json: &str| compile(&serde_json::from_str(json).unwrap()).is_err();
    assert!(refuses(r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#));
    let entry = |names: &str, action: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{{"names": [{names}], "action": "{action}", "errnoRet": 1}}]}}"#
        )
    };
    assert!(refuses(&entry("\"read\"", "SCMP_ACT_KILL")));
    assert!(!refuses(&entry("\"read\"", "SCMP_ACT_TRACE")));
    assert!(refuses(&entry("", "SCMP_ACT_ERRNO")), "it names no call");
}
