//! The tasks of one machine: the first makes it, the last takes it along.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use containerd_shim_protos::{
    api::CreateTaskRequest,
    events::task::{TaskCreate, TaskIO},
    topics::TASK_CREATE_EVENT_TOPIC,
    ttrpc::{self, Code},
};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources, Spec};
use securectr_sandbox::{
    Anchor, BootError, Bundle, Disks, HookError, HookState, Host, IdError, LaunchFailure, MachinePlan,
    NetworkSource, PlanError, PodPlan, Process, ProcessName, RootSource, Sandbox, SandboxError, SandboxId,
    Scope, Settings, Streams, StreamsWanted, Writable, container, find_program, network_source,
    run_before_create,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    bundle::{self, BundleError, Role},
    delete::PID_FILE,
    events::Events,
    mounts::{MountError, Rootfs},
    status,
    stdio::{Owner, Request, StdioError},
    task::{Container, Life, OCI_VERSION, Task, locked},
};

/// Memory of a guest without limits, in MiB. It is backed as the guest touches it.
const DEFAULT_MEMORY_MIB: u32 = 1024;

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
    #[error("OCI runtime create failed: {}: unknown", .0.in_runcs_words())]
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
    /// One task is made at a time: the first makes the machine.
    creating: tokio::sync::Mutex<()>,
}

