//! How a task comes to be: what containerd has described becomes a machine, or a container in the one that is there.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
};

use containerd_shim_protos::api::CreateTaskRequest;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources, Spec};
use securectr_sandbox::{
    Anchor, Bundle, Disks, GivenFile, HookState, MAX_BLOCK_DEVICES, MachinePlan, NetworkPlan, NetworkSource,
    PodPlan, Process, ProcessName, RootSource, Sandbox, SandboxId, Scope, Settings, Streams, StreamsWanted,
    Writable, container, find_program, network_source, run_before_create,
};
use sha2::{Digest, Sha256};

use super::{Pod, PodError};
use crate::{
    bundle::{self, Role, limit_name},
    cgroup::Membership,
    delete::PID_FILE,
    mounts::Rootfs,
    stdio::{Owner, Request},
    task::{Container, Life, OCI_VERSION, Task, locked},
};

/// Memory of a guest without limits, in MiB. It is backed as the guest touches it.
const DEFAULT_MEMORY_MIB: u32 = 1024;

impl Pod {
    /// What was made is undone by being dropped, when a later step fails.
    pub(super) async fn make(&self, request: &CreateTaskRequest) -> Result<Arc<Task>, PodError> {
        let _alone = self.creating.lock().await;
        let id = request.id.as_str();
        if locked(&self.tasks).contains_key(id) {
            return Err(PodError::Exists(id.to_owned()));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec = bundle::spec_with_warnings(&bundle)?;
        let role = bundle::role(id, &spec)?;
        let network = match role {
            // The pod has it.
            Role::Member { .. } => NetworkSource::Nothing,
            Role::Single | Role::Pod => {
                self.enter_cgroup(&spec);
                network_source(&spec)?
            }
        };
        let anchor = Anchor::drop_here(&network).map_err(PodError::Anchor)?;
        run_before_create(&spec, &hook_state(request, &spec, anchor.pid())).await?;
        let settings = self.settings(anchor.network(network));
        note_pid(&bundle.join(PID_FILE), anchor.pid())?;
        let stdio = stdio_of(request);
        let opened = stdio.open(Owner { namespace: &self.namespace, id }).await?;
        let hooks = spec.hooks().clone();
        let annotations = spec.annotations().clone().unwrap_or_default();
        let made = self.make_in_guest(Asked { request, spec, role }, &settings, stdio.wanted()).await?;
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
        task.watch_anchor();
        Ok(task)
    }

    /// Once: a creation that is tried again is there already, and where it came from must not be forgotten.
    fn enter_cgroup(&self, spec: &Spec) {
        let mut membership = locked(&self.membership);
        if membership.is_none() {
            *membership = Membership::enter(spec);
        }
    }

    async fn make_in_guest(
        &self,
        asked: Asked<'_>,
        settings: &Settings,
        wanted: StreamsWanted,
    ) -> Result<Made, PodError> {
        let Asked { request, spec, role } = asked;
        let id = request.id.as_str();
        match role {
            Role::Pod => {
                let machine = MachinePlan::limited(pod_limits(&spec).as_ref(), true, settings)?;
                let machine = machine.with_device_places(MAX_BLOCK_DEVICES);
                let sandbox = self.boot(id, &machine).await?;
                sandbox.make_pod(&PodPlan::of(&spec)).await?;
                let process = Process::stand_in(Arc::clone(&sandbox));
                Ok(Made { process, sandbox, streams: Streams::default(), container: None })
            }
            Role::Single => {
                let scope = Scope::alone(&spec);
                let container = self.plan(request, spec, scope)?;
                let linux = container.plan.spec.linux().as_ref();
                let limits = linux.and_then(|linux| linux.resources().as_ref());
                let machine = MachinePlan::limited(limits, true, settings)?;
                let machine = machine.with_device_places(container.plan.device_count());
                let sandbox = self.boot(id, &machine).await?;
                make(sandbox, container, wanted).await
            }
            Role::Member { pod } => {
                let pod = self.task(&pod).map_err(|_| PodError::NoPod(id.to_owned()))?;
                let container = self.plan(request, spec, Scope::Pod)?;
                make(Arc::clone(&pod.sandbox), container, wanted).await
            }
        }
    }

    fn settings(&self, network: Option<NetworkPlan>) -> Settings {
        let verbose_console = self.host.echo_console;
        Settings { network, verbose_console, ..Settings::with_memory_mib(DEFAULT_MEMORY_MIB) }
    }

    async fn boot(&self, id: &str, machine: &MachinePlan) -> Result<Arc<Sandbox>, PodError> {
        let id = sandbox_id(&self.namespace, id)?;
        let sandbox = Sandbox::boot(&id, machine, &self.host, Disks::default()).await?;
        sandbox.no_template().iter().for_each(|words| eprintln!("booted without a template: {words}"));
        let sandbox = Arc::new(sandbox);
        sandbox.heed_pressure();
        Ok(sandbox)
    }

    /// Mounts the container's root, and plans it.
    fn plan(&self, request: &CreateTaskRequest, spec: Spec, scope: Scope) -> Result<Container, PodError> {
        let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
        let rootfs = Rootfs::mount(Path::new(&request.bundle).join(root), &request.rootfs)?;
        find_program(rootfs.path(), &spec).map_err(PodError::Launch)?;
        let id = sandbox_id(&self.namespace, &request.id)?;
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        let writable = if read_only { Writable::Nothing } else { Writable::InPlace };
        let root = RootSource::Directory(rootfs.path().to_owned());
        let mut files = locked(&self.given).clone();
        let covered = |file: &GivenFile| {
            spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new(&file.path))
        };
        files.retain(|file| !covered(file));
        let plan = container(id, Bundle { spec, root, writable, scope, files })?;
        plan.limits_warnings(&[]).iter().for_each(|words| eprintln!("{words}"));
        Ok(Container { plan, _rootfs: rootfs })
    }
}

/// A container that containerd has described.
struct Asked<'a> {
    request: &'a CreateTaskRequest,
    spec: Spec,
    role: Role,
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
    let number = |name: &str| annotations.get(&limit_name(name))?.parse::<i64>().ok();
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
