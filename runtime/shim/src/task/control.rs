//! A running container as a whole: paused, measured, given other limits.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use containerd_shim_protos::{
    events::task::{TaskOOM, TaskPaused, TaskResumed},
    protobuf::well_known_types::any::Any,
    topics::{TASK_OOM_EVENT_TOPIC, TASK_PAUSED_EVENT_TOPIC, TASK_RESUMED_EVENT_TOPIC},
    ttrpc::{self, Code},
};
use oci_spec::runtime::LinuxResources;
use securectr_sandbox::{Phase, Reach, SandboxId, Stats};
use tokio::time::timeout;

use super::Task;
use crate::{events::Events, stats, status};

/// Stats are asked for all the time, by those who ask others next.
const STATS_LIMIT: Duration = Duration::from_secs(5);

const SIGKILL: u32 = nix::sys::signal::Signal::SIGKILL as u32;

impl Task {
    /// The container in the guest; a pod's task has none of its own, and what is asked of it is not asked of anything.
    fn running(&self) -> ttrpc::Result<Option<&SandboxId>> {
        match self.init.process.phase() {
            Phase::Running => Ok(self.container.as_ref().map(|container| &container.plan.id)),
            Phase::Created => Err(status::precondition("container is not running: it was created")),
            Phase::Stopped(_) => Err(status::precondition("container is not running: it has stopped")),
        }
    }

    pub(crate) async fn pause(&self, events: &Events) -> ttrpc::Result<()> {
        let container = self.running()?;
        if self.paused.load(Ordering::Relaxed) {
            return Err(status::precondition("container is paused already"));
        }
        if let Some(container) = container {
            self.sandbox.pause(container).await.map_err(|error| status::internal(&error))?;
        }
        self.paused.store(true, Ordering::Relaxed);
        let event = TaskPaused { container_id: self.id.clone(), ..Default::default() };
        events.tell(TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(crate) async fn resume(&self, events: &Events) -> ttrpc::Result<()> {
        let container = self.running()?;
        if !self.paused.load(Ordering::Relaxed) {
            return Err(status::precondition("container is not paused"));
        }
        if let Some(container) = container {
            self.sandbox.resume(container).await.map_err(|error| status::internal(&error))?;
        }
        self.paused.store(false, Ordering::Relaxed);
        let event = TaskResumed { container_id: self.id.clone(), ..Default::default() };
        events.tell(TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// `resources` is a JSON document of the runtime spec.
    pub(crate) async fn update(&self, resources: &[u8]) -> ttrpc::Result<()> {
        let limits: LinuxResources = serde_json::from_slice(resources).map_err(|error| {
            status::error(Code::INVALID_ARGUMENT, format!("understand the resources: {error}"))
        })?;
        if let Phase::Stopped(_) = self.init.process.phase() {
            return Err(status::precondition("container is not running: it has stopped"));
        }
        match &self.container {
            Some(container) => self
                .sandbox
                .update(&container.plan.id, &limits)
                .await
                .map_err(|error| status::internal(&error)),
            None => Ok(()),
        }
    }

    pub(crate) async fn stats(&self) -> ttrpc::Result<Any> {
        let stats = match &self.container {
            None => Stats::default(),
            Some(container) => match timeout(STATS_LIMIT, self.sandbox.stats(&container.plan.id)).await {
                Ok(stats) => stats.map_err(|error| status::internal(&error))?,
                Err(_) => {
                    return Err(status::error(
                        Code::DEADLINE_EXCEEDED,
                        "the guest does not say what it uses",
                    ));
                }
            },
        };
        stats::metrics(&stats).map_err(|error| status::internal(&error))
    }

    /// Who kills the pid that stands for the task kills the task. Must be called in a tokio runtime.
    pub(crate) fn watch_anchor(self: &Arc<Self>) {
        let (task, ended) = (Arc::downgrade(self), self.anchor.ended());
        tokio::spawn(async move {
            ended.await;
            if let Some(task) = task.upgrade() {
                // One that has ended meanwhile needs no killing.
                let _ = task.init.process.kill(SIGKILL, Reach::Process).await;
            }
        });
    }

    /// Tells whenever the guest's kernel kills a process of the container for want of memory. Must be called in a tokio runtime.
    pub(crate) fn watch_memory(self: &Arc<Self>, events: Events) {
        let task = Arc::downgrade(self);
        let Some(container) = self.container.as_ref().map(|container| container.plan.id.clone()) else {
            return;
        };
        let sandbox = Arc::clone(&self.sandbox);
        tokio::spawn(async move {
            let mut seen = 0;
            // It fails when the container ends.
            while let Ok(killed @ 1..) = sandbox.out_of_memory(&container, seen).await {
                let Some(task) = task.upgrade().filter(|_| killed > seen) else { return };
                seen = killed;
                task.tell_oom(&events);
            }
        });
    }

    fn tell_oom(&self, events: &Events) {
        self.init.oom_told.store(true, Ordering::Relaxed);
        let event = TaskOOM { container_id: self.id.clone(), ..Default::default() };
        events.tell(TASK_OOM_EVENT_TOPIC, &event);
    }
}
