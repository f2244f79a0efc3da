//! A running sandbox: containers are created, started and waited for in it. Dropping it ends the machine and undoes its start.

use std::{fs::File, future::Future, io, time::Duration};

use securectr_protocol::agent::{self, CreateRequest, Empty, ProcessId, Rootfs, rootfs::Upper};
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    AgentError, BootError, ContainerPlan, End, GivenFile, Host, MachinePlan, NetworkError, SandboxId,
    Streams, StreamsWanted, Writable,
    boot::{self, Booted},
    stdio,
};

/// When the agent's connection breaks, the VMM is dying; this is how long its cause is waited for.
const CAUSE_LIMIT: Duration = Duration::from_secs(5);

/// The names of disks in the guest, in the order in which they are given to the VMM.
const IMAGE_DEVICE: &str = "vda";
const WRITABLE_DEVICE: &str = "vdb";

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
    #[error("describe the container")]
    Describe(#[source] serde_json::Error),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

/// The program could not be executed.
#[derive(Debug, Error)]
#[error("execute {program}")]
pub struct LaunchFailure {
    pub program: String,
    pub source: io::Error,
}

/// A machine with a ready agent.
pub struct Sandbox {
    booted: Booted,
}

impl Sandbox {
    /// Boots a machine and waits for its agent.
    pub async fn boot(
        id: &SandboxId,
        machine: &MachinePlan,
        host: &Host,
        disks: Disks,
    ) -> Result<Self, BootError> {
        let image = disks.image.map(|file| (file, true));
        let writable = disks.writable.map(|file| (file, false));
        let disks = image.into_iter().chain(writable).collect();
        let sandbox = Self { booted: boot::boot(id, machine, host, disks).await? };
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

    /// Makes a container, which waits for [`Sandbox::start`], and connects the streams of its process.
    pub async fn create(
        &self,
        container: &ContainerPlan,
        wanted: StreamsWanted,
    ) -> Result<Streams, SandboxError> {
        let connected = tokio::select! {
            connected = stdio::connect(&self.booted.vsock, wanted) => connected,
            end = self.booted.vmm.ended() => return Err(SandboxError::Ended { operation: CREATE, end }),
        };
        let (streams, names) = connected.map_err(SandboxError::Streams)?;
        let upper = match container.writable {
            Writable::Nothing => Upper::None(Empty::default()),
            Writable::Memory { bytes } => Upper::TmpfsBytes(bytes),
            Writable::Disk => Upper::Ext4Device(WRITABLE_DEVICE.to_owned()),
        };
        let rootfs =
            Rootfs { image_device: IMAGE_DEVICE.to_owned(), upper: Some(upper), ..Default::default() };
        let request = CreateRequest {
            container_id: container.id.to_string(),
            spec_json: serde_json::to_vec(&container.spec).map_err(SandboxError::Describe)?,
            rootfs: Some(rootfs).into(),
            stdio: Some(names).into(),
            files: container.files.iter().map(file).collect(),
            ..Default::default()
        };
        self.ask(CREATE, self.booted.agent.create(&request)).await?;
        Ok(streams)
    }

    /// Lets the container's program run. The inner result is about the program, the outer one about the sandbox.
    pub async fn start(&self, container: &ContainerPlan) -> Result<Result<(), LaunchFailure>, SandboxError> {
        let answer = self.ask("start the container", self.booted.agent.start(process_of(container))).await?;
        Ok(match answer.failure.into_option() {
            None => Ok(()),
            Some(failure) => Err(LaunchFailure {
                program: failure.program.chars().filter(|c| !c.is_control()).take(200).collect(),
                source: io::Error::from_raw_os_error(i32::try_from(failure.errno).unwrap_or(0)),
            }),
        })
    }

    /// Waits for the container's end; says also whether the guest's kernel killed a process of it for want of memory.
    pub async fn wait(&self, container: &ContainerPlan) -> Result<(ExitStatus, OomKilled), SandboxError> {
        let answer = self.ask("run the container", self.booted.agent.wait(process_of(container))).await?;
        // As in wait(2), both are of eight bits; more is the word of an agent that is not ours.
        let status = match answer.signal {
            0 => ExitStatus::Code(answer.exit_code as u8),
            signal => ExitStatus::Signal(signal as u8),
        };
        Ok((status, OomKilled(answer.oom_killed)))
    }

    pub async fn signal(&self, container: &ContainerPlan, signal: u32) -> Result<(), SandboxError> {
        self.ask("signal the container", self.booted.agent.signal(process_of(container), signal)).await
    }

    /// Gives the container's terminal another size.
    pub async fn resize(
        &self,
        container: &ContainerPlan,
        columns: u16,
        rows: u16,
    ) -> Result<(), SandboxError> {
        let answer = self.booted.agent.resize(process_of(container), columns, rows);
        self.ask("resize the terminal", answer).await
    }

    /// Removes an ended container from the guest.
    pub async fn delete(&self, container: &ContainerPlan) -> Result<(), SandboxError> {
        self.ask("delete the container", self.booted.agent.delete(process_of(container))).await
    }

    /// Whether the host had no room for something that the container wrote; the container saw an I/O error.
    pub fn host_disk_full(&self) -> bool {
        self.booted.vmm.disk_full()
    }

    /// Waits for an answer, or for the machine's end, whose cause says more than a broken connection.
    async fn ask<T>(
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

/// Whether the guest's kernel killed a process of the container for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKilled(pub bool);

/// The files behind a sandbox's disks.
#[derive(Debug, Default)]
pub struct Disks {
    /// The container's root as EROFS.
    pub image: Option<File>,
    /// An empty ext4 file system, for [`Writable::Disk`].
    pub writable: Option<File>,
}

fn file(given: &GivenFile) -> agent::File {
    let content = given.content.clone().into_bytes();
    agent::File { path: given.path.clone(), content, ..Default::default() }
}

/// The init of a container.
fn process_of(container: &ContainerPlan) -> ProcessId {
    ProcessId { container_id: container.id.to_string(), ..Default::default() }
}
