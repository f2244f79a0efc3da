//! Verbs that change a container.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use securectr_sandbox::SandboxId;

use super::{
    args::{Delete, Kill},
    monitor,
};
use crate::container::{Answer, Client, Place, Record, Records, Request, Status};

/// How long a killed monitor may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn start(records: &Records, id: &SandboxId) -> Result<u8> {
    let place = records.find(id)?;
    match place.read()?.status {
        Status::Created => {}
        Status::Creating => bail!("cannot start a container that is being created"),
        Status::Running | Status::Paused => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
    }
    match Client::connect(&place)?.ask(&Request::Start)?.0 {
        Answer::NotExecuted { words } => bail!(words),
        _ => Ok(0),
    }
}

pub(super) fn kill(records: &Records, kill: &Kill) -> Result<u8> {
    let place = records.find(&kill.id)?;
    if place.read()?.status == Status::Stopped {
        // With --all it is no error, as with runc: there may be processes without their container.
        if kill.all {
            return Ok(0);
        }
        bail!("container not running");
    }
    Client::connect(&place)?.ask(&Request::Kill { signal: kill.signal, all: kill.all })?;
    Ok(0)
}

pub(super) fn pause(records: &Records, id: &SandboxId) -> Result<u8> {
    let place = records.find(id)?;
    if place.read()?.status != Status::Running {
        bail!("container not running");
    }
    Client::connect(&place)?.ask(&Request::Pause)?;
    Ok(0)
}

pub(super) fn resume(records: &Records, id: &SandboxId) -> Result<u8> {
    let place = records.find(id)?;
    if place.read()?.status != Status::Paused {
        bail!("container not paused");
    }
    Client::connect(&place)?.ask(&Request::Resume)?;
    Ok(0)
}

pub(super) fn delete(records: &Records, delete: &Delete) -> Result<u8> {
    let place = match records.find(&delete.id) {
        Err(_) if delete.force => return Ok(0),
        found => found?,
    };
    // One whose record was never written has no monitor that could be told.
    let status = place.read().map_or(Status::Stopped, |record| record.status);
    match status {
        Status::Stopped => {}
        Status::Created => end(&place)?,
        _ if delete.force => end(&place)?,
        _ => bail!("cannot delete container {} that is not stopped: running", delete.id),
    }
    // A container that was never made has no record.
    place.remove()?.map_or(Ok(0), |record| after_stop(&record))
}

/// The host's hooks for a container that is gone.
fn after_stop(record: &Record) -> Result<u8> {
    if record.poststop.is_empty() {
        return Ok(0);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(monitor::after_stop(record));
    Ok(0)
}

/// Kills the monitor, whose machine dies with it.
fn end(place: &Place) -> Result<()> {
    let began = Instant::now();
    loop {
        let record = place.read()?;
        if record.status == Status::Stopped {
            return Ok(());
        }
        if let Some(pid) = i32::try_from(record.monitor.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if began.elapsed() > GONE_LIMIT {
            bail!("the monitor {} of the container does not end", record.monitor.pid);
        }
        sleep(Duration::from_millis(10));
    }
}
