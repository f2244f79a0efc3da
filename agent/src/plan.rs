//! What a spec means: plain values that can be carried out without asking again. Pure: nothing here opens or reads.
//! Whatever the agent cannot do is refused here, by the name of its property; nothing is silently left out.

mod capabilities;
mod disks;
mod hooks;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod update;

use std::path::{Component, Path};

use rustix::fs::FileType;
use securectr_protocol::{INIT, SHARED};
use thiserror::Error;

pub(crate) use capabilities::Capabilities;
pub(crate) use disks::Disk;
pub(crate) use hooks::{Hook, Hooks};
pub(crate) use limits::{DeviceKind, DeviceRule, Limits};
pub(crate) use mounts::{Attributes, MountPlan, MountSource, Propagation};
pub(crate) use namespaces::Namespaces;
pub(crate) use process::{ProcessPlan, WindowSize};
pub(crate) use update::{Current, update};

use crate::{
    seccomp,
    spec::{self, Spec},
};

#[derive(Debug, Error)]
pub(crate) enum PlanError {
    #[error("read the spec")]
    Json(#[from] serde_json::Error),
    #[error("{0} is not supported in a guest")]
    Unsupported(String),
    #[error("{property} cannot be {value:?}")]
    Invalid { property: &'static str, value: String },
    #[error("{property} has {value:?} twice")]
    Twice { property: &'static str, value: String },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("linux.seccomp")]
    Seccomp(#[from] seccomp::SeccompError),
}

/// One container.
#[derive(Debug)]
pub(crate) struct ContainerPlan {
    pub process: ProcessPlan,
    pub hooks: Hooks,
    /// The agent is its first process.
    pub has_init: bool,
    pub root_readonly: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub namespaces: Namespaces,
    pub propagation: Option<Propagation>,
    pub mounts: Vec<MountPlan>,
    pub devices: Vec<DeviceNode>,
    /// Names of the disks that are its own.
    pub disks: Vec<String>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// Paths below `/proc/sys`, and what is written there.
    pub sysctls: Vec<(String, String)>,
    pub limits: Limits,
}

impl ContainerPlan {
    /// Whether a bind mount's source is one of the host's shares.
    pub(crate) fn uses_shares(&self) -> bool {
        let is_share = |source: &MountSource| matches!(source, MountSource::Bind { path, .. } if Path::new(path).starts_with(SHARED));
        self.mounts.iter().any(|mount| is_share(&mount.source))
    }
}

/// A device node or a pipe, made in the container beside the usual ones.
#[derive(Debug, PartialEq)]
pub(crate) struct DeviceNode {
    pub path: String,
    pub kind: FileType,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Name, major and minor number of the runtime spec's default devices: for everybody in every container.
pub(crate) const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Plans a container from a whole config.json. `disks` stand for block devices of the host, in the host's order.
pub(crate) fn container(spec_json: &[u8], disks: &[Disk]) -> Result<ContainerPlan, PlanError> {
    let mut spec: Spec = serde_json::from_slice(spec_json)?;
    disks::translate(&mut spec, disks)?;
    let linux = spec.linux.unwrap_or_default();
    refuse_unsupported(&linux)?;
    let namespaces = namespaces::plan(&linux.namespaces)?;
    let hostname = spec.hostname.filter(|name| !name.is_empty());
    let domainname = spec.domainname.filter(|name| !name.is_empty());
    refuse_unless(
        namespaces.has_uts() || hostname.is_none() && domainname.is_none(),
        "a host name without a uts namespace",
    )?;
    let mut process = process::plan(spec.process.ok_or(PlanError::Missing("process"))?)?;
    process.seccomp = linux.seccomp.as_ref().map(seccomp::compile).transpose()?;
    process.personality = linux.personality.as_ref().map(process::personality).transpose()?;
    let has_init = spec.annotations.get(INIT).is_some_and(|value| value == "true");
    Ok(ContainerPlan {
        process,
        has_init,
        hooks: hooks::plan(spec.hooks.unwrap_or_default(), spec.oci_version, spec.annotations)?,
        root_readonly: spec.root.is_some_and(|root| root.readonly),
        hostname,
        domainname,
        namespaces,
        propagation: linux.rootfs_propagation.as_deref().map(mounts::root_propagation).transpose()?,
        mounts: spec.mounts.into_iter().map(mounts::plan).collect::<Result<_, _>>()?,
        devices: linux.devices.iter().map(device_node).collect::<Result<_, _>>()?,
        disks: disks.iter().map(|disk| disk.name.clone()).collect(),
        masked_paths: absolute_paths("linux.maskedPaths", linux.masked_paths)?,
        readonly_paths: absolute_paths("linux.readonlyPaths", linux.readonly_paths)?,
        sysctls: linux.sysctl.into_iter().map(sysctl).collect::<Result<_, _>>()?,
        limits: limits::plan(linux.resources.unwrap_or_default())?,
    })
}

/// Plans a further process of a container from the spec's process object. What holds for the container holds for it, too.
pub(crate) fn exec(process_json: &[u8], container: &ProcessPlan) -> Result<ProcessPlan, PlanError> {
    let mut process = process::plan(serde_json::from_slice(process_json)?)?;
    process.seccomp.clone_from(&container.seccomp);
    process.personality = container.personality;
    Ok(process)
}

/// A process object of the spec by itself.
#[cfg(test)]
pub(crate) fn process(process_json: &[u8]) -> Result<ProcessPlan, PlanError> {
    process::plan(serde_json::from_slice(process_json)?)
}

/// An error unless `absent`.
fn refuse_unless(absent: bool, property: &str) -> Result<(), PlanError> {
    if absent { Ok(()) } else { Err(PlanError::Unsupported(property.to_owned())) }
}

fn refuse_unsupported(linux: &spec::Linux) -> Result<(), PlanError> {
    refuse_unless(linux.uid_mappings.is_empty(), "linux.uidMappings")?;
    refuse_unless(linux.gid_mappings.is_empty(), "linux.gidMappings")?;
    refuse_unless(linux.time_offsets.is_empty(), "linux.timeOffsets")?;
    refuse_unless(linux.net_devices.is_empty(), "linux.netDevices")?;
    refuse_unless(linux.mount_label.as_deref().unwrap_or_default().is_empty(), "linux.mountLabel")?;
    refuse_unless(linux.intel_rdt.is_none(), "linux.intelRdt")?;
    refuse_unless(linux.memory_policy.is_none(), "linux.memoryPolicy")
}

fn device_node(device: &spec::Device) -> Result<DeviceNode, PlanError> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(PlanError::Invalid { property: "linux.devices.type", value: other.to_owned() }),
    };
    Ok(DeviceNode {
        path: absolute_path("linux.devices.path", device.path.clone())?,
        kind,
        major: device.major,
        minor: device.minor,
        mode: device.file_mode.unwrap_or(0o666) & 0o777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

fn absolute_paths(property: &'static str, paths: Vec<String>) -> Result<Vec<String>, PlanError> {
    paths.into_iter().map(|path| absolute_path(property, path)).collect()
}

fn absolute_path(property: &'static str, path: String) -> Result<String, PlanError> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path)
    } else {
        Err(PlanError::Invalid { property, value: path })
    }
}

/// As sysctl(8) reads it: dots part the words, unless the first separator is a slash; then slashes do.
pub(crate) fn sysctl((key, value): (String, String)) -> Result<(String, String), PlanError> {
    let by_slashes = key.find(['.', '/']).is_some_and(|at| key.get(at..).is_some_and(|k| k.starts_with('/')));
    let path = if by_slashes {
        key.clone()
    } else {
        key.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    };
    let is_plain = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain && !path.is_empty() && !path.contains('\0') {
        Ok((path, value))
    } else {
        Err(PlanError::Invalid { property: "linux.sysctl", value: key })
    }
}

#[cfg(test)]
mod tests;
