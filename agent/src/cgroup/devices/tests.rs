//! The programs are run by an interpreter of the few instructions that they are made of.

use super::*;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

fn allows(rules: &[DeviceRule], kind: i32, access: u32, (major, minor): (u32, u32)) -> bool {
    let context = [kind as u32 | access << 16, major, minor];
    let program = program(rules);
    let mut registers = [0_u32; 8];
    let mut at = 0;
    loop {
        let [code, both, low, high, a, b, c, d] = program[at].to_le_bytes();
        at += 1;
        let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
        let offset = i16::from_le_bytes([low, high]);
        let value = u32::from_le_bytes([a, b, c, d]);
        match code {
            LOAD_WORD => registers[to] = context[offset as usize / 4],
            MOVE_REGISTER_32 => registers[to] = registers[from],
            MOVE_32 => registers[to] = value,
            AND_32 => registers[to] &= value,
            SHIFT_RIGHT_32 => registers[to] >>= value,
            JUMP_IF_32 if registers[to] == value => at += offset as usize,
            JUMP_IF_NOT_32 if registers[to] != value => at += offset as usize,
            JUMP_IF_32 | JUMP_IF_NOT_32 => {}
            EXIT => return registers[0] == 1,
            other => panic!("opcode {other:#x}"),
        }
    }
}

fn rule(
    allow: bool,
    kind: Option<DeviceKind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access }
}

#[test]
fn what_no_rule_names_is_refused() {
    assert!(!allows(&[], CHARACTER, READ, (1, 3)));
}

#[test]
fn a_rule_is_for_its_kind_and_numbers() {
    let null = [rule(true, Some(DeviceKind::Character), Some(1), Some(3), ALL_ACCESS)];
    assert!(allows(&null, CHARACTER, READ | WRITE, (1, 3)));
    assert!(!allows(&null, BLOCK, READ, (1, 3)));
    assert!(!allows(&null, CHARACTER, READ, (1, 5)));
    assert!(!allows(&null, CHARACTER, READ, (5, 3)));
    let terminals = [rule(true, Some(DeviceKind::Character), Some(136), None, ALL_ACCESS)];
    assert!(allows(&terminals, CHARACTER, WRITE, (136, 77)));
}

#[test]
fn access_is_given_by_the_letter() {
    let rules = [rule(true, None, Some(8), Some(0), READ | MKNOD)];
    assert!(allows(&rules, BLOCK, READ, (8, 0)));
    assert!(allows(&rules, BLOCK, READ | MKNOD, (8, 0)));
    assert!(!allows(&rules, BLOCK, READ | WRITE, (8, 0)));
}

#[test]
fn later_rules_outrank_earlier_ones() {
    let all = rule(true, None, None, None, ALL_ACCESS);
    let no_writing = rule(false, Some(DeviceKind::Block), Some(8), Some(0), WRITE);
    let rules = [all, no_writing];
    assert!(allows(&rules, BLOCK, READ, (8, 0)));
    assert!(!allows(&rules, BLOCK, WRITE, (8, 0)));
    assert!(!allows(&rules, BLOCK, READ | WRITE, (8, 0)));
    assert!(allows(&rules, BLOCK, WRITE, (8, 1)));
    assert!(allows(&[no_writing, all], BLOCK, WRITE, (8, 0)));
}

#[test]
fn no_instruction_is_out_of_reach() {
    let all = rule(false, None, None, None, ALL_ACCESS);
    let one = rule(true, None, Some(1), None, ALL_ACCESS);
    assert_eq!(program(&[one, all, one]), program(&[all, one]));
}

#[test]
fn dockers_list_lets_only_its_devices_through() {
    let nothing = rule(false, None, None, None, ALL_ACCESS);
    let make_any = rule(true, Some(DeviceKind::Character), None, None, MKNOD);
    let null = rule(true, Some(DeviceKind::Character), Some(1), Some(3), ALL_ACCESS);
    let rules = [nothing, make_any, null];
    assert!(allows(&rules, CHARACTER, MKNOD, (9, 9)));
    assert!(!allows(&rules, CHARACTER, READ, (9, 9)));
    assert!(!allows(&rules, BLOCK, MKNOD, (8, 0)));
    assert!(allows(&rules, CHARACTER, READ | WRITE, (1, 3)));
}
