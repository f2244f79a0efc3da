//! Who may use which device, as an eBPF program over `struct bpf_cgroup_dev_ctx` (linux/bpf.h): 1 allows, 0 refuses.

use crate::plan::{DeviceKind, DeviceRule};

/// One eBPF instruction as the kernel reads it: code, registers, offset and immediate value.
pub(super) type Instruction = u64;

/// mknod alone.
pub(super) const MAKE: u32 = 1;

/// mknod, read and write.
pub(super) const ALL_ACCESS: u32 = 7;

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

// Opcodes of Documentation/bpf/standardization/instruction-set.rst.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER_32: u8 = 0xbc;
const MOVE_32: u8 = 0xb4;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_IF_32: u8 = 0x16;
const JUMP_IF_NOT_32: u8 = 0x56;
const EXIT: u8 = 0x95;

// Registers: the result, the context, and what is loaded from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The last rule that fits decides; where none does the device is refused.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        // The kind is the lower half of the first word, the access the upper.
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER_32, ACCESS, KIND, 0, 0),
        instruction(AND_32, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_32, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(one(rule));
        if rule.fits_all() {
            // The kernel refuses instructions that are never reached.
            return program;
        }
    }
    program.extend(give(false));
    program
}

impl DeviceRule {
    fn fits_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL_ACCESS
    }
}

/// An allowing rule fits when it has all the access that is asked for, a refusing one when it has some of it.
fn one(rule: &DeviceRule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    let mut is_not = |register: u8, value: i32| tests.push((register, value));
    if let Some(kind) = rule.kind {
        is_not(KIND, if kind == DeviceKind::Block { BLOCK } else { CHARACTER });
    }
    if let Some(major) = rule.major {
        is_not(MAJOR, major as i32);
    }
    if let Some(minor) = rule.minor {
        is_not(MINOR, minor as i32);
    }
    let mut body = Vec::new();
    if rule.access != ALL_ACCESS {
        let (mask, past_give) =
            if rule.allow { (!rule.access & ALL_ACCESS, JUMP_IF_NOT_32) } else { (rule.access, JUMP_IF_32) };
        body.push(instruction(MOVE_REGISTER_32, SCRATCH, ACCESS, 0, 0));
        body.push(instruction(AND_32, SCRATCH, 0, 0, mask as i32));
        body.push(instruction(past_give, SCRATCH, 0, 2, 0));
    }
    body.extend(give(rule.allow));
    let mut program = Vec::new();
    for (at, (register, value)) in tests.iter().enumerate() {
        // Past the tests that are left, and the body.
        let offset = tests.len() - at - 1 + body.len();
        program.push(instruction(JUMP_IF_NOT_32, *register, 0, offset as i16, *value));
    }
    program.extend(body);
    program
}

fn give(allow: bool) -> [Instruction; 2] {
    [instruction(MOVE_32, RESULT, 0, 0, allow.into()), instruction(EXIT, 0, 0, 0, 0)]
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let registers = from << 4 | to;
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, registers, low, high, a, b, c, d])
}

#[cfg(test)]
mod tests;
