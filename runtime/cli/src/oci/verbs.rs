//! Verbs that change a container.

use anyhow::{Context, Result, bail};

use super::{
    args::{Delete, Kill},
    monitor,
};
use crate::{
    args::Global,
    container::{Answer, Client, Located, Record, Records, Request, Status, locate},
    kept, output,
    report::Report,
    signals,
};

/// Does it to each container, and says the names of those that stay; an engine, which names one, hears nothing.
pub(super) fn of_each(
    names: &[String],
    global: &Global,
    report: &Report,
    act: impl Fn(&Located, bool) -> Result<()>,
) -> Result<u8> {
    let act_on = |name: &str| -> Result<bool> {
        let located = locate(global, name)?;
        let is_kept = located.place()?.read()?.kept.is_some();
        act(&located, is_kept).map(|()| is_kept)
    };
    if let [only] = names {
        if act_on(only)? {
            output::lines([only.clone()])?;
        }
        return Ok(0);
    }
    kept::each(names, report, |name| act_on(name).map(drop))
}

pub(super) fn start(located: &Located) -> Result<()> {
    let place = located.place()?;
    match place.read()?.status {
        Status::Created => {}
        Status::Creating => bail!("cannot start a container that is being created"),
        Status::Running | Status::Paused => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
    }
    match Client::connect(&place)?.ask(&Request::Start)?.0 {
        Answer::NotExecuted { words, .. } => bail!(words),
        _ => Ok(()),
    }
}

/// runc's form, `kill ID SIGNAL`, is one container with a signal behind it.
pub(super) fn kill(kill: &Kill, global: &Global, report: &Report) -> Result<u8> {
    let (names, signal) = match (kill.signal, kill.names.as_slice()) {
        (None, [one, last]) if signals::number(last).is_ok() => {
            (vec![one.clone()], signals::number(last).ok())
        }
        (signal, names) => (names.to_vec(), signal),
    };
    of_each(&names, global, report, |located, is_kept| {
        let default = if is_kept { libc::SIGKILL } else { libc::SIGTERM };
        kill_one(located, signal.unwrap_or(default.unsigned_abs()), kill.all)
    })
}

fn kill_one(located: &Located, signal: u32, all: bool) -> Result<()> {
    let place = located.place()?;
    if place.read()?.status == Status::Stopped {
        // With --all it is no error, as with runc: there may be processes without their container.
        if all {
            return Ok(());
        }
        bail!("container not running");
    }
    Client::connect(&place)?.ask(&Request::Kill { signal, all })?;
    Ok(())
}

pub(super) fn pause(located: &Located) -> Result<()> {
    let place = located.place()?;
    if place.read()?.status != Status::Running {
        bail!("container not running");
    }
    Client::connect(&place)?.ask(&Request::Pause)?;
    Ok(())
}

pub(super) fn resume(located: &Located) -> Result<()> {
    let place = located.place()?;
    if place.read()?.status != Status::Paused {
        bail!("container not paused");
    }
    Client::connect(&place)?.ask(&Request::Resume)?;
    Ok(())
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
        Status::Created => place.read()?.end()?,
        _ if delete.force => place.read()?.end()?,
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
