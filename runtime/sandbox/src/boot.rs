//! From a plan to a machine whose agent is ready. Every privileged step of a start is here, each undone when a later one fails.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use securectr_protocol::{RPC_PORT, SHARED_TAG};
use securectr_vmm::spec::{DialOut, DiskSpec, Fd, FsSpec, Memory, Start, VmSpec, VsockSpec};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    End, Installation, IoLimits, MachinePlan, NetworkError, SandboxError, SandboxId, StateError, StateRoot,
    agent::{Agent, AgentError},
    console,
    files::{FileServer, FilesError},
    io_limits,
    network::Network,
    state::Record,
    undo::Undo,
    vmm::{Equipment, Vmm},
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
    /// Declared last: the state goes when the VMM is gone.
    pub _undo: Undo,
}

/// What is opened for a machine, in the order of the numbers that the VMM finds it under.
struct Table(Vec<OwnedFd>);

impl Table {
    fn lay(&mut self, fd: impl Into<OwnedFd>) -> Fd {
        let number = self.0.len();
        self.0.push(fd.into());
        // Fewer descriptors than an i32 can count are laid.
        Fd(number as i32)
    }
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

/// Boots a machine and waits for its agent. `disks` are `vda`, `vdb` and so on.
pub(crate) async fn boot(
    id: &SandboxId,
    plan: &MachinePlan,
    host: &Host,
    disks: Vec<BootDisk>,
) -> Result<Booted, BootError> {
    let mut undo = Undo::default();
    let state = Arc::new(host.state.create(id)?);
    undo.push({
        let state = Arc::clone(&state);
        move || state.remove()
    });
    let vsock = state.vsock_path();
    let listener =
        UnixListener::bind(&vsock).map_err(|error| BootError::Descriptor("vsock socket", error))?;
    let (rpc, vmm_rpc) = socket_pair("agent connection")?;
    let (files, files_socket) = match plan.has_shares {
        true => {
            FileServer::start(&host.installation.files).map(|(files, socket)| (Some(files), Some(socket)))?
        }
        false => (None, None),
    };
    let mut equipment = equip(plan, host, Files { disks, files_socket }, listener, vmm_rpc)?;
    equipment.files = files.as_ref().map(FileServer::end);
    let network = match &plan.network {
        Some(plan) => Some(Network::open(plan, &host.installation, &mut equipment).await?),
        None => None,
    };
    let vmm = Vmm::start(&host.installation.vmm, equipment).await.map_err(BootError::Vmm)?;
    state.write_record(&Record {
        id,
        monitor_pid: std::process::id(),
        vmm_pid: vmm.pid(),
        files_pid: files.as_ref().map(FileServer::pid),
    })?;
    rpc.set_nonblocking(true).map_err(|error| BootError::Descriptor("agent connection", error))?;
    let rpc = UnixStream::from_std(rpc).map_err(|error| BootError::Descriptor("agent connection", error))?;
    let agent = tokio::select! {
        biased;
        end = vmm.ended() => return Err(BootError::Ended(end)),
        agent = Agent::greet(rpc) => agent,
    };
    match agent {
        Ok(agent) => Ok(Booted { agent, vmm, network, files, vsock, _undo: undo }),
        // A connection that breaks does so because the VMM dies: its cause is the true one.
        Err(AgentError::Broken) => Err(BootError::Ended(vmm.ended().await)),
        Err(error) => Err(BootError::Agent(error)),
    }
}

/// What all sandboxes of this host share.
#[derive(Debug)]
pub struct Host {
    pub installation: Installation,
    pub state: StateRoot,
    /// Show the guests' consoles on standard error.
    pub echo_console: bool,
}

/// What is behind the machine's disks and file systems.
struct Files {
    /// In the order of their names.
    disks: Vec<BootDisk>,
    files_socket: Option<OwnedFd>,
}

fn equip(
    plan: &MachinePlan,
    host: &Host,
    files: Files,
    listener: UnixListener,
    vmm_rpc: StdUnixStream,
) -> Result<Equipment, BootError> {
    let (console_reader, console_writer) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| BootError::Descriptor("console", errno.into()))?;
    let (control, vmm_control) = socket_pair("control socket")?;
    let console_copies = [clone("console", &console_writer)?, clone("console", &console_writer)?];
    let null = File::open("/dev/null").map_err(|error| BootError::Descriptor("standard input", error))?;
    let mut table = Table(vec![null.into()]);
    let [stdout, stderr] = console_copies;
    table.lay(stdout);
    table.lay(stderr);
    table.lay(vmm_control);
    let spec = VmSpec {
        kvm: table.lay(open_kvm()?),
        start: Start::Boot {
            kernel: table.lay(open_part("guest kernel", &host.installation.kernel)?),
            initramfs: table.lay(open_part("guest image", &host.installation.initramfs)?),
            command_line: plan.command_line.clone(),
        },
        memory: Memory::Anonymous,
        memory_mib: plan.memory_mib,
        hotplug_mib: plan.hotplug_mib,
        vcpu_count: plan.most_vcpu_count,
        allowed_vcpu_count: plan.vcpu_count,
        console: table.lay(console_writer),
        disks: files
            .disks
            .into_iter()
            .map(|BootDisk { file, read_only, limits }| {
                let file = Some(table.lay(file));
                DiskSpec { file, read_only, limits }
            })
            .chain((0..plan.device_places).map(|_| DiskSpec { file: None, read_only: false, limits: None }))
            .collect(),
        nets: Vec::new(),
        filesystems: files
            .files_socket
            .into_iter()
            .map(|socket| FsSpec { tag: SHARED_TAG.to_owned(), server: table.lay(socket) })
            .collect(),
        vsock: VsockSpec {
            listener: table.lay(listener),
            dial_out: vec![DialOut { port: RPC_PORT, stream: table.lay(vmm_rpc) }],
        },
        saved_to: None,
    };
    let console = console::drain(console_reader, host.echo_console)
        .map_err(|error| BootError::Descriptor("console", error))?;
    Ok(Equipment { spec, fds: table.0, control, console, files: None })
}

fn clone(what: &'static str, fd: &OwnedFd) -> Result<OwnedFd, BootError> {
    fd.try_clone().map_err(|error| BootError::Descriptor(what, error))
}

fn socket_pair(what: &'static str) -> Result<(StdUnixStream, StdUnixStream), BootError> {
    StdUnixStream::pair().map_err(|error| BootError::Descriptor(what, error))
}

fn open_kvm() -> Result<File, BootError> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(BootError::Kvm)
}

fn open_part(part: &'static str, path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| BootError::Part { part, path: path.to_owned(), source })
}
