//! OCI seccomp profiles as BPF programs. Own code, because libseccomp takes milliseconds for a usual profile of 350 system
//! calls, and PID 1 would carry its tables for a dozen architectures: the guest's kernel runs x86_64 programs only.

mod bpf;

use std::collections::{BTreeMap, btree_map::Entry};

use syscalls::Sysno;
use thiserror::Error;

use crate::spec;
use bpf::{Comparison, Condition, Rule};

#[derive(Debug, Error)]
pub(crate) enum SeccompError {
    #[error("{property} {value:?} is not supported in a guest")]
    Unsupported { property: &'static str, value: String },
    #[error("the profile makes a program of {0} instructions, the kernel takes {max}", max = libc::BPF_MAXINSNS)]
    TooLong(usize),
}

/// A program for seccomp(2).
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub program: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
}

/// What is to be done with one system call: the first rule whose conditions hold, or else `otherwise`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Verdict {
    rules: Vec<Rule>,
    otherwise: Option<u32>,
}

/// System calls that the table does not know are left to the default action, as in runc.
pub(crate) fn compile(profile: &spec::Seccomp) -> Result<Filter, SeccompError> {
    let refuse = |property, value: &str| Err(SeccompError::Unsupported { property, value: value.to_owned() });
    if let Some(path) = profile.listener_path.as_deref().filter(|path| !path.is_empty()) {
        return refuse("listenerPath", path);
    }
    if !profile.architectures.is_empty()
        && !profile.architectures.iter().any(|name| name == "SCMP_ARCH_X86_64")
    {
        return refuse("architectures", &profile.architectures.join(" "));
    }
    let default = action("defaultAction", &profile.default_action, profile.default_errno_ret)?;
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for entry in &profile.syscalls {
        if entry.names.is_empty() {
            return refuse("syscalls.names", "");
        }
        let action = action("syscalls.action", &entry.action, entry.errno_ret)?;
        let rules = rules(&entry.args, action)?;
        for number in entry.names.iter().filter_map(|name| name.parse::<Sysno>().ok()) {
            let verdict = match verdicts.entry(number as u32) {
                Entry::Vacant(vacant) => vacant.insert(Verdict::default()),
                Entry::Occupied(occupied) => occupied.into_mut(),
            };
            if rules.is_empty() {
                verdict.otherwise.get_or_insert(action);
            } else {
                verdict.rules.extend_from_slice(&rules);
            }
        }
    }
    let program = bpf::program(&leaves(verdicts, default));
    if program.len() > libc::BPF_MAXINSNS as usize {
        return Err(SeccompError::TooLong(program.len()));
    }
    Ok(Filter { program, flags: flags(&profile.flags)? })
}

/// Ranges of numbers with one verdict each, which cover all numbers. A list of the first number of each.
fn leaves(verdicts: BTreeMap<u32, Verdict>, default: u32) -> Vec<(u32, Vec<Rule>, u32)> {
    let after_all = verdicts.last_key_value().map_or(0, |(&number, _)| number + 1);
    let mut leaves: Vec<(u32, Vec<Rule>, u32)> = Vec::new();
    let mut push = |number: u32, rules: Vec<Rule>, otherwise: u32| {
        let is_same =
            leaves.last().is_some_and(|(_, before, action)| *before == rules && *action == otherwise);
        if !is_same {
            leaves.push((number, rules, otherwise));
        }
    };
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number > next {
            push(next, Vec::new(), default);
        }
        push(number, verdict.rules, verdict.otherwise.unwrap_or(default));
        next = number + 1;
    }
    // Programs probe for what is newer than their profile; they fall back on ENOSYS, and give up on EPERM.
    let is_errno = default & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO;
    let newer = if is_errno { libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 } else { default };
    push(after_all, Vec::new(), newer);
    leaves
}

fn action(property: &'static str, name: &str, errno: Option<u16>) -> Result<u32, SeccompError> {
    let data = |default: libc::c_int| u32::from(errno.unwrap_or(default as u16));
    let takes_errno = ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"].contains(&name);
    if let Some(errno) = errno.filter(|_| !takes_errno) {
        return Err(SeccompError::Unsupported { property, value: format!("{name} with the error {errno}") });
    }
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data(libc::EPERM),
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data(libc::EPERM),
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        other => return Err(SeccompError::Unsupported { property, value: other.to_owned() }),
    })
}

fn flags(names: &[String]) -> Result<u64, SeccompError> {
    names.iter().try_fold(0, |flags, name| {
        let flag = match name.as_str() {
            // The process that loads the filter has one thread.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            other => {
                return Err(SeccompError::Unsupported { property: "flags", value: other.to_owned() });
            }
        };
        Ok(flags | flag)
    })
}

/// All conditions must hold; but those on one and the same argument stand for alternatives, as in runc.
fn rules(arguments: &[spec::SeccompArgument], action: u32) -> Result<Vec<Rule>, SeccompError> {
    let conditions = arguments.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let mut indices: Vec<_> = conditions.iter().map(|condition| condition.index).collect();
    indices.sort_unstable();
    indices.dedup();
    Ok(match conditions.len() {
        0 => Vec::new(),
        len if len == indices.len() => vec![Rule { conditions, action }],
        _ => conditions.into_iter().map(|one| Rule { conditions: vec![one], action }).collect(),
    })
}

fn condition(argument: &spec::SeccompArgument) -> Result<Condition, SeccompError> {
    let value = argument.value;
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual(value),
        "SCMP_CMP_LT" => Comparison::Less(value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(value),
        "SCMP_CMP_EQ" => Comparison::Equal { mask: u64::MAX, value },
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(value),
        "SCMP_CMP_GT" => Comparison::Greater(value),
        "SCMP_CMP_MASKED_EQ" => Comparison::Equal { mask: value, value: argument.value_two },
        other => {
            return Err(SeccompError::Unsupported { property: "syscalls.args.op", value: other.to_owned() });
        }
    };
    match u8::try_from(argument.index) {
        Ok(index @ 0..=5) => Ok(Condition { index, comparison }),
        _ => {
            let value = argument.index.to_string();
            Err(SeccompError::Unsupported { property: "syscalls.args.index", value })
        }
    }
}

#[cfg(test)]
mod tests;
