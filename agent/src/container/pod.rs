//! What the containers of a pod share: namespaces, which a process that does nothing keeps, and a tmpfs for `/dev/shm`.

use std::{fs, io, path::Path};

use rustix::{
    fs::{Gid, Uid},
    mount::{MountAttrFlags, MountPropagationFlags, mount_bind, mount_change},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use securectr_protocol::POD;
use thiserror::Error;

use super::{
    channel::{self, AgentEnd, ChannelError, ProcessEnd},
    failure::{During, Failure},
    root::Root,
    rootfs::{self, ROOT},
    sys,
};
use crate::{
    plan::{PlanError, sysctl},
    sys::copy_self,
};

const NAMESPACES: [&str; 3] = ["ipc", "pid", "uts"];

/// Neither root nor anybody else who owns something.
const NOBODY: u32 = 65534;

#[derive(Debug, Error)]
pub(crate) enum PodError {
    #[error("there is a pod already")]
    Exists,
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("make {0}")]
    Place(String, #[source] io::Error),
    #[error("mount the pod's shared memory")]
    SharedMemory(#[source] io::Error),
    #[error("make the pod's namespaces")]
    Namespaces(#[source] io::Error),
    #[error("keep the pod's namespaces")]
    Keeper(#[from] ChannelError),
}

#[derive(Debug)]
pub(crate) struct PodPlan {
    hostname: Option<String>,
    /// Paths below `/proc/sys`, and what is written there.
    sysctls: Vec<(String, String)>,
    shm_bytes: u64,
}

impl PodPlan {
    pub(crate) fn new(
        hostname: String,
        sysctls: impl IntoIterator<Item = (String, String)>,
        shm_bytes: u64,
    ) -> Result<Self, PlanError> {
        let hostname = Some(hostname).filter(|name| !name.is_empty());
        let sysctls = sysctls.into_iter().map(sysctl).collect::<Result<_, _>>()?;
        Ok(Self { hostname, sysctls, shm_bytes })
    }

    pub(crate) async fn make(&self) -> Result<(), PodError> {
        fs::create_dir(POD).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => PodError::Exists,
            _ => PodError::Place(POD.to_owned(), error),
        })?;
        self.share_memory()?;
        let (ours, theirs) = channel::pair().map_err(PodError::Namespaces)?;
        let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        let pid = copy_self(flags as u64, None, || self.keep(&theirs)).map_err(PodError::Namespaces)?;
        drop(theirs);
        AgentEnd::new(ours).map_err(PodError::Namespaces)?.ready().await?;
        for name in NAMESPACES {
            let place = format!("{POD}/{name}");
            fs::write(&place, "").map_err(|error| PodError::Place(place.clone(), error))?;
            let namespace = format!("/proc/{}/ns/{name}", pid.as_raw_nonzero());
            mount_bind(namespace, place).map_err(|errno| PodError::Namespaces(errno.into()))?;
        }
        Ok(())
    }

    fn share_memory(&self) -> Result<(), PodError> {
        let place = format!("{POD}/shm");
        fs::create_dir(&place).map_err(|error| PodError::Place(place.clone(), error))?;
        let size = self.shm_bytes.to_string();
        let parameters = [("source", Some("shm")), ("size", Some(size.as_str())), ("mode", Some("1777"))];
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rootfs::mount_at(&place, "tmpfs", &parameters, quiet).map(drop).map_err(PodError::SharedMemory)
    }

    /// The life of the process that keeps the namespaces: init to the pod's processes, if they share theirs.
    fn keep(&self, channel: &ProcessEnd) -> i32 {
        let told = self.prepare().and_then(|()| {
            channel
                .close_others(None)
                .and_then(|()| channel.ready(None))
                .during(|| "report to the agent".into())
        });
        match told {
            Err(failure) => {
                channel.failed(&failure.line());
                1
            }
            Ok(()) => {
                // Nothing is left that could be told of a failure, nor anybody to tell.
                let _ = sys::close_all();
                loop {
                    std::thread::park();
                }
            }
        }
    }

    /// A container of root's can look into it, when they share processes: so it holds on to nothing.
    fn prepare(&self) -> Result<(), Failure> {
        if let Some(name) = &self.hostname {
            rustix::system::sethostname(name.as_bytes()).during(|| format!("set the host name {name}"))?;
        }
        for (key, value) in &self.sysctls {
            fs::write(Path::new("/proc/sys").join(key), value).during(|| format!("set sysctl {key}"))?;
        }
        sys::ignore_children();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .during(|| "make all mounts private".into())?;
        let nothing =
            rootfs::mount_at(ROOT, "tmpfs", &[("size", Some("4096"))], MountAttrFlags::MOUNT_ATTR_RDONLY)
                .during(|| "mount an empty root".into())?;
        rootfs::enter(&Root::new(nothing)).during(|| "enter the empty root".into())?;
        become_nobody().during(|| "become nobody".into())
    }
}

/// Capabilities go with the user.
fn become_nobody() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}
