//! The ttrpc service: each request is checked, becomes one call, and its answer goes back. What was begun is ended, also when
//! the host gives up waiting.

use std::{error::Error, future::Future, io, time::Duration};

use async_trait::async_trait;
use protobuf::EnumOrUnknown;
use rustix::process::Signal;
use securectr_protocol::{
    agent::{
        self, AttachRequest, BeginRequest, ConfigureNetworkRequest, ContainerRequest, CreateRequest,
        CreateResponse, DeleteRequest, Empty, ExecRequest, File, LaunchFailure, MakePodRequest, PidsResponse,
        ProcessId, ProcessInfo, ResizeRequest, Rootfs, ShutdownRequest, SignalRequest, StartRequest,
        StartResponse, StatsResponse, Stdio, UpdateRequest, WaitOomRequest, WaitOomResponse, WaitRequest,
        WaitResponse, exec_request, job, rootfs,
    },
    agent_ttrpc::Agent,
};
use ttrpc::{Code, asynchronous::TtrpcContext, get_status};

use crate::{
    container::{
        Added, ContainerError, Containers, GivenFile, Job, Lower, NotExecuted, Parcel, PodPlan, ProcessName,
        RootfsPlan, Upper,
    },
    cpus::Cpus,
    disks,
    identity::Identity,
    init, memory, network,
    plan::{self, WindowSize},
    reaper::{Exit, Reaper},
    shares::Shares,
    stdio::HostStreams,
    streams::Streams,
};

#[derive(Clone)]
pub(crate) struct Service {
    pub containers: Containers,
    pub streams: Streams,
    pub cpus: Cpus,
    pub shares: Shares,
    pub identity: Identity,
    pub reaper: Reaper,
}

