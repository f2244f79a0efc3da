//! What is added to a container while it lives: processes of its own, and work of the agent's.

use std::fs::File;

use rustix::process::Signal;

use super::{
    Container, ContainerError, Containers, Slot, check_id, child, job,
    job::Job,
    process::{self, Birth},
    split,
};
use crate::{
    plan::{self, ProcessPlan},
    stdio::{self, HostStreams, ProcessStreams},
};

/// What is added to a container.
#[derive(Debug)]
pub(crate) enum Added {
    Program {
        process_json: Vec<u8>,
        /// In place of the process object's.
        user: Option<String>,
    },
    Job(Job),
}

impl Containers {
    /// Adds a process to a container; it waits to be started.
    pub(crate) async fn exec(
        &self,
        container: String,
        id: String,
        added: Added,
        streams: HostStreams,
    ) -> Result<u32, ContainerError> {
        check_id(&id)?;
        let (newborn, agent_streams) = self.with(&container, |one| {
            if one.execs.contains_key(&id) {
                return Err(ContainerError::Exists(format!("process {id}")));
            }
            let born = match &added {
                Added::Program { process_json, user } => {
                    one.check_not_paused()?;
                    let plan = plan::exec(process_json, &one.process_plan)?;
                    let (process_streams, agent_streams) = split(streams, &plan)?;
                    (self.bear_exec(one, &plan, user.as_deref(), process_streams)?, agent_streams)
                }
                Added::Job(job) => {
                    let (process_streams, agent_streams) = stdio::pipes(streams, 0, 0)?;
                    (self.bear_worker(one, job, process_streams)?, agent_streams)
                }
            };
            one.execs.insert(id.clone(), Slot::Reserved);
            Ok(born)
        })?;
        let grown = newborn.grow(agent_streams).await;
        self.with(&container, |one| match grown {
            Ok(process) => {
                let pid = process.pid();
                one.execs.insert(id, Slot::Taken(process));
                Ok(pid.as_raw_nonzero().get().unsigned_abs())
            }
            Err(error) => {
                one.execs.remove(&id);
                Err(error)
            }
        })
    }

    fn bear_exec(
        &self,
        container: &Container,
        plan: &ProcessPlan,
        user: Option<&str>,
        streams: ProcessStreams,
    ) -> Result<process::Newborn, ContainerError> {
        let init = container.init.open()?;
        let pid = container.init.pid().as_raw_nonzero();
        let birth = Birth {
            clone_flags: 0,
            pid_namespace: Some(File::open(format!("/proc/{pid}/ns/pid"))?.into()),
            cgroup: Some(&container.cgroup),
            reaper: &self.reaper,
        };
        Ok(process::bear(&birth, |channel| child::Exec { plan, user, init, streams }.live(channel))?)
    }

    /// It is among the agent's processes: the container neither sees it nor makes it stand still.
    fn bear_worker(
        &self,
        container: &Container,
        job: &Job,
        streams: ProcessStreams,
    ) -> Result<process::Newborn, ContainerError> {
        let init = container.init.open()?;
        let processes = container.cgroup.processes()?;
        let birth = Birth { clone_flags: 0, pid_namespace: None, cgroup: None, reaper: &self.reaper };
        let disks = container.image.clone().zip(container.disk.clone());
        let disks = disks.map(|(image, writable)| job::Disks { image, writable });
        let work = job::Work { job, init, processes, disks };
        Ok(process::bear(&birth, |channel| child::Worker { work, streams }.live(channel))?)
    }

    /// What works in an ended container, and would hold on to its disks, ends.
    pub(super) async fn end_workers(&self, container: &str) -> Result<(), ContainerError> {
        let ending = self.with(container, |one| {
            let processes = one.execs.values().filter_map(|slot| match slot {
                Slot::Taken(process) if !process.has_ended() => Some(process),
                Slot::Taken(_) | Slot::Reserved => None,
            });
            Ok(processes
                .map(|process| {
                    // It may end by itself just now.
                    let _ = process.signal(Signal::KILL);
                    process.exit()
                })
                .collect::<Vec<_>>())
        })?;
        for mut exit in ending {
            let _ = exit.wait_for(Option::is_some).await;
        }
        Ok(())
    }
}
