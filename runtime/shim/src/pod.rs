//! The tasks of one machine: the first makes it, the last takes it along.

mod make;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use containerd_shim_protos::{
    api::CreateTaskRequest,
    events::task::{TaskCreate, TaskIO},
    topics::TASK_CREATE_EVENT_TOPIC,
    ttrpc::{self, Code},
};
use securectr_sandbox::{
    BootError, GivenFile, HookError, Host, HostCgroup, IdError, LaunchFailure, PlanError, SandboxError,
    StartError,
};
use thiserror::Error;

use crate::{
    bundle::BundleError,
    cgroup::Membership,
    events::Events,
    mounts::MountError,
    status,
    stdio::StdioError,
    task::{Task, locked},
};

#[derive(Debug, Error)]
pub(crate) enum PodError {
    #[error("task {0}: already exists")]
    Exists(String),
    #[error("the pod of container {0} does not run here")]
    NoPod(String),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("make a name of {0:?}")]
    Id(String, #[source] IdError),
    #[error("understand the container")]
    Plan(#[from] PlanError),
    #[error("OCI runtime create failed: {}", .0.in_runcs_words())]
    Launch(LaunchFailure),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Stdio(#[from] StdioError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("start the container's anchor")]
    Anchor(#[source] io::Error),
    #[error("write {path}")]
    Note { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

impl From<PodError> for ttrpc::Error {
    fn from(error: PodError) -> Self {
        match &error {
            PodError::Exists(_) => status::error(Code::ALREADY_EXISTS, error.to_string()),
            PodError::Plan(_) => status::error(Code::INVALID_ARGUMENT, crate::line(&error)),
            _ => status::internal(&error),
        }
    }
}

pub(crate) struct Pod {
    namespace: String,
    host: Host,
    pub events: Events,
    tasks: Mutex<HashMap<String, Arc<Task>>>,
    /// What each container of the pod gets that has no mount in its place.
    given: Mutex<Vec<GivenFile>>,
    /// From the machine's start on.
    membership: Mutex<Option<Membership>>,
    /// One task is made at a time: the first makes the machine.
    creating: tokio::sync::Mutex<()>,
}

impl Pod {
    pub(crate) fn new(namespace: String, host: Host, events: Events) -> Self {
        Self {
            namespace,
            host,
            events,
            tasks: Mutex::default(),
            given: Mutex::default(),
            membership: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn task(&self, id: &str) -> ttrpc::Result<Arc<Task>> {
        locked(&self.tasks).get(id).cloned().ok_or_else(|| status::not_found(format!("task {id} not found")))
    }

    pub(crate) fn is_empty(&self) -> bool {
        locked(&self.tasks).is_empty()
    }

    pub(crate) fn give(&self, files: Vec<GivenFile>) {
        *locked(&self.given) = files;
    }

    /// The pod's on the host, if containerd names one.
    pub(crate) fn cgroup(&self) -> Option<HostCgroup> {
        locked(&self.membership).as_ref().map(|membership| membership.cgroup().clone())
    }

    /// For the server's end.
    pub(crate) fn membership(&self) -> Option<Membership> {
        locked(&self.membership).take()
    }

    /// Makes a task, and tells of it.
    pub(crate) async fn create(&self, request: &CreateTaskRequest) -> Result<Arc<Task>, PodError> {
        let task = self.make(request).await?;
        self.tell_create(request, task.pid());
        task.watch_memory(self.events.clone());
        task.init.herald(request.id.clone(), task.pid(), self.events.clone());
        Ok(task)
    }

    /// Makes and starts what stands for a sandbox, of which no task's events are told. Its bundle is that of a pod's first container.
    pub(crate) async fn start_sandbox(&self, id: &str, bundle: &Path) -> Result<Arc<Task>, PodError> {
        let bundle = bundle.to_string_lossy().into_owned();
        let task = self.make(&CreateTaskRequest { id: id.to_owned(), bundle, ..Default::default() }).await?;
        task.init.process.start().await?;
        Ok(task)
    }

    fn tell_create(&self, request: &CreateTaskRequest, pid: u32) {
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        };
        self.events.tell(TASK_CREATE_EVENT_TOPIC, &event);
    }

    /// Forgets all tasks, whether they have ended or not.
    pub(crate) fn clear(&self) {
        locked(&self.tasks).drain().for_each(|(_, task)| task.sandbox.end());
    }

    /// Forgets a task that has ended. The last one takes the machine along.
    pub(crate) fn remove(&self, id: &str) {
        let removed = locked(&self.tasks).remove(id);
        if let Some(task) = removed.filter(|_| self.is_empty()) {
            task.sandbox.end();
        }
    }
}