impl Pod {
    pub(crate) fn new(namespace: String, host: Host, events: Events) -> Self {
        Self { namespace, host, events, tasks: Mutex::default(), creating: tokio::sync::Mutex::default() }
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

    /// What was made is undone by being dropped, when a later step fails.
    pub(crate) async fn create(&self, request: &CreateTaskRequest) -> Result<Arc<Task>, PodError> {
        let _alone = self.creating.lock().await;
        let id = request.id.as_str();
        if locked(&self.tasks).contains_key(id) {
            return Err(PodError::Exists(id.to_owned()));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec = bundle::spec_with_warnings(&bundle)?;
        let network = match bundle::role(id, &spec)? {
            // The pod has it.
            Role::Member { .. } => NetworkSource::Nothing,
            Role::Single | Role::Pod => network_source(&spec)?,
        };
        let anchor = Anchor::drop_here(&network).map_err(PodError::Anchor)?;
        run_before_create(&spec, &hook_state(request, &spec, anchor.pid())).await?;
        let settings = self.settings(anchor.network(network));
        note_pid(&bundle.join(PID_FILE), anchor.pid())?;
        let stdio = stdio_of(request);
        let opened = stdio.open(Owner { namespace: &self.namespace, id }).await?;
        let hooks = spec.hooks().clone();
        let annotations = spec.annotations().clone().unwrap_or_default();
        let made = match bundle::role(id, &spec)? {
            Role::Pod => {
                let machine = MachinePlan::limited(pod_limits(&spec).as_ref(), true, &settings)?;
                let sandbox = self.boot(id, &machine).await?;
                sandbox.make_pod(&PodPlan::of(&spec)).await?;
                Made {
                    process: Process::stand_in(Arc::clone(&sandbox)),
                    sandbox,
                    streams: Streams::default(),
                    container: None,
                }
            }
            Role::Single => {
                let scope = Scope::alone(&spec);
                let container = self.plan(request, &bundle, spec, scope)?;
                let linux = container.plan.spec.linux().as_ref();
                let limits = linux.and_then(|linux| linux.resources().as_ref());
                let machine = MachinePlan::limited(limits, true, &settings)?;
                let sandbox = self.boot(id, &machine).await?;
                make(sandbox, container, stdio.wanted()).await?
            }
            Role::Member { pod } => {
                let pod = self.task(&pod).map_err(|_| PodError::NoPod(id.to_owned()))?;
                let container = self.plan(request, &bundle, spec, Scope::Pod)?;
                make(Arc::clone(&pod.sandbox), container, stdio.wanted()).await?
            }
        };
        let joined = opened.join(made.streams)?;
        let task = Arc::new(Task {
            id: id.to_owned(),
            bundle,
            hooks,
            annotations,
            sandbox: made.sandbox,
            container: made.container,
            anchor,
            init: Life::new("", made.process, stdio, joined),
            execs: Mutex::default(),
            paused: AtomicBool::new(false),
        });
        locked(&self.tasks).insert(id.to_owned(), Arc::clone(&task));
        self.tell_create(request, task.pid());
        task.watch_memory(self.events.clone());
        task.watch_anchor();
        task.init.herald(id.to_owned(), task.pid(), self.events.clone());
        Ok(task)
    }

    fn settings(&self, network: Option<PathBuf>) -> Settings {
        let verbose_console = self.host.echo_console;
        Settings { network, verbose_console, ..Settings::with_memory_mib(DEFAULT_MEMORY_MIB) }
    }

    async fn boot(&self, id: &str, machine: &MachinePlan) -> Result<Arc<Sandbox>, PodError> {
        let id = sandbox_id(&self.namespace, id)?;
        Ok(Arc::new(Sandbox::boot(&id, machine, &self.host, Disks::default()).await?))
    }

    /// Mounts the container's root, and plans it.
    fn plan(
        &self,
        request: &CreateTaskRequest,
        bundle: &Path,
        spec: Spec,
        scope: Scope,
    ) -> Result<Container, PodError> {
        let rootfs = Rootfs::mount(bundle, &request.rootfs)?;
        find_program(rootfs.path(), &spec).map_err(PodError::Launch)?;
        let id = sandbox_id(&self.namespace, &request.id)?;
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        let writable = if read_only { Writable::Nothing } else { Writable::InPlace };
        let root = RootSource::Directory(rootfs.path().to_owned());
        let plan = container(id, Bundle { spec, root, writable, scope, files: Vec::new() })?;
        Ok(Container { plan, _rootfs: rootfs })
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

    /// Forgets a task that has ended. The last one takes the machine along.
    pub(crate) fn remove(&self, id: &str) {
        let removed = locked(&self.tasks).remove(id);
        if let Some(task) = removed.filter(|_| self.is_empty()) {
            task.sandbox.end();
        }
    }
}

/// What a task is made of in the guest.
struct Made {
    sandbox: Arc<Sandbox>,
    process: Arc<Process>,
    streams: Streams,
    container: Option<Container>,
}

async fn make(sandbox: Arc<Sandbox>, container: Container, wanted: StreamsWanted) -> Result<Made, PodError> {
    let streams = sandbox.create(&container.plan, wanted).await?;
    let process = Process::watch(Arc::clone(&sandbox), ProcessName::init(&container.plan.id));
    Ok(Made { sandbox, process, streams, container: Some(container) })
}

fn stdio_of(request: &CreateTaskRequest) -> Request {
    Request {
        terminal: request.terminal,
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
    }
}

fn note_pid(path: &Path, pid: i32) -> Result<(), PodError> {
    fs::write(path, pid.to_string()).map_err(|source| PodError::Note { path: path.to_owned(), source })
}

/// What the host's hooks are told.
fn hook_state(request: &CreateTaskRequest, spec: &Spec, pid: i32) -> HookState {
    HookState {
        oci_version: OCI_VERSION.to_owned(),
        id: request.id.clone(),
        status: "creating",
        pid,
        bundle: PathBuf::from(&request.bundle),
        annotations: spec.annotations().clone().unwrap_or_default(),
    }
}

/// The sum of the limits of a pod's containers, which CRI tells by annotations, since they are made later.
fn pod_limits(spec: &Spec) -> Option<LinuxResources> {
    let annotations = spec.annotations().as_ref()?;
    let number =
        |name: &str| annotations.get(&format!("io.kubernetes.cri.sandbox-{name}"))?.parse::<i64>().ok();
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(number("cpu-quota"))
        .set_period(number("cpu-period").and_then(|period| u64::try_from(period).ok()));
    let mut memory = LinuxMemory::default();
    memory.set_limit(number("memory"));
    let mut limits = LinuxResources::default();
    limits.set_cpu(Some(cpu)).set_memory(Some(memory));
    Some(limits)
}

/// containerd's names are longer than ours may be, and unique in their namespace only.
fn sandbox_id(namespace: &str, id: &str) -> Result<SandboxId, PodError> {
    let digest = Sha256::digest(format!("{namespace}/{id}"));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let readable: String = id.chars().take(40).collect();
    format!("{readable}-{digest}").parse().map_err(|error| PodError::Id(id.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_names_stay_apart_and_short_ones_readable() {
        let name = |namespace: &str, id: &str| sandbox_id(namespace, id).unwrap().to_string();
        assert!(name("default", "web").starts_with("web-"));
        assert_ne!(name("default", "web"), name("moby", "web"));
        assert_ne!(name("a", &format!("{}1", "x".repeat(75))), name("a", &format!("{}2", "x".repeat(75))));
    }

    #[test]
    fn a_pods_machine_is_as_large_as_its_containers_together() {
        let annotations = json!({"io.kubernetes.cri.sandbox-memory": "104857600", "io.kubernetes.cri.sandbox-cpu-quota": "150000",
            "io.kubernetes.cri.sandbox-cpu-period": "100000"});
        let spec =
            serde_json::from_value(json!({"ociVersion": "1.0.2", "annotations": annotations})).unwrap();
        let machine =
            MachinePlan::limited(pod_limits(&spec).as_ref(), true, &Settings::with_memory_mib(512)).unwrap();
        assert_eq!((machine.memory_mib, machine.vcpu_count), (100 + 64, 2));
    }
}
