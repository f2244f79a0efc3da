//! What the containers of a pod share beside their machine, and how much shared memory a container is to have.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use oci_spec::runtime::{Mount, Spec};

const SHARED_MEMORY: &str = "/dev/shm";

/// As engines have it by default, in bytes.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// With whom a container shares a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Alone {
        /// The size of the tmpfs that an engine has mounted on the host for its `/dev/shm`, if there is one.
        shm_bytes: Option<u64>,
    },
    /// With the other containers of a pod that was made before.
    Pod,
}

impl Scope {
    /// Looks at what the engine has mounted.
    pub fn alone(spec: &Spec) -> Self {
        Self::Alone { shm_bytes: shm_bytes(spec) }
    }
}

/// A pod in its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlan {
    pub(crate) hostname: String,
    pub(crate) sysctls: HashMap<String, String>,
    pub(crate) shm_bytes: u64,
}

impl PodPlan {
    /// From the spec of what an engine takes for the pod's first container. Looks at what the engine has mounted.
    pub fn of(spec: &Spec) -> Self {
        let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().clone());
        Self {
            hostname: spec.hostname().clone().unwrap_or_default(),
            sysctls: sysctls.unwrap_or_default(),
            shm_bytes: shm_bytes(spec).unwrap_or(DEFAULT_SHM_BYTES),
        }
    }
}

/// An engine lets a container's `/dev/shm` outlive it on the host. In a guest it is the guest's: its memory, and its speed.
pub(crate) fn is_shared_memory(mount: &Mount) -> bool {
    mount.destination() == Path::new(SHARED_MEMORY)
}

fn shm_bytes(spec: &Spec) -> Option<u64> {
    let mount = spec.mounts().iter().flatten().find(|mount| is_shared_memory(mount))?;
    let source: &PathBuf = mount.source().as_ref().filter(|source| source.is_absolute())?;
    let found = statfs(source).ok().filter(|found| found.filesystem_type() == TMPFS_MAGIC)?;
    found.blocks().checked_mul(u64::try_from(found.block_size()).ok()?)
}
