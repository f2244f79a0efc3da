//! The cgroup of the host that an engine names for a container or a pod. Who keeps the sandbox enters it, and with it all that is
//! started for it: so what the machine costs is counted where the engine looks.
//!
//! No limits are set there. The container's hold in the guest; here they would kill the machine for what it needs beside the container.

mod stats;

use std::{
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::unistd::geteuid;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// What is counted below a cgroup that we make.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// How long processes that were killed may take to leave it.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum HostCgroupError {
    #[error("the cgroup {0} leads out of its hierarchy")]
    LeadsOut(PathBuf),
    #[error("make the cgroup {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("enter the cgroup {path}")]
    Enter { path: PathBuf, source: io::Error },
}

/// One of the hierarchy that cgroup v2 has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostCgroup(PathBuf);

impl HostCgroup {
    /// None when the engine names none, for who is not root, and on a host with cgroup v1.
    pub fn of(spec: &Spec) -> Result<Option<Self>, HostCgroupError> {
        let named = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        let has_v2 = Path::new(MOUNT_POINT).join("cgroup.controllers").exists();
        match named.filter(|_| has_v2 && geteuid().is_root()) {
            Some(named) => Ok(Some(Self(Path::new(MOUNT_POINT).join(relative(named)?)))),
            None => Ok(None),
        }
    }

    /// The one that this process is in, if it can be told.
    pub fn own() -> Option<Self> {
        let listed = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = listed.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        Some(Self(Path::new(MOUNT_POINT).join(path)))
    }

    /// Makes it, if need be, and moves this process there.
    pub fn enter(&self) -> Result<(), HostCgroupError> {
        let path = || self.0.clone();
        fs::create_dir_all(&self.0).map_err(|source| HostCgroupError::Make { path: path(), source })?;
        let mut above: Vec<_> = self.0.ancestors().skip(1).collect();
        above.retain(|above| above.starts_with(MOUNT_POINT));
        for above in above.into_iter().rev() {
            let control = above.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&control).unwrap_or_default();
            for controller in
                CONTROLLERS.iter().filter(|name| !enabled.split_whitespace().any(|one| one == **name))
            {
                // One that is not there, or cannot be had here, is not counted.
                let _ = fs::write(&control, format!("+{controller}"));
            }
        }
        fs::write(self.0.join("cgroup.procs"), std::process::id().to_string())
            .map_err(|source| HostCgroupError::Enter { path: path(), source })
    }

    /// Removes it once its processes have gone. What others have made in it keeps it.
    pub fn remove(&self) {
        let began = Instant::now();
        while let Err(error) = fs::remove_dir(&self.0) {
            if error.kind() != io::ErrorKind::ResourceBusy || began.elapsed() > LEAVE_LIMIT {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// A path, or `SLICE:PREFIX:NAME`, which is systemd's way.
fn relative(named: &Path) -> Result<PathBuf, HostCgroupError> {
    let words = named.to_string_lossy();
    let parts: Vec<_> = words.split(':').collect();
    let path = match parts.as_slice() {
        [slice, prefix, name] if !words.contains('/') => {
            slice_path(if slice.is_empty() { "system.slice" } else { slice }).join(scope(prefix, name))
        }
        _ => named.to_owned(),
    };
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(HostCgroupError::LeadsOut(named.to_owned()));
            }
        }
    }
    Ok(plain)
}

fn scope(prefix: &str, name: &str) -> OsString {
    match prefix {
        "" => format!("{name}.scope").into(),
        prefix => format!("{prefix}-{name}.scope").into(),
    }
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = PathBuf::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(format!("{}.slice", name.get(..end).unwrap_or(name)));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_by_its_path_or_in_systemds_way() {
        for (named, path) in [
            ("/docker/abc", "docker/abc"),
            ("libpod_parent/libpod-abc", "libpod_parent/libpod-abc"),
            ("/a:b:c", "a:b:c"),
            ("system.slice:docker:abc", "system.slice/docker-abc.scope"),
            (":docker:abc", "system.slice/docker-abc.scope"),
            (
                "kubepods-besteffort-pod1.slice:cri-containerd:x",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-x.scope",
            ),
        ] {
            assert_eq!(relative(Path::new(named)).unwrap(), Path::new(path), "{named}");
        }
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for named in ["/../x", "a/../../b", "a.slice:..:x/../../y"] {
            assert!(relative(Path::new(named)).is_err(), "{named}");
        }
    }
}
