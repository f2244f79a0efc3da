//! The OCI runtime spec (config.json, version 1.2) as it was written by somebody: every field that the agent has to know,
//! including those that it refuses. Unknown fields are ignored, as the specification demands.
//!
//! The crate `oci-spec` is not used here: it links a regular expression engine, which makes PID 1 larger by 1.6 MB.

mod linux;

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

pub(crate) use linux::{
    BlockIo, Cpu, Device, DeviceRule, HugepageLimit, Linux, Memory, Namespace, Personality, Resources,
    Seccomp, SeccompArgument,
};

/// Something that is only known by its presence.
pub(crate) type Presence = Option<IgnoredAny>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    pub process: Option<Process>,
    pub root: Option<Root>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Vec<Mount>,
    pub linux: Option<Linux>,
    pub hooks: Option<Hooks>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    pub readonly: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Process {
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    pub user: User,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub capabilities: Option<Capabilities>,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub selinux_label: Option<String>,
    pub scheduler: Presence,
    pub io_priority: Presence,
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Presence,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsoleSize {
    pub height: u64,
    pub width: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub umask: Option<u32>,
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub bounding: Vec<String>,
    pub effective: Vec<String>,
    pub inheritable: Vec<String>,
    pub permitted: Vec<String>,
    pub ambient: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Rlimit {
    #[serde(rename = "type")]
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Mount {
    pub destination: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub source: Option<String>,
    pub options: Vec<String>,
    pub uid_mappings: Presence,
    pub gid_mappings: Presence,
}

/// Those that run in the guest. The others (prestart, createRuntime, poststart, poststop) are the host's.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Hooks {
    pub create_container: Vec<IgnoredAny>,
    pub start_container: Vec<Hook>,
}

/// `timeout` in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Hook {
    pub path: String,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub timeout: Option<i64>,
}

pub(crate) type Sysctls = BTreeMap<String, String>;
