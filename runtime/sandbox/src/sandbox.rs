//! A running sandbox: containers are created, started and waited for in it. Dropping it ends the machine and undoes its start.

use std::{future::Future, io, time::Duration};

use securectr_protocol::agent::{
    self, CreateRequest, Empty, ExecRequest, ProcessId, Rootfs, Stdio,
    rootfs::{Lower, Upper},
};
use thiserror::Error;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    Addition, AgentError, BootError, ContainerPlan, End, GivenFile, Host, LaunchFailure, MachinePlan,
    MemoryError, NetworkError, PodPlan, SandboxId, Streams, StreamsWanted, Writable,
    agent::Agent,
    boot::{self, BootDisk, Booted, Disks, Step},
    devices::{DeviceError, Places},
    room::Room,
    shares::{self, ShareError},
    stdio,
};

/// When the agent's connection breaks, the VMM is dying; this is how long its cause is waited for.
const CAUSE_LIMIT: Duration = Duration::from_secs(5);

/// The names of disks in the guest, in the order in which they are given to the VMM.
const FIRST_DEVICE: &str = "vda";
const SECOND_DEVICE: &str = "vdb";

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("{operation}: {end}")]
    Ended { operation: &'static str, end: End },
    #[error("{operation}")]
    Agent { operation: &'static str, source: AgentError },
    #[error("look for network interfaces")]
    Network(#[from] NetworkError),
    #[error("connect the container's streams")]
    Streams(#[source] io::Error),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("let more vCPUs run")]
    AllowVcpus(#[source] io::Error),
    #[error("describe the container")]
    Describe(#[source] serde_json::Error),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    /// As a shell tells it: 128 and the signal's number for what a signal ended.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + (signal & 0x7f),
        }
    }
}

/// A machine with a ready agent.
pub struct Sandbox {
    pub(crate) booted: Booted,
    pub(crate) room: Mutex<Room>,
    devices: Places,
    writable_device: &'static str,
}

impl Sandbox {
    /// Brings a machine to where its agent waits, from its template or by booting it.
    pub async fn boot(
        id: &SandboxId,
        machine: &MachinePlan,
        host: &Host,
        disks: Disks,
    ) -> Result<Self, BootError> {
        Self::on(machine, disks, |disks| boot::boot(id, machine, host, disks)).await
    }

    /// On a machine that is brought up with these disks.
    pub(crate) async fn on<Up: Future<Output = Result<Booted, BootError>>>(
        machine: &MachinePlan,
        disks: Disks,
        bring_up: impl FnOnce(Vec<BootDisk>) -> Up,
    ) -> Result<Self, BootError> {
        let writable_device = if disks.image.is_some() { SECOND_DEVICE } else { FIRST_DEVICE };
        let disks = disks.in_order().map_err(|error| BootError::Descriptor("disks", error))?;
        // Behind the two at most that the sandbox itself has.
        let devices = Places::new(disks.len() as u8, machine.device_places);
        let booted = bring_up(disks).await?;
        let sandbox = Self { booted, room: Mutex::new(Room::of(machine)), devices, writable_device };
        sandbox.refresh_network().await.map_err(|error| BootError::GuestNetwork(Box::new(error)))?;
        Ok(sandbox)
    }

    /// Brings the guest's network to where its namespace is: interfaces, addresses and routes that have appeared since are
    /// the guest's, too. What has gone stays. Costs little when nothing has changed.
    pub async fn refresh_network(&self) -> Result<(), SandboxError> {
        let Some(network) = &self.booted.network else { return Ok(()) };
        let all = network.refresh(&self.booted.vmm).await?;
        if all.interfaces.is_empty() {
            return Ok(());
        }
        self.ask("configure the network", self.booted.agent.configure_network(&all)).await
    }

    /// Makes what the containers of a pod share; before them, and once.
    pub async fn make_pod(&self, pod: &PodPlan) -> Result<(), SandboxError> {
        self.ask("make the pod", self.booted.agent.make_pod(pod)).await
    }

    /// Makes a container, which waits for [`Sandbox::start`], and connects the streams of its process.
    pub async fn create(
        &self,
        container: &ContainerPlan,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        let request = |vcpu_count| CreateRequest { vcpu_count: u32::from(vcpu_count), ..Default::default() };
        let create = |vcpu_count| self.create_in_room(container, request(vcpu_count), wanted);
        self.in_room(&container.id, container.resources(), create).await
    }

    async fn create_in_room(
        &self,
        container: &ContainerPlan,
        request: CreateRequest,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        let block_devices = self.devices.lend(container, &self.booted.vmm).await?;
        let request = CreateRequest { block_devices, ..request };
        let created = self.create_on_devices(container, request, wanted).await;
        if created.is_err() {
            self.take_back_devices(container).await;
        }
        created
    }

    async fn create_on_devices(
        &self,
        container: &ContainerPlan,
        request: CreateRequest,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        shares::add_all(self.booted.files.as_ref(), &container.shares).await?;
        let created = self.create_on_shares(container, request, wanted).await;
        if created.is_err() {
            shares::remove_all(self.booted.files.as_ref(), &container.shares).await;
        }
        created
    }

    /// Closes the block devices that a container was lent, when it has ended, whether its guest has let go of them or not.
    pub async fn take_back_devices(&self, container: &ContainerPlan) {
        self.devices.take_back(&container.id, &self.booted.vmm).await;
    }

    async fn create_on_shares(
        &self,
        container: &ContainerPlan,
        request: CreateRequest,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        let (streams, names) = self.connect(CREATE, wanted).await?;
        let upper = match container.writable {
            Writable::Nothing => Upper::None(Empty::default()),
            Writable::Memory { bytes } => Upper::TmpfsBytes(bytes),
            Writable::Disk => Upper::Ext4Device(self.writable_device.to_owned()),
            Writable::InPlace => Upper::InPlace(Empty::default()),
        };
        let image = || Lower::ImageDevice(FIRST_DEVICE.to_owned());
        let lower = Some(container.root_share.clone().map_or_else(image, Lower::Share));
        let rootfs = Rootfs { lower, upper: Some(upper), ..Default::default() };
        let request = CreateRequest {
            container_id: container.id.to_string(),
            spec_json: serde_json::to_vec(&container.spec).map_err(SandboxError::Describe)?,
            rootfs: Some(rootfs).into(),
            stdio: Some(names).into(),
            files: container.files.iter().map(file).collect(),
            ..request
        };
        self.ask(CREATE, self.booted.agent.create(&request)).await?;
        Ok(streams)
    }

    /// Adds a process to a running container, which waits for [`Sandbox::start`].
    pub async fn exec(
        &self,
        name: &ProcessName,
        addition: &Addition,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        let request = addition.request().map_err(SandboxError::Describe)?;
        let (streams, names) = self.connect(EXEC, wanted).await?;
        let request = ExecRequest { process: Some(name.into()).into(), stdio: Some(names).into(), ..request };
        self.ask(EXEC, self.booted.agent.exec(&request)).await?;
        Ok(streams)
    }

    /// Lets a process's program run. The inner result is about the program, the outer one about the sandbox.
    pub async fn start(&self, process: &ProcessName) -> Result<Result<(), LaunchFailure>, SandboxError> {
        let answer = self.ask("start the process", self.booted.agent.start(process.into())).await?;
        self.note_start().await;
        Ok(match answer.failure.into_option() {
            None => Ok(()),
            Some(failure) => Err(LaunchFailure {
                program: failure.program.chars().filter(|c| !c.is_control()).take(200).collect(),
                source: io::Error::from_raw_os_error(i32::try_from(failure.errno).unwrap_or(0)),
            }),
        })
    }

    /// Machines that come from the same template will find what this one has touched.
    async fn note_start(&self) {
        if let Some(observation) = self.booted.observation.as_ref().filter(|first| first.is_of_start()) {
            // Without it they start a little slower.
            let _ = self.booted.vmm.touched().await.map(|runs| observation.note(&runs));
        }
    }

    /// Waits for a process's end; says also whether the guest's kernel killed a process of its container for want of memory.
    pub async fn wait(&self, process: &ProcessName) -> Result<(ExitStatus, OomKilled), SandboxError> {
        let answer = self.ask("run the container", self.booted.agent.wait(process.into())).await?;
        if process.exec.is_none() {
            self.note_start().await;
        }
        // As in wait(2), both are of eight bits; more is the word of an agent that is not ours.
        let status = match answer.signal {
            0 => ExitStatus::Code(answer.exit_code as u8),
            signal => ExitStatus::Signal(signal as u8),
        };
        Ok((status, OomKilled(answer.oom_killed)))
    }

    /// Sends a signal to a process, or to all of its container.
    pub async fn signal(&self, process: &ProcessName, signal: u32, to: Reach) -> Result<(), SandboxError> {
        if signal == libc::SIGKILL.unsigned_abs() && process.exec.is_none() {
            // A killed one ends when all is written, which limits would hold up.
            self.devices.unlimit(&process.container, &self.booted.vmm);
        }
        let answer = self.booted.agent.signal(process.into(), signal, to == Reach::Container);
        self.ask("signal the container", answer).await
    }

    /// Gives a process's terminal another size.
    pub async fn resize(&self, process: &ProcessName, columns: u16, rows: u16) -> Result<(), SandboxError> {
        self.ask("resize the terminal", self.booted.agent.resize(process.into(), columns, rows)).await
    }

    /// Removes an ended process from the guest.
    pub async fn delete_exec(&self, process: &ProcessName) -> Result<(), SandboxError> {
        self.ask("delete the process", self.booted.agent.delete(process.into())).await
    }

    /// Removes an ended container from the guest, and what was shared with it. What it was lent comes back by
    /// [`Sandbox::take_back_devices`].
    pub async fn delete(&self, container: &ContainerPlan) -> Result<(), SandboxError> {
        self.devices.unlimit(&container.id, &self.booted.vmm);
        let init = ProcessName::init(&container.id);
        let deleted = self.ask("delete the container", self.booted.agent.delete((&init).into())).await;
        shares::remove_all(self.booted.files.as_ref(), &container.shares).await;
        self.take_room(&container.id).await;
        deleted
    }

    /// Ends the machine at once, whatever the guest does.
    pub fn end(&self) {
        self.booted.vmm.kill();
    }

    /// Answers when the machine has ended, with the cause; may be asked by several and again.
    pub async fn ended(&self) -> End {
        self.booted.vmm.ended().await
    }

    /// When each step was done until the agent was ready: `prepared`, `template`, `vmm`, `restored` or, where a kernel booted, `booted`,
    /// and `agent`.
    pub fn steps(&self) -> &[Step] {
        &self.booted.steps
    }

    /// Why the machine had to boot, where it should have come from a template.
    pub fn no_template(&self) -> Option<&str> {
        self.booted.no_template.as_deref()
    }

    /// Of the process that is the machine.
    pub fn vmm_pid(&self) -> i32 {
        self.booted.vmm.pid()
    }

    /// Whether the host had no room for something that the container wrote; the container saw an I/O error.
    pub fn host_disk_full(&self) -> bool {
        self.booted.vmm.disk_full()
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.booted.agent
    }

    pub(crate) async fn connect(
        &self,
        operation: &'static str,
        wanted: StreamsWanted,
    ) -> Result<(Streams, Stdio), SandboxError> {
        let connected = tokio::select! {
            connected = stdio::connect(&self.booted.vsock, wanted) => connected,
            end = self.booted.vmm.ended() => return Err(SandboxError::Ended { operation, end }),
        };
        connected.map_err(SandboxError::Streams)
    }

    /// Waits for an answer, or for the machine's end, whose cause says more than a broken connection.
    pub(crate) async fn ask<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, SandboxError> {
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            end = self.booted.vmm.ended() => return Err(SandboxError::Ended { operation, end }),
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(source @ AgentError::Broken) => match timeout(CAUSE_LIMIT, self.booted.vmm.ended()).await {
                Ok(end) => Err(SandboxError::Ended { operation, end }),
                Err(_) => Err(SandboxError::Agent { operation, source }),
            },
            Err(source) => Err(SandboxError::Agent { operation, source }),
        }
    }
}

const CREATE: &str = "create the container";
const EXEC: &str = "add a process to the container";

/// A process in a sandbox: the init of a container, or one that was added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessName {
    pub container: SandboxId,
    pub exec: Option<String>,
}

impl ProcessName {
    pub fn init(container: &SandboxId) -> Self {
        Self { container: container.clone(), exec: None }
    }
}

impl From<&ProcessName> for ProcessId {
    fn from(name: &ProcessName) -> Self {
        let exec_id = name.exec.clone().unwrap_or_default();
        Self { container_id: name.container.to_string(), exec_id, ..Default::default() }
    }
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Process,
    /// All processes of the container.
    Container,
}

/// Whether the guest's kernel killed a process of the container for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKilled(pub bool);

fn file(given: &GivenFile) -> agent::File {
    let content = given.content.clone().into_bytes();
    agent::File { path: given.path.clone(), content, ..Default::default() }
}
