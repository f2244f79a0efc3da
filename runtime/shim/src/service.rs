//! containerd's task service: each call is checked, becomes one of ours, and its answer goes back in containerd's words.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
        StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    events::task::{TaskDelete, TaskExecAdded},
    shim_async::Task as TaskService,
    topics::{TASK_DELETE_EVENT_TOPIC, TASK_EXEC_ADDED_EVENT_TOPIC},
    ttrpc::{Code, Result as Answer, asynchronous::TtrpcContext},
};
use oci_spec::runtime::Process as ProcessSpec;
use securectr_sandbox::{Addition, KillError, Phase, Process, ProcessName, Reach, StartError};
use tokio::{sync::Notify, time::timeout};

use crate::{
    info,
    pod::Pod,
    status,
    stdio::{Owner, Request},
    task::{Life, Task, locked},
};

/// How long a guest may take to remove what has ended, before we go on without it.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Service {
    pub pod: Arc<Pod>,
    /// Notified when the server is to end.
    pub shutdown: Arc<Notify>,
}

#[async_trait]
impl TaskService for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(status::error(Code::UNIMPLEMENTED, "restore from a checkpoint"));
        }
        let pod = Arc::clone(&self.pod);
        // Begun is ended: a caller that gives up must not leave half a task.
        let created = tokio::spawn(async move { pod.create(&request).await }).await;
        let task = created.map_err(|error| status::internal(&error))??;
        Ok(CreateTaskResponse { pid: task.pid(), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        let (task, life) = self.life(&request.id, &request.exec_id)?;
        if request.exec_id.is_empty() {
            // Docker wires a network between the creation and the start.
            task.sandbox.refresh_network().await.map_err(|error| status::internal(&error))?;
        }
        life.process.start().await.map_err(|error| start_error(&error))?;
        if request.exec_id.is_empty() {
            task.run_hooks(task.hooks.as_ref().and_then(|hooks| hooks.poststart().as_ref()), "running").await;
        }
        Ok(StartResponse { pid: task.pid(), ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<StateResponse> {
        let (task, life) = self.life(&request.id, &request.exec_id)?;
        Ok(task.state(&life))
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        let (task, life) = self.life(&request.id, &request.exec_id)?;
        let Phase::Stopped(exit) = life.process.phase() else {
            return Err(status::precondition("cannot delete a running process"));
        };
        life.finish().await;
        let response = DeleteResponse {
            pid: task.pid(),
            exit_status: status::exit_code(&exit),
            exited_at: Some(status::timestamp(exit.at)).into(),
            ..Default::default()
        };
        if request.exec_id.is_empty() {
            self.delete_task(&task, &response).await;
        } else {
            delete_exec(&task, &request.exec_id).await;
        }
        Ok(response)
    }

    /// The guest's processes have no pids on the host: what is told is what stands for them.
    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Answer<PidsResponse> {
        let task = self.pod.task(&request.id)?;
        let processes = vec![ProcessInfo { pid: task.pid(), ..Default::default() }];
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<Empty> {
        self.pod.task(&request.id)?.pause(&self.pod.events).await.map(|()| Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<Empty> {
        self.pod.task(&request.id)?.resume(&self.pod.events).await.map(|()| Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Answer<Empty> {
        Err(status::error(Code::UNIMPLEMENTED, "checkpoint a task"))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        let (_, life) = self.life(&request.id, &request.exec_id)?;
        let reach = if request.all { Reach::Container } else { Reach::Process };
        match life.process.kill(request.signal, reach).await {
            Ok(()) => Ok(Empty::default()),
            Err(KillError::Ended) => Err(status::not_found("process already finished")),
            Err(KillError::Sandbox(error)) => Err(status::internal(&error)),
        }
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Answer<Empty> {
        let task = self.pod.task(&request.id)?;
        if request.exec_id.is_empty() {
            return Err(status::error(Code::INVALID_ARGUMENT, "an exec needs an id"));
        }
        let namespace = self.pod.namespace().to_owned();
        let (added, id) = (Arc::clone(&task), request.exec_id.clone());
        let life = tokio::spawn(async move { add_exec(&added, &request, &namespace).await });
        let life = life.await.map_err(|error| status::internal(&error))??;
        let event = TaskExecAdded { container_id: task.id.clone(), exec_id: id, ..Default::default() };
        self.pod.events.tell(TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        life.herald(task.id.clone(), task.pid(), self.pod.events.clone());
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let (_, life) = self.life(&request.id, &request.exec_id)?;
        let fit = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
        let resized = life.process.resize(fit(request.width), fit(request.height)).await;
        resized.map(|()| Empty::default()).map_err(|error| status::internal(&error))
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        let (_, life) = self.life(&request.id, &request.exec_id)?;
        if request.stdin {
            life.close_stdin();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Answer<Empty> {
        let task = self.pod.task(&request.id)?;
        let resources = request.resources.map(|any| any.value.clone()).unwrap_or_default();
        task.update(&resources).await.map(|()| Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let (_, life) = self.life(&request.id, &request.exec_id)?;
        let exit = life.process.wait().await;
        Ok(WaitResponse {
            exit_status: status::exit_code(&exit),
            exited_at: Some(status::timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let stats = self.pod.task(&request.id)?.stats().await?;
        Ok(StatsResponse { stats: Some(stats).into(), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Answer<ConnectResponse> {
        // After its restart, containerd asks this first: without an answer it would kill us.
        let task_pid = self.pod.task(&request.id).map_or(0, |task| task.pid());
        let version = info::VERSION.to_owned();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..Default::default() })
    }

    /// Called after every delete: as long as there are tasks, it means nothing.
    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Answer<Empty> {
        if self.pod.is_empty() {
            self.shutdown.notify_one();
        }
        Ok(Empty::default())
    }
}

impl Service {
    fn life(&self, id: &str, exec_id: &str) -> Answer<(Arc<Task>, Arc<Life>)> {
        let task = self.pod.task(id)?;
        let life = task.life(exec_id)?;
        Ok((task, life))
    }

    async fn delete_task(&self, task: &Task, response: &DeleteResponse) {
        if let Some(container) = &task.container {
            // A guest that has ended, or hangs, removes nothing: its machine goes.
            let _ = timeout(REMOVE_LIMIT, task.sandbox.delete(&container.plan)).await;
            task.sandbox.take_back_devices(&container.plan).await;
        }
        self.pod.remove(&task.id);
        task.run_hooks(task.hooks.as_ref().and_then(|hooks| hooks.poststop().as_ref()), "stopped").await;
        let event = TaskDelete {
            container_id: task.id.clone(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at.clone(),
            ..Default::default()
        };
        self.pod.events.tell(TASK_DELETE_EVENT_TOPIC, &event);
    }
}

async fn delete_exec(task: &Task, exec_id: &str) {
    if let Some(container) = &task.container {
        let name = ProcessName { container: container.plan.id.clone(), exec: Some(exec_id.to_owned()) };
        let _ = timeout(REMOVE_LIMIT, task.sandbox.delete_exec(&name)).await;
    }
    locked(&task.execs).remove(exec_id);
}

async fn add_exec(task: &Task, request: &ExecProcessRequest, namespace: &str) -> Answer<Arc<Life>> {
    let exec_id = request.exec_id.as_str();
    let Some(container) = &task.container else {
        return Err(status::precondition("a pod has no process to add one to"));
    };
    if locked(&task.execs).contains_key(exec_id) {
        return Err(status::error(Code::ALREADY_EXISTS, format!("id {exec_id}")));
    }
    match task.init.process.phase() {
        Phase::Running if task.paused.load(Ordering::Relaxed) => {
            return Err(status::precondition("cannot exec in a paused state"));
        }
        Phase::Running => {}
        Phase::Created => return Err(status::precondition("cannot exec in a created state")),
        Phase::Stopped(_) => return Err(status::precondition("cannot exec in a stopped state")),
    }
    let spec = request.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    let spec: ProcessSpec = serde_json::from_slice(spec)
        .map_err(|error| status::error(Code::INVALID_ARGUMENT, format!("understand the process: {error}")))?;
    let stdio = Request {
        terminal: request.terminal,
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
    };
    let opened = stdio.open(Owner { namespace, id: exec_id }).await.map_err(|e| status::internal(&e))?;
    let name = ProcessName { container: container.plan.id.clone(), exec: Some(exec_id.to_owned()) };
    let addition = Addition::Process { process: Box::new(spec), user: None };
    let streams =
        task.sandbox.exec(&name, &addition, stdio.wanted()).await.map_err(|e| status::internal(&e))?;
    let process = Process::watch(Arc::clone(&task.sandbox), name);
    let joined = opened.join(streams).map_err(|error| status::internal(&error))?;
    let life = Life::new(exec_id, process, stdio, joined);
    locked(&task.execs).insert(exec_id.to_owned(), Arc::clone(&life));
    Ok(life)
}

fn start_error(error: &StartError) -> containerd_shim_protos::ttrpc::Error {
    match error {
        StartError::Started | StartError::Ended => status::precondition(error.to_string()),
        StartError::Launch(failure) => {
            let words = failure.in_runcs_words();
            status::error(Code::UNKNOWN, format!("OCI runtime create failed: {words}"))
        }
        StartError::Sandbox(error) => status::internal(error),
    }
}
