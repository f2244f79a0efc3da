//! A container and its processes as containerd counts them.

mod control;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use containerd_shim_protos::{
    api,
    events::task::{TaskExecStarted, TaskExit, TaskOOM, TaskStart},
    topics::{
        TASK_EXEC_STARTED_EVENT_TOPIC, TASK_EXIT_EVENT_TOPIC, TASK_OOM_EVENT_TOPIC, TASK_START_EVENT_TOPIC,
    },
    ttrpc,
};
use oci_spec::runtime::{Hook, Hooks};
use securectr_sandbox::{Anchor, ContainerPlan, Exit, HookState, Phase, Process, Sandbox, run_all};

use crate::{
    events::Events,
    mounts::Rootfs,
    status,
    stdio::{Joined, Request},
};

/// The version of the runtime spec that hooks are told.
pub(crate) const OCI_VERSION: &str = "1.2.0";

/// A container, or what stands for a pod.
pub(crate) struct Task {
    pub id: String,
    pub bundle: PathBuf,
    /// The host's.
    pub hooks: Option<Hooks>,
    pub annotations: HashMap<String, String>,
    pub sandbox: Arc<Sandbox>,
    /// In the guest; a pod's task has none.
    pub container: Option<Container>,
    pub anchor: Anchor,
    pub init: Arc<Life>,
    pub execs: Mutex<HashMap<String, Arc<Life>>>,
    pub paused: AtomicBool,
}

pub(crate) struct Container {
    pub plan: ContainerPlan,
    /// Unmounted when the task is dropped.
    pub _rootfs: Rootfs,
}

/// One process.
pub(crate) struct Life {
    /// Empty for the init.
    pub exec_id: String,
    pub process: Arc<Process>,
    pub stdio: Request,
    /// Taken when it is removed.
    pub joined: Mutex<Option<Joined>>,
    /// That memory ran out has been told.
    pub oom_told: AtomicBool,
}

impl Life {
    pub(crate) fn new(exec_id: &str, process: Arc<Process>, stdio: Request, joined: Joined) -> Arc<Self> {
        Arc::new(Self {
            exec_id: exec_id.to_owned(),
            process,
            stdio,
            joined: Mutex::new(Some(joined)),
            oom_told: AtomicBool::new(false),
        })
    }

    /// Tells its start and its end, in this order. Must be called in a tokio runtime.
    pub(crate) fn herald(self: &Arc<Self>, task: String, pid: u32, events: Events) {
        let life = Arc::clone(self);
        tokio::spawn(async move {
            let mut phases = life.process.phases();
            let mut told_start = false;
            loop {
                let phase = phases.borrow_and_update().clone();
                let was_started = match &phase {
                    Phase::Created => false,
                    Phase::Running => true,
                    Phase::Stopped(exit) => exit.was_started,
                };
                if was_started && !told_start {
                    told_start = true;
                    life.tell_start(&task, pid, &events);
                }
                if let Phase::Stopped(exit) = phase {
                    if !exit.not_executed {
                        life.tell_exit(&task, pid, &exit, &events);
                    }
                    return;
                }
                // The process, which holds the sender, is held by us.
                let _ = phases.changed().await;
            }
        });
    }

    fn tell_start(&self, task: &str, pid: u32, events: &Events) {
        let container_id = task.to_owned();
        if self.exec_id.is_empty() {
            events.tell(TASK_START_EVENT_TOPIC, &TaskStart { container_id, pid, ..Default::default() });
        } else {
            let exec_id = self.exec_id.clone();
            let event = TaskExecStarted { container_id, exec_id, pid, ..Default::default() };
            events.tell(TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        }
    }

    fn tell_exit(&self, task: &str, pid: u32, exit: &Exit, events: &Events) {
        if let Some(cause) = &exit.cause {
            eprintln!("the machine of {task} ended: {cause}");
        }
        if exit.oom_killed && self.exec_id.is_empty() && !self.oom_told.load(Ordering::Relaxed) {
            let event = TaskOOM { container_id: task.to_owned(), ..Default::default() };
            events.tell(TASK_OOM_EVENT_TOPIC, &event);
        }
        let id = if self.exec_id.is_empty() { task } else { &self.exec_id };
        let event = TaskExit {
            container_id: task.to_owned(),
            id: id.to_owned(),
            pid,
            exit_status: status::exit_code(exit),
            exited_at: Some(status::timestamp(exit.at)).into(),
            ..Default::default()
        };
        events.tell(TASK_EXIT_EVENT_TOPIC, &event);
    }

    pub(crate) fn close_stdin(&self) {
        if let Some(joined) = locked(&self.joined).as_ref() {
            joined.close_stdin();
        }
    }

    /// Its output has been taken, or is given up; its streams are closed.
    pub(crate) async fn finish(&self) {
        let joined = locked(&self.joined).take();
        if let Some(joined) = joined {
            joined.finish().await;
        }
    }
}

impl Task {
    pub(crate) fn pid(&self) -> u32 {
        self.anchor.pid().unsigned_abs()
    }

    /// What the host's hooks are told.
    pub(crate) fn hook_state(&self, status: &'static str) -> HookState {
        HookState {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.clone(),
            status,
            pid: self.anchor.pid(),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    pub(crate) async fn run_hooks(&self, hooks: Option<&Vec<Hook>>, status: &'static str) {
        for failure in run_all(hooks.map(Vec::as_slice), &self.hook_state(status)).await {
            eprintln!("{}", crate::line(&failure));
        }
    }

    /// The init, or one of the others by its exec id.
    pub(crate) fn life(&self, exec_id: &str) -> ttrpc::Result<Arc<Life>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let execs = locked(&self.execs);
        execs
            .get(exec_id)
            .cloned()
            .ok_or_else(|| status::not_found(format!("process {exec_id} does not exist")))
    }

    pub(crate) fn state(&self, life: &Life) -> api::StateResponse {
        let mut state = api::StateResponse {
            id: self.id.clone(),
            exec_id: life.exec_id.clone(),
            bundle: self.bundle.display().to_string(),
            pid: self.pid(),
            terminal: life.stdio.terminal,
            stdin: life.stdio.stdin.clone(),
            stdout: life.stdio.stdout.clone(),
            stderr: life.stdio.stderr.clone(),
            ..Default::default()
        };
        state.status = match life.process.phase() {
            Phase::Created => api::Status::CREATED,
            Phase::Running if self.paused.load(Ordering::Relaxed) => api::Status::PAUSED,
            Phase::Running => api::Status::RUNNING,
            Phase::Stopped(exit) => {
                state.exit_status = status::exit_code(&exit);
                state.exited_at = Some(status::timestamp(exit.at)).into();
                api::Status::STOPPED
            }
        }
        .into();
        state
    }
}

/// Nothing is left half changed under these locks, whoever panicked.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
