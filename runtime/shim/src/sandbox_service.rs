//! containerd's sandbox service: a pod without a task of its own. Its machine is the one that a pod's first task has elsewhere.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    sandbox_api::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
        PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
        StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
        WaitSandboxResponse,
    },
    sandbox_async::Sandbox as SandboxService,
    ttrpc::{Code, Error, Result as Answer, asynchronous::TtrpcContext},
    types::platform::Platform,
};
use securectr_sandbox::{Phase, Reach};
use tokio::{sync::Notify, time::timeout};

use crate::{
    cri::{self, CriError},
    pod::Pod,
    stats, status,
    task::{Task, locked},
};

/// How long a machine may take to end when the caller does not say.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long a guest may take to answer.
const PING_LIMIT: Duration = Duration::from_secs(5);

const SIGTERM: u32 = 15;

/// As CRI names what a pod is.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

impl From<CriError> for Error {
    fn from(error: CriError) -> Self {
        status::error(Code::INVALID_ARGUMENT, crate::line(&error))
    }
}

pub(crate) struct Service {
    pub pod: Arc<Pod>,
    /// Notified when the server is to end.
    pub shutdown: Arc<Notify>,
    pub made: Mutex<Option<Made>>,
}

/// The one sandbox of this server.
#[derive(Clone)]
pub(crate) struct Made {
    id: String,
    bundle: PathBuf,
    at: SystemTime,
    /// What stands for it, once it was started.
    task: Option<Arc<Task>>,
}

#[async_trait]
impl SandboxService for Service {
    /// Takes note of what is wanted; the machine comes with the start.
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> Answer<CreateSandboxResponse> {
        if locked(&self.made).is_some() {
            return Err(status::error(Code::ALREADY_EXISTS, format!("sandbox {}", request.sandbox_id)));
        }
        let config = cri::config(&request)?;
        let spec = cri::spec(&request, config.as_ref())?;
        self.pod.give(cri::files(&spec, config.as_ref()));
        // From here on the bundle is that of a pod's first container, for the start and for the action `delete` alike.
        let bundle = PathBuf::from(&request.bundle_path);
        write_spec(&bundle, &spec).map_err(|error| status::internal(&error))?;
        let made = Made { id: request.sandbox_id, bundle, at: SystemTime::now(), task: None };
        *locked(&self.made) = Some(made);
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> Answer<StartSandboxResponse> {
        let made = self.made(&request.sandbox_id)?;
        if made.task.is_some() {
            return Err(status::precondition("the sandbox was started already"));
        }
        let (pod, id, bundle) = (Arc::clone(&self.pod), made.id, made.bundle);
        // Begun is ended: a caller that gives up must not leave half a machine.
        let started = tokio::spawn(async move { pod.start_sandbox(&id, &bundle).await }).await;
        let task = started.map_err(|error| status::internal(&error))??;
        let at = SystemTime::now();
        let pid = task.pid();
        if let Some(made) = locked(&self.made).as_mut() {
            made.task = Some(task);
            made.at = at;
        }
        Ok(StartSandboxResponse { pid, created_at: Some(status::timestamp(at)).into(), ..Default::default() })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> Answer<PlatformResponse> {
        self.made(&request.sandbox_id)?;
        let platform =
            Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Default::default() };
        Ok(PlatformResponse { platform: Some(platform).into(), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> Answer<StopSandboxResponse> {
        let limit = match request.timeout_secs {
            0 => STOP_LIMIT,
            seconds => Duration::from_secs(seconds.into()),
        };
        self.stop(&request.sandbox_id, limit).await.map(|()| StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> Answer<WaitSandboxResponse> {
        let exit = self.started(&request.sandbox_id)?.init.process.wait().await;
        Ok(WaitSandboxResponse {
            exit_status: status::exit_code(&exit),
            exited_at: Some(status::timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> Answer<SandboxStatusResponse> {
        let made = self.made(&request.sandbox_id)?;
        let mut answer = SandboxStatusResponse {
            sandbox_id: made.id.clone(),
            state: NOT_READY.to_owned(),
            created_at: Some(status::timestamp(made.at)).into(),
            ..Default::default()
        };
        let Some(task) = made.task else { return Ok(answer) };
        answer.pid = task.pid();
        match task.init.process.phase() {
            Phase::Stopped(exit) => answer.exited_at = Some(status::timestamp(exit.at)).into(),
            Phase::Created | Phase::Running => answer.state = READY.to_owned(),
        }
        if request.verbose {
            answer.info = info(&task);
        }
        Ok(answer)
    }

    /// Asks the guest, not only its keeper.
    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Answer<PingResponse> {
        let task = self.started(&request.sandbox_id)?;
        match timeout(PING_LIMIT, task.sandbox.ping()).await {
            Ok(Ok(())) => Ok(PingResponse::default()),
            Ok(Err(error)) => Err(status::error(Code::UNAVAILABLE, crate::line(&error))),
            Err(_) => Err(status::error(Code::UNAVAILABLE, "the guest does not answer")),
        }
    }

    /// Also of one that was never started, or is not known.
    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> Answer<ShutdownSandboxResponse> {
        if self.made(&request.sandbox_id).is_ok() {
            let _ = self.stop(&request.sandbox_id, STOP_LIMIT).await;
        }
        self.pod.clear();
        self.shutdown.notify_one();
        Ok(ShutdownSandboxResponse::default())
    }

    /// What the machine and its keepers cost the host, whatever its containers are told to use.
    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> Answer<SandboxMetricsResponse> {
        self.started(&request.sandbox_id)?;
        let cgroup =
            self.pod.cgroup().ok_or_else(|| status::precondition("the sandbox has no cgroup of its own"))?;
        let counted = cgroup.stats().map_err(|error| status::internal(&error))?;
        let data = stats::metrics(&counted).map_err(|error| status::internal(&error))?;
        let mut answer = SandboxMetricsResponse::default();
        let metrics = answer.metrics.mut_or_insert_default();
        metrics.timestamp = Some(status::timestamp(SystemTime::now())).into();
        metrics.id = request.sandbox_id;
        metrics.data = Some(data).into();
        Ok(answer)
    }
}

impl Service {
    fn made(&self, id: &str) -> Answer<Made> {
        let made = locked(&self.made).clone().filter(|made| made.id == id);
        made.ok_or_else(|| status::not_found(format!("sandbox {id} not found")))
    }

    fn started(&self, id: &str) -> Answer<Arc<Task>> {
        self.made(id)?.task.ok_or_else(|| status::precondition("the sandbox was not started"))
    }

    /// Stopped is stopped: again, or before the start, it is no error.
    async fn stop(&self, id: &str, limit: Duration) -> Answer<()> {
        let Some(task) = self.made(id)?.task else { return Ok(()) };
        // So its exit is a wanted one.
        let _ = task.init.process.kill(SIGTERM, Reach::Process).await;
        task.sandbox.end();
        let ended = timeout(limit, task.sandbox.ended()).await;
        ended.map(drop).map_err(|_| {
            let words = format!("the machine did not end within {} s", limit.as_secs());
            status::error(Code::DEADLINE_EXCEEDED, words)
        })
    }
}

fn write_spec(bundle: &Path, spec: &oci_spec::runtime::Spec) -> std::io::Result<()> {
    fs::write(bundle.join("config.json"), serde_json::to_vec(spec)?)
}

/// For people who look into it.
fn info(task: &Task) -> HashMap<String, String> {
    [
        ("bundle".to_owned(), task.bundle.display().to_string()),
        ("vmmPid".to_owned(), task.sandbox.vmm_pid().to_string()),
    ]
    .into()
}
