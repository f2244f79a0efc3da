//! Classic BPF over `struct seccomp_data` (seccomp(2)): a binary search for the number, then the rules of what was found.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
};

/// Offsets in `struct seccomp_data`, in bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const X86_64: u32 = 0xc000_003e;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_*`.
    pub action: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub index: u8,
    pub comparison: Comparison,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Comparison {
    Equal { mask: u64, value: u64 },
    NotEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Less(u64),
    LessOrEqual(u64),
}

/// First number, rules, and what is done when none of them holds.
pub(super) type Leaf = (u32, Vec<Rule>, u32);

/// The program for leaves that are sorted and begin with number 0.
pub(super) fn program(leaves: &[Leaf]) -> Vec<libc::sock_filter> {
    let mut program = vec![
        load(ARCHITECTURE),
        jump(BPF_JEQ, X86_64, 1, 0),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    program.extend(search(leaves));
    program
}

fn search(leaves: &[Leaf]) -> Vec<libc::sock_filter> {
    let (below, above) = leaves.split_at(leaves.len() / 2);
    match (below, above) {
        ([], [(_, rules, otherwise)]) => leaf(rules, *otherwise),
        (_, [(first, ..), ..]) => {
            let below = search(below);
            // Conditional jumps reach 255 instructions, this one all.
            let over = instruction(BPF_JMP | BPF_JA, below.len() as u32);
            let mut program = vec![jump(BPF_JGE, *first, 0, 1), over];
            program.extend(below);
            program.extend(search(above));
            program
        }
        (_, []) => Vec::new(),
    }
}

fn leaf(rules: &[Rule], otherwise: u32) -> Vec<libc::sock_filter> {
    let mut program = Vec::new();
    for rule in rules {
        let mut steps = Vec::new();
        for condition in &rule.conditions {
            compare(condition, &mut steps);
        }
        let end = steps.len();
        program.extend(steps.iter().enumerate().map(|(at, step)| step.assemble(at, end)));
        program.push(give(rule.action));
    }
    program.push(give(otherwise));
    program
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// So many instructions are left out: the condition holds.
    Over(u8),
    /// Behind the rule.
    Fail,
}

enum Step {
    Plain(libc::sock_filter),
    Branch { test: u32, value: u32, holds: To, fails: To },
}

impl Step {
    /// `at` is this instruction's place in the rule, `end` that of the rule's action.
    fn assemble(&self, at: usize, end: usize) -> libc::sock_filter {
        // A rule has at most six conditions of five instructions.
        let offset = |to: To| match to {
            To::Next => 0,
            To::Over(count) => count,
            To::Fail => (end - at) as u8,
        };
        match *self {
            Step::Plain(instruction) => instruction,
            Step::Branch { test, value, holds, fails } => jump(test, value, offset(holds), offset(fails)),
        }
    }
}

/// The kernel's words are of 32 bits: the upper half decides, and the lower one when the upper are equal.
fn compare(condition: &Condition, steps: &mut Vec<Step>) {
    let low = ARGUMENTS + 8 * u32::from(condition.index);
    let load_low = Step::Plain(load(low));
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    steps.push(Step::Plain(load(low + 4)));
    let branch = |test, value, holds, fails| Step::Branch { test, value, holds, fails };
    match condition.comparison {
        Comparison::Equal { mask, value } => {
            let ((mask_high, mask_low), (high, low)) = (halves(mask), halves(value));
            steps.push(Step::Plain(instruction(BPF_ALU | BPF_AND | BPF_K, mask_high)));
            steps.push(branch(BPF_JEQ, high, To::Next, To::Fail));
            steps.push(load_low);
            steps.push(Step::Plain(instruction(BPF_ALU | BPF_AND | BPF_K, mask_low)));
            steps.push(branch(BPF_JEQ, low, To::Next, To::Fail));
        }
        Comparison::NotEqual(value) => {
            let (high, low) = halves(value);
            steps.push(branch(BPF_JEQ, high, To::Next, To::Over(2)));
            steps.push(load_low);
            steps.push(branch(BPF_JEQ, low, To::Fail, To::Next));
        }
        Comparison::Greater(value) => above(BPF_JGT, value, load_low, steps),
        Comparison::GreaterOrEqual(value) => above(BPF_JGE, value, load_low, steps),
        Comparison::Less(value) => below(BPF_JGE, value, load_low, steps),
        Comparison::LessOrEqual(value) => below(BPF_JGT, value, load_low, steps),
    }
}

fn above(test: u32, value: u64, load_low: Step, steps: &mut Vec<Step>) {
    let (high, low) = ((value >> 32) as u32, value as u32);
    steps.push(Step::Branch { test: BPF_JGT, value: high, holds: To::Over(3), fails: To::Next });
    steps.push(Step::Branch { test: BPF_JEQ, value: high, holds: To::Next, fails: To::Fail });
    steps.push(load_low);
    steps.push(Step::Branch { test, value: low, holds: To::Next, fails: To::Fail });
}

/// `test` is the opposite's: "less" holds where "greater or equal" does not.
fn below(test: u32, value: u64, load_low: Step, steps: &mut Vec<Step>) {
    let (high, low) = ((value >> 32) as u32, value as u32);
    steps.push(Step::Branch { test: BPF_JGT, value: high, holds: To::Fail, fails: To::Next });
    steps.push(Step::Branch { test: BPF_JEQ, value: high, holds: To::Next, fails: To::Over(2) });
    steps.push(load_low);
    steps.push(Step::Branch { test, value: low, holds: To::Fail, fails: To::Next });
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn give(action: u32) -> libc::sock_filter {
    instruction(BPF_RET | BPF_K, action)
}

fn jump(test: u32, value: u32, holds: u8, fails: u8) -> libc::sock_filter {
    libc::sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt: holds, jf: fails, k: value }
}
