//! What a process is to be.

use std::{collections::BTreeSet, ffi::CString};

use rustix::process::{Resource, Rlimit};

use super::{Capabilities, PlanError, capabilities, refuse_unless};
use crate::{seccomp::Filter, spec};

/// Strings of arguments and environment together, in bytes; execve(2) refuses more than about this.
const MAX_STRINGS_LEN: usize = 2 * 1024 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct ProcessPlan {
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    /// Set when the process has a terminal.
    pub terminal: Option<WindowSize>,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: Capabilities,
    pub rlimits: Vec<(Resource, Rlimit)>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub seccomp: Option<Filter>,
    pub personality: Option<u32>,
}

/// In characters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

pub(crate) fn plan(spec: spec::Process) -> Result<ProcessPlan, PlanError> {
    refuse_unsupported(&spec)?;
    let len: usize = spec.args.iter().chain(&spec.env).map(String::len).sum();
    if spec.args.is_empty() {
        return Err(PlanError::Missing("process.args"));
    }
    if len > MAX_STRINGS_LEN {
        return Err(PlanError::Unsupported(format!("process.args and process.env of {len} bytes")));
    }
    if !spec.cwd.starts_with('/') {
        return Err(PlanError::Invalid { property: "process.cwd", value: spec.cwd });
    }
    if spec.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        let value = spec.oom_score_adj.unwrap_or_default().to_string();
        return Err(PlanError::Invalid { property: "process.oomScoreAdj", value });
    }
    Ok(ProcessPlan {
        args: strings("process.args", spec.args)?,
        env: strings("process.env", spec.env)?,
        cwd: string("process.cwd", spec.cwd)?,
        terminal: spec.terminal.then(|| window_size(spec.console_size)),
        uid: spec.user.uid,
        gid: spec.user.gid,
        additional_gids: spec.user.additional_gids,
        umask: spec.user.umask,
        capabilities: capabilities::plan(&spec.capabilities.unwrap_or_default())?,
        rlimits: rlimits(&spec.rlimits)?,
        no_new_privileges: spec.no_new_privileges,
        oom_score_adj: spec.oom_score_adj,
        seccomp: None,
        personality: None,
    })
}

/// An AppArmor profile is not among them: engines name the host's by default. It would guard the host's kernel, which no process
/// here can reach, and the guest's has no AppArmor. So it is not even read.
fn refuse_unsupported(spec: &spec::Process) -> Result<(), PlanError> {
    let is_empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    refuse_unless(is_empty(&spec.selinux_label), "process.selinuxLabel")?;
    refuse_unless(spec.scheduler.is_none(), "process.scheduler")?;
    refuse_unless(spec.io_priority.is_none(), "process.ioPriority")?;
    refuse_unless(spec.exec_cpu_affinity.is_none(), "process.execCPUAffinity")
}

pub(super) fn strings(property: &'static str, strings: Vec<String>) -> Result<Vec<CString>, PlanError> {
    strings.into_iter().map(|text| string(property, text)).collect()
}

pub(super) fn string(property: &'static str, text: String) -> Result<CString, PlanError> {
    CString::new(text).map_err(|error| {
        let value = String::from_utf8_lossy(&error.into_vec()).into_owned();
        PlanError::Invalid { property, value }
    })
}

fn window_size(size: Option<spec::ConsoleSize>) -> WindowSize {
    let fit = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
    size.map_or(WindowSize::default(), |size| WindowSize { columns: fit(size.width), rows: fit(size.height) })
}

/// The specification demands that one which is given twice is refused.
fn rlimits(specs: &[spec::Rlimit]) -> Result<Vec<(Resource, Rlimit)>, PlanError> {
    let mut names = BTreeSet::new();
    match specs.iter().find(|spec| !names.insert(&spec.name)) {
        Some(spec) => Err(PlanError::Twice { property: "process.rlimits", value: spec.name.clone() }),
        None => specs.iter().map(rlimit).collect(),
    }
}

fn rlimit(spec: &spec::Rlimit) -> Result<(Resource, Rlimit), PlanError> {
    let resource = match spec.name.as_str() {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        other => {
            return Err(PlanError::Invalid { property: "process.rlimits.type", value: other.to_owned() });
        }
    };
    // RLIM_INFINITY is the largest number.
    let value = |number: u64| Some(number).filter(|&number| number != u64::MAX);
    Ok((resource, Rlimit { current: value(spec.soft), maximum: value(spec.hard) }))
}

/// `PER_LINUX32` of linux/personality.h.
const PER_LINUX32: u32 = 8;

/// personality(2): only the two domains that the specification names.
pub(crate) fn personality(spec: &spec::Personality) -> Result<u32, PlanError> {
    refuse_unless(spec.flags.is_empty(), "linux.personality.flags")?;
    match spec.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(PER_LINUX32),
        other => Err(PlanError::Invalid { property: "linux.personality.domain", value: other.to_owned() }),
    }
}
