//! Verbs that change a container that stays.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{args::Rename, find, make};
use crate::{
    args::Global,
    container::{self, Client, GONE_LIMIT, Located, Place, Request, Status},
    output,
};

/// Of one that runs already there is nothing to do, as with docker.
pub(crate) fn start(located: &Located, global: &Global) -> Result<()> {
    if located.place()?.read()?.status != Status::Stopped {
        return Ok(());
    }
    make::start(&located.records, &located.id, global)
}

pub(super) fn stop(name: &str, time_s: Option<u64>, global: &Global) -> Result<()> {
    let place = find(name, global)?.place()?;
    let record = place.read()?;
    if record.status == Status::Stopped {
        return Ok(());
    }
    let kept = record.kept.as_ref().context("the record is not that of a kept container")?;
    let limit = time_s.map_or(kept.stop_timeout, Duration::from_secs);
    let asked = Client::connect(&place).and_then(|monitor| {
        // A container that stands still hears nothing.
        if record.status == Status::Paused {
            monitor.ask(&Request::Resume)?;
        }
        monitor.ask(&Request::Kill { signal: kept.stop_signal, all: false })
    });
    // Nobody who could be asked is nobody to wait for: it is about to start again.
    let limit = if asked.is_ok() { limit } else { Duration::ZERO };
    if record.monitor.ends_within(limit).context("wait for the container's end")? {
        return Ok(());
    }
    let killed = Client::connect(&place)
        .and_then(|monitor| monitor.ask(&Request::Kill { signal: libc::SIGKILL as u32, all: false }));
    match killed {
        Ok(_) if record.monitor.ends_within(GONE_LIMIT)? => Ok(()),
        _ => record.end(),
    }
}

pub(super) fn remove(name: &str, force: bool, global: &Global) -> Result<()> {
    let place = match find(name, global) {
        Err(_) if force => return Ok(()),
        found => found?.place()?,
    };
    let record = place.read()?;
    if record.status != Status::Stopped {
        if !force {
            bail!("container {name} is {}: stop it first, or use --force", record.status.name());
        }
        record.end()?;
    }
    take_away(&place)
}

/// One that removes itself may have done so.
fn take_away(place: &Place) -> Result<()> {
    match place.remove() {
        Err(_) if !place.path().exists() => Ok(()),
        removed => removed.map(drop),
    }
}

pub(super) fn wait(name: &str, global: &Global) -> Result<()> {
    let place = find(name, global)?.place()?;
    let mut record = place.read()?;
    while record.status != Status::Stopped {
        record.monitor.ends_within(Duration::from_secs(3600)).context("wait for the container's end")?;
        record = match place.read() {
            Ok(record) => record,
            // It has removed itself, and its code with it.
            Err(_) => return output::lines(["0".to_owned()]),
        };
    }
    let code = record.kept.and_then(|kept| kept.ended).map_or(KILLED, |ended| ended.code);
    output::lines([code.to_string()])
}

/// One whose monitor was killed could not note its end.
pub(super) const KILLED: u8 = 128 + 9;

pub(super) fn rename(rename: &Rename, global: &Global) -> Result<u8> {
    let located = find(&rename.name, global)?;
    let _alone = located.records.lock()?;
    if let Some(other) = container::find(&located.records.all()?, rename.new.as_str())? {
        bail!("the name {} is in use by the container {}", rename.new, other.id);
    }
    let place = located.place()?;
    let mut record = place.read()?;
    if record.status != Status::Stopped {
        bail!("container {} is {}: its monitor keeps its record", rename.name, record.status.name());
    }
    if let Some(kept) = &mut record.kept {
        kept.name = rename.new.to_string();
    }
    place.write(&record)?;
    Ok(0)
}