type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl Agent for Service {
    async fn begin(&self, _: &TtrpcContext, request: BeginRequest) -> Answer<Empty> {
        let begun = self.identity.begin(Duration::from_nanos(request.time_ns), &request.entropy);
        begun.map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn configure_network(&self, _: &TtrpcContext, request: ConfigureNetworkRequest) -> Answer<Empty> {
        network::configure(&request.interfaces).map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn make_pod(&self, _: &TtrpcContext, request: MakePodRequest) -> Answer<Empty> {
        to_its_end(async move {
            let MakePodRequest { hostname, sysctls, shm_bytes, .. } = request;
            let plan =
                PodPlan::new(hostname, sysctls, shm_bytes).map_err(|error| invalid(init::line(&error)))?;
            plan.make().await.map(|()| Empty::default()).map_err(|error| refusal(&error))
        })
        .await
    }

    async fn create(&self, _: &TtrpcContext, request: CreateRequest) -> Answer<CreateResponse> {
        let service = self.clone();
        to_its_end(async move {
            let disks = disks::find(&request.block_devices).await.map_err(|error| refusal(&error))?;
            let plan = plan::container(&request.spec_json, &disks)
                .map_err(|error| refusal(&ContainerError::from(error)))?;
            let rootfs = rootfs_plan(required(request.rootfs.into_option(), "rootfs")?, request.files)?;
            if plan.uses_shares() || matches!(rootfs.lower, Lower::Share(_)) {
                service.shares.mount().map_err(|error| refusal(&error))?;
            }
            for disk in rootfs.disks() {
                disks::await_size(disk).await.map_err(|error| refusal(&error))?;
            }
            let streams = service.claim(request.stdio.into_option()).await?;
            service.cpus.bring_online(request.vcpu_count).map_err(|error| refusal(&error))?;
            let created = service.containers.create(request.container_id, plan, rootfs, streams).await;
            Ok(CreateResponse { pid: created.map_err(|error| refusal(&error))?, ..Default::default() })
        })
        .await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<CreateResponse> {
        let service = self.clone();
        to_its_end(async move {
            let name = name(request.process.into_option())?;
            let exec = required(name.exec, "exec_id")?;
            let added = added(required(request.what, "what")?, request.user)?;
            let streams = service.claim(request.stdio.into_option()).await?;
            let created = service.containers.exec(name.container, exec, added, streams).await;
            Ok(CreateResponse { pid: created.map_err(|error| refusal(&error))?, ..Default::default() })
        })
        .await
    }

    async fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> Answer<Empty> {
        network::end_connections().map_err(|error| refusal(&error))?;
        let streams = self.claim(request.stdio.into_option()).await?;
        let attached = self.containers.attach(&request.container_id, streams);
        attached.map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        let service = self.clone();
        to_its_end(async move {
            service.cpus.online().await.map_err(|error| refusal(&error))?;
            let started = service.containers.start(&name(request.process.into_option())?).await;
            let failure = started.map_err(|error| refusal(&error))?.map(launch_failure);
            Ok(StartResponse { failure: failure.into(), ..Default::default() })
        })
        .await
    }

    async fn signal(&self, _: &TtrpcContext, request: SignalRequest) -> Answer<Empty> {
        let name = name(request.process.into_option())?;
        let signal = i32::try_from(request.signal)
            .ok()
            .and_then(Signal::from_named_raw)
            .ok_or_else(|| invalid(format!("{} is not a signal", request.signal)))?;
        let sent = if request.all {
            self.containers.signal_all(&name.container, signal)
        } else {
            self.containers.signal(&name, signal)
        };
        sent.map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let name = name(request.process.into_option())?;
        let waiting = self.containers.wait(&name).map_err(|error| refusal(&error))?;
        let ended = waiting.await.map_err(|error| refusal(&error))?;
        let (exit_code, signal) = match ended.exit {
            Exit::Code(code) => (code, 0),
            Exit::Signal(signal) => (0, signal),
        };
        Ok(WaitResponse { exit_code, signal, oom_killed: ended.oom_killed, ..Default::default() })
    }

    async fn resize(&self, _: &TtrpcContext, request: ResizeRequest) -> Answer<Empty> {
        let name = name(request.process.into_option())?;
        let fit = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
        let size = WindowSize { columns: fit(request.columns), rows: fit(request.rows) };
        self.containers.resize(&name, size).map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<Empty> {
        let service = self.clone();
        to_its_end(async move {
            let deleted = service.containers.delete(&name(request.process.into_option())?).await;
            deleted.map(|()| Empty::default()).map_err(|error| refusal(&error))
        })
        .await
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Answer<Empty> {
        rustix::fs::sync();
        init::reset()
    }

    async fn reclaim(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        let reclaimed = memory::reclaim(&self.reaper).await;
        reclaimed.map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn ping(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        Ok(Empty::default())
    }

    async fn pause(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Empty> {
        let service = self.clone();
        to_its_end(async move {
            let paused = service.containers.pause(&request.container_id).await;
            paused.map(|()| Empty::default()).map_err(|error| refusal(&error))
        })
        .await
    }

    async fn resume(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Empty> {
        let resumed = self.containers.resume(&request.container_id);
        resumed.map(|()| Empty::default()).map_err(|error| refusal(&error))
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> Answer<Empty> {
        let service = self.clone();
        to_its_end(async move {
            let updated = service.containers.update(&request.container_id, &request.resources_json);
            updated.map_err(|error| refusal(&error))?;
            service.cpus.bring_online(request.vcpu_count).map_err(|error| refusal(&error))?;
            service.cpus.online().await.map_err(|error| refusal(&error))?;
            Ok(Empty::default())
        })
        .await
    }

    async fn stats(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<StatsResponse> {
        self.containers.stats(&request.container_id).map_err(|error| refusal(&error))
    }

    async fn pids(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<PidsResponse> {
        let listed = self.containers.pids(&request.container_id).map_err(|error| refusal(&error))?;
        let processes = listed.into_iter().map(|(pid, exec)| ProcessInfo {
            pid,
            exec_id: exec.unwrap_or_default(),
            ..Default::default()
        });
        Ok(PidsResponse { processes: processes.collect(), ..Default::default() })
    }

    async fn wait_oom(&self, _: &TtrpcContext, request: WaitOomRequest) -> Answer<WaitOomResponse> {
        let waiting = self.containers.wait_oom(&request.container_id, request.seen);
        let count = waiting.map_err(|error| refusal(&error))?.await.map_err(|error| refusal(&error))?;
        Ok(WaitOomResponse { count, ..Default::default() })
    }
}

impl Service {
    pub(crate) fn new(streams: Streams) -> io::Result<Self> {
        let reaper = Reaper::start()?;
        Ok(Self {
            cpus: Cpus::new(reaper.clone()),
            containers: Containers::new(reaper.clone()),
            reaper,
            streams,
            shares: Shares::default(),
            identity: Identity::default(),
        })
    }

    /// The same, for another connection of the host's.
    pub(crate) fn for_another(&self) -> Self {
        Self { identity: Identity::default(), ..self.clone() }
    }

    async fn claim(&self, stdio: Option<Stdio>) -> Answer<HostStreams> {
        let stdio = stdio.unwrap_or_default();
        let claimed = async {
            Ok(HostStreams {
                stdin: self.streams.claim(stdio.stdin_port).await?,
                stdout: self.streams.claim(stdio.stdout_port).await?,
                stderr: self.streams.claim(stdio.stderr_port).await?,
            })
        };
        claimed.await.map_err(|error: crate::streams::StreamsError| refusal(&error))
    }
}

/// A request whose deadline passes is dropped by the server; what it makes must not be dropped half made.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(_) => Err(ttrpc::Error::RpcStatus(get_status(Code::INTERNAL, "the agent is going down"))),
    }
}

fn launch_failure(failure: NotExecuted) -> LaunchFailure {
    LaunchFailure { errno: failure.errno.unsigned_abs(), program: failure.program, ..Default::default() }
}

fn name(process: Option<ProcessId>) -> Answer<ProcessName> {
    let process = required(process, "process")?;
    let exec = Some(process.exec_id).filter(|id| !id.is_empty());
    Ok(ProcessName { container: process.container_id, exec })
}

fn added(what: exec_request::What, user: String) -> Answer<Added> {
    Ok(match what {
        exec_request::What::ProcessJson(process_json) => {
            Added::Program { process_json, user: Some(user).filter(|user| !user.is_empty()) }
        }
        exec_request::What::Job(job) => Added::Job(match required(job.what, "job.what")? {
            job::What::Processes(_) => Job::Processes,
            job::What::Send(asked) => Job::Send { path: asked.path, follows: asked.follows },
            job::What::Receive(asked) => Job::Receive { path: asked.path, parcel: parcel(asked.parcel)? },
            job::What::Changes(_) => Job::Changes,
            job::What::Layer(_) => Job::Layer,
            other => return Err(invalid(format!("there is no way to do {other:?}"))),
        }),
        other => return Err(invalid(format!("there is no way to do {other:?}"))),
    })
}

fn parcel(parcel: EnumOrUnknown<agent::Parcel>) -> Answer<Parcel> {
    match parcel.enum_value() {
        Ok(agent::Parcel::ARCHIVE) => Ok(Parcel::Archive),
        Ok(agent::Parcel::FILE) => Ok(Parcel::File),
        Ok(agent::Parcel::DIRECTORY) => Ok(Parcel::Directory),
        Ok(agent::Parcel::CONTENT) => Ok(Parcel::Content),
        Err(number) => Err(invalid(format!("{number} is no kind of parcel"))),
    }
}

fn rootfs_plan(rootfs: Rootfs, files: Vec<File>) -> Answer<RootfsPlan> {
    let upper = match required(rootfs.upper, "rootfs.upper")? {
        rootfs::Upper::None(_) => Upper::None,
        rootfs::Upper::TmpfsBytes(bytes) => Upper::Tmpfs { bytes },
        rootfs::Upper::Ext4Device(device) => Upper::Ext4 { device: device_name(device)? },
        rootfs::Upper::InPlace(_) => Upper::InPlace,
        other => return Err(invalid(format!("there is no way to do {other:?}"))),
    };
    let lower = match required(rootfs.lower, "rootfs.lower")? {
        rootfs::Lower::ImageDevice(_) if matches!(upper, Upper::InPlace) => {
            return Err(invalid("an image cannot be written in place".to_owned()));
        }
        rootfs::Lower::ImageDevice(device) => Lower::Image { device: device_name(device)? },
        rootfs::Lower::Share(name) => Lower::Share(share_name(name)?),
        other => return Err(invalid(format!("there is no way to do {other:?}"))),
    };
    let files = files.into_iter().map(|file| GivenFile { path: file.path, content: file.content }).collect();
    Ok(RootfsPlan { lower, upper, files })
}

/// A name in the directory of the shares, and one that overlayfs(5) takes as it is: it parts directories by colons.
fn share_name(name: String) -> Answer<String> {
    let fits = !name.is_empty() && !name.starts_with('.');
    if fits && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        Ok(name)
    } else {
        Err(invalid(format!("{name:?} is not the name of a share")))
    }
}

/// A name in `/dev`, not a path.
fn device_name(name: String) -> Answer<String> {
    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()) {
        Ok(name)
    } else {
        Err(invalid(format!("{name:?} is not the name of a device")))
    }
}

fn required<T>(value: Option<T>, field: &str) -> Answer<T> {
    value.ok_or_else(|| invalid(format!("{field} is missing")))
}

fn invalid(words: String) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(Code::INVALID_ARGUMENT, words))
}

/// An error with all its causes, in one line.
fn refusal(error: &(dyn Error + 'static)) -> ttrpc::Error {
    let code = match error.downcast_ref() {
        Some(ContainerError::Missing(_)) => Code::NOT_FOUND,
        Some(ContainerError::Exists(_)) => Code::ALREADY_EXISTS,
        Some(ContainerError::BadId(_) | ContainerError::Plan(_)) => Code::INVALID_ARGUMENT,
        Some(
            ContainerError::Ended
            | ContainerError::NotEnded
            | ContainerError::Started
            | ContainerError::NotRunning
            | ContainerError::Paused
            | ContainerError::NotPaused,
        ) => Code::FAILED_PRECONDITION,
        _ => Code::INTERNAL,
    };
    ttrpc::Error::RpcStatus(get_status(code, init::line(error)))
}
