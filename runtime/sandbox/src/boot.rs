//! From a plan to a machine whose agent is ready. Every privileged step of a start is here, each undone when a later one fails.

use std::{
    error::Error, fs::File, io, iter, os::unix::net::UnixListener, path::PathBuf, sync::Arc, time::Instant,
};

use securectr_vmm::spec::Expected;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    End, Installation, IoLimits, MachinePlan, NetworkError, SandboxError, SandboxId, StateError, StateRoot,
    TemplateError, Templates,
    agent::{Agent, AgentError},
    equipment::{Equipment, Origin},
    files::{FileServer, FilesError},
    io_limits,
    network::Network,
    state::{Record, StateDir},
    template::{self, Kind, Observation, Template},
    undo::Undo,
    vmm::Vmm,
};

#[derive(Debug, Error)]
pub enum BootError {
    #[error("keep the sandbox's state")]
    State(#[from] StateError),
    #[error("open /dev/kvm: {}", advice(.0))]
    Kvm(#[source] io::Error),
    #[error("open the {part} {path}")]
    Part { part: &'static str, path: PathBuf, source: io::Error },
    #[error("make the machine's {0}")]
    Descriptor(&'static str, #[source] io::Error),
    #[error("start securectr-vmm: {}", namespace_advice(.0))]
    Vmm(#[source] io::Error),
    #[error("join the network")]
    Network(#[from] NetworkError),
    #[error("start the file server")]
    Files(#[from] FilesError),
    #[error("boot the guest: {0}")]
    Ended(End),
    #[error("boot the guest")]
    Agent(#[source] AgentError),
    #[error("set up the guest's network")]
    GuestNetwork(#[source] Box<SandboxError>),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is none: enable virtualization in the firmware, and load kvm_intel or kvm_amd"
        }
        io::ErrorKind::PermissionDenied => "join the group kvm, or run as root",
        _ => "the kernel refused it",
    }
}

fn namespace_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "this kernel keeps user namespaces from this user",
        // user_namespaces(7): ENOSPC
        io::ErrorKind::StorageFull => {
            "this user may not have so many user namespaces: raise user.max_user_namespaces"
        }
        _ => "the kernel refused its namespaces",
    }
}

/// A machine whose agent has greeted.
pub(crate) struct Booted {
    pub agent: Agent,
    pub vmm: Vmm,
    /// What the host shares; none for a machine without.
    pub files: Option<FileServer>,
    /// After the VMM, whose taps go with it.
    pub network: Option<Network>,
    pub vsock: PathBuf,
    pub steps: Vec<Step>,
    /// It shows what machines from its template touch.
    pub observation: Option<Observation>,
    /// Why it had to boot, where it should have come from a template.
    pub no_template: Option<String>,
    /// Declared last: the state goes when the VMM is gone.
    pub _undo: Undo,
}

/// The files behind a sandbox's disks.
#[derive(Debug, Default)]
pub struct Disks {
    /// The container's root as EROFS.
    pub image: Option<File>,
    /// An empty ext4 file system, for [`Writable::Disk`](crate::Writable::Disk).
    pub writable: Option<File>,
    /// What both may do in a second.
    pub io_limits: Vec<IoLimits>,
}

impl Disks {
    /// As the guest names them.
    pub(crate) fn in_order(self) -> io::Result<Vec<BootDisk>> {
        let image = self.image.into_iter().map(|file| (file, true));
        let writable = self.writable.into_iter().map(|file| (file, false));
        let disks = image.chain(writable).map(|(file, read_only)| {
            let limits = io_limits::of_disk(&self.io_limits, &file.metadata()?);
            Ok(BootDisk { file, read_only, limits })
        });
        disks.collect()
    }
}

/// A disk that a machine has from its start.
pub(crate) struct BootDisk {
    pub file: File,
    pub read_only: bool,
    pub limits: Option<IoLimits>,
}

/// What all sandboxes of this host share.
#[derive(Debug)]
pub struct Host {
    pub installation: Installation,
    pub state: StateRoot,
    /// Show the guests' consoles on standard error.
    pub echo_console: bool,
    /// Where machines come from that need not boot; without, each boots.
    pub templates: Option<Templates>,
}

/// Brings a machine to where its agent waits: from its template, or by booting it. `disks` are `vda`, `vdb` and so on.
pub(crate) async fn boot(
    id: &SandboxId,
    plan: &MachinePlan,
    host: &Host,
    disks: Vec<BootDisk>,
) -> Result<Booted, BootError> {
    let mut prepared = Prepared::new(id, plan, host, &disks).await?;
    prepared.done("prepared");
    let template = match &host.templates {
        Some(templates) => {
            let kind = Kind::of(plan, &prepared.equipment.devices);
            templates.get(plan, &kind, host).await.map(Some)
        }
        None => Ok(None),
    };
    prepared.done("template");
    let no_template = match template {
        Ok(None) => None,
        Ok(Some(Template { origin, observation, path })) => match prepared.start(plan, host, origin).await {
            Ok(booted) => return Ok(Booted { observation, ..booted }),
            Err(error) => {
                template::discard(&path);
                prepared = Prepared::new(id, plan, host, &disks).await?;
                Some(TemplateError::Unusable(Box::new(error)))
            }
        },
        Err(error) => Some(error),
    };
    let origin = Origin::kernel(&host.installation)?;
    let no_template = no_template.map(|error| chain(&error));
    Ok(Booted { no_template, ..prepared.start(plan, host, origin).await? })
}

/// Brings a machine to where its agent waits, from where one like it was saved.
pub(crate) async fn restore(
    id: &SandboxId,
    plan: &MachinePlan,
    host: &Host,
    disks: Vec<BootDisk>,
    saved: File,
) -> Result<Booted, BootError> {
    let mut prepared = Prepared::new(id, plan, host, &disks).await?;
    prepared.done("prepared");
    // What it will touch nobody has shown.
    prepared.start(plan, host, Origin::Saved { file: saved, expected: Expected::Pages(Vec::new()) }).await
}

/// An error with all its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// All that a machine needs, but the machine.
struct Prepared {
    equipment: Equipment,
    state: Arc<StateDir>,
    files: Option<FileServer>,
    network: Option<Network>,
    steps: Vec<Step>,
    undo: Undo,
}

/// What was done on the way of a start, and when.
pub type Step = (&'static str, Instant);

impl Prepared {
    fn done(&mut self, step: &'static str) {
        self.steps.push((step, Instant::now()));
    }

    async fn new(
        id: &SandboxId,
        plan: &MachinePlan,
        host: &Host,
        disks: &[BootDisk],
    ) -> Result<Self, BootError> {
        let mut undo = Undo::default();
        let state = Arc::new(host.state.create(id)?);
        undo.push({
            let state = Arc::clone(&state);
            move || state.remove()
        });
        let listener = UnixListener::bind(state.vsock_path())
            .map_err(|error| BootError::Descriptor("vsock socket", error))?;
        let mut equipment = Equipment::new(listener, host.echo_console)?;
        equipment.add_disks(disks, plan.device_places)?;
        let files = match plan.has_shares {
            true => {
                let (files, socket) = FileServer::start(&host.installation.files)?;
                equipment.add_shares(socket);
                equipment.files = Some(files.end());
                Some(files)
            }
            false => None,
        };
        let network = match &plan.network {
            Some(plan) => Some(Network::open(plan, &host.installation, &mut equipment).await?),
            None => None,
        };
        Ok(Self { equipment, state, files, network, steps: Vec::new(), undo })
    }

    async fn start(self, plan: &MachinePlan, host: &Host, origin: Origin) -> Result<Booted, BootError> {
        let Self { equipment, state, files, network, mut steps, undo } = self;
        let is_restored = matches!(origin, Origin::Saved { .. });
        let (vmm, rpc) = start(plan, &host.installation, equipment, origin).await?;
        steps.push(("vmm", Instant::now()));
        state.write_record(&Record {
            id: &state.id,
            monitor_pid: std::process::id(),
            vmm_pid: vmm.pid(),
            files_pid: files.as_ref().map(FileServer::pid),
        })?;
        let agent = greeted(&vmm, rpc).await?;
        agent.begin().await.map_err(BootError::Agent)?;
        let running = vmm.running_since();
        steps.extend(running.map(|since| (if is_restored { "restored" } else { "booted" }, since)));
        steps.push(("agent", Instant::now()));
        let vsock = state.vsock_path();
        Ok(Booted {
            agent,
            vmm,
            files,
            network,
            vsock,
            steps,
            observation: None,
            no_template: None,
            _undo: undo,
        })
    }
}

/// Starts a machine; with it comes our end of the connection that its agent dials.
pub(crate) async fn start(
    plan: &MachinePlan,
    installation: &Installation,
    mut equipment: Equipment,
    origin: Origin,
) -> Result<(Vmm, UnixStream), BootError> {
    let spec = equipment.spec(plan, origin);
    Vmm::start(&installation.vmm, &spec, equipment).await.map_err(BootError::Vmm)
}

/// Waits for a machine's agent.
pub(crate) async fn greeted(vmm: &Vmm, rpc: UnixStream) -> Result<Agent, BootError> {
    let agent = tokio::select! {
        biased;
        end = vmm.ended() => return Err(BootError::Ended(end)),
        agent = Agent::greet(rpc) => agent,
    };
    match agent {
        // A connection that breaks does so because the VMM dies: its cause is the true one.
        Err(AgentError::Broken) => Err(BootError::Ended(vmm.ended().await)),
        agent => agent.map_err(BootError::Agent),
    }
}
