//! What a template is made from. Two machines of which all of this is the same can go on from one template.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use securectr_vmm::spec::Wire;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{TemplateError, io_error};
use crate::{Installation, MachinePlan, NetworkPlan, equipment::Devices, sealed::hex};

/// Where the kernel says which processor this is and what it can do (sysfs of cpu).
const CPU: &str = "/sys/devices/system/cpu/modalias";
/// Which one it is itself, and when it was built (proc(5)).
const HOST_KERNEL: &str = "/proc/version";

/// What a template is for: the machine as the guest finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    pub memory_mib: u32,
    pub hotplug_mib: u32,
    pub vcpu_count: u8,
    /// Whether each disk is read-only.
    pub disks: Vec<bool>,
    pub nets: Vec<NetKind>,
    pub has_shares: bool,
}

/// A network interface whose wire is plugged in later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetKind {
    /// It goes to passt(1), without offloads.
    pub is_stream: bool,
    /// In bytes.
    pub mtu: u16,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inputs {
    pub(super) kind: Kind,
    kernel: Part,
    initramfs: Part,
    vmm: Part,
    command_line: String,
    /// Model and features of the processor.
    cpu: String,
    /// The host's kernel, and with it KVM.
    host_kernel: String,
}

/// A file that was not changed: its time of change cannot be set back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Part {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl Kind {
    /// Of a machine with these devices.
    pub(crate) fn of(plan: &MachinePlan, devices: &Devices) -> Self {
        let net = |net: &securectr_vmm::spec::NetSpec| NetKind {
            is_stream: matches!(net.wire, Some(Wire::Stream(_))),
            mtu: net.mtu,
        };
        Self {
            memory_mib: plan.memory_mib,
            hotplug_mib: plan.hotplug_mib,
            vcpu_count: plan.most_vcpu_count,
            disks: devices.disks.iter().map(|disk| disk.read_only).collect(),
            nets: devices.nets.iter().map(net).collect(),
            has_shares: plan.has_shares,
        }
    }

    /// Of a machine that is planned so, with an image and with a writable disk or without.
    pub fn planned(plan: &MachinePlan, has_image: bool, has_writable: bool) -> Self {
        let image = has_image.then_some(true);
        let writable = (0..plan.device_places + u8::from(has_writable)).map(|_| false);
        Self {
            disks: image.into_iter().chain(writable).collect(),
            nets: plan.network.as_ref().map(NetworkPlan::kinds).unwrap_or_default(),
            ..Self::of(plan, &Devices::default())
        }
    }
}

impl Inputs {
    pub(super) fn of(
        plan: &MachinePlan,
        kind: &Kind,
        installation: &Installation,
    ) -> Result<Self, TemplateError> {
        let part = |path: &Path| Part::of(path).map_err(io_error("look at", path));
        let read = |path: &str| {
            let read = fs::read_to_string(path).map(|text| text.trim_end().to_owned());
            read.map_err(io_error("read", Path::new(path)))
        };
        Ok(Self {
            kind: kind.clone(),
            kernel: part(&installation.kernel)?,
            initramfs: part(&installation.initramfs)?,
            vmm: part(&installation.vmm)?,
            command_line: plan.command_line.clone(),
            cpu: processor().map_err(io_error("read", Path::new(CPU)))?,
            host_kernel: read(HOST_KERNEL)?,
        })
    }

    /// The name of the template.
    pub(super) fn key(&self) -> Result<String, TemplateError> {
        let json = serde_json::to_vec(self).map_err(TemplateError::Describe)?;
        let mut key = hex(&Sha256::digest(json));
        key.truncate(KEY_LEN);
        Ok(key)
    }
}

/// Model and features of this machine's: a saved machine goes on under the same alone.
pub fn processor() -> io::Result<String> {
    Ok(fs::read_to_string(CPU)?.trim_end().to_owned())
}

/// In hexadecimal digits.
const KEY_LEN: usize = 32;

pub(super) fn is_key(name: &str) -> bool {
    name.len() == KEY_LEN && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
