//! Verbs that change a container that stays.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, bail};
use securectr_sandbox::{SandboxId, StateRoot};

use super::{args::Rename, make};
use crate::{
    args::Global,
    container::{
        Action, Answer, Book, Client, GONE_LIMIT, Journal, KILLED, Located, OfRun, Place, Request, Status,
        is_free, locate_of_run,
    },
    copies::Copies,
    output, paths,
};

/// How often a killed machine's state is looked for, at most.
const LOOKS: u32 = 20;

/// Before a container's end is looked for again.
const BETWEEN: Duration = Duration::from_millis(100);

/// Of one that runs already there is nothing to do, as with docker.
pub(crate) fn start(located: &Located, global: &Global) -> Result<()> {
    if located.place()?.read()?.status != Status::Stopped {
        return Ok(());
    }
    make::start(&located.records, &located.id, global)
}

pub(super) fn stop(name: &str, time_s: Option<u64>, global: &Global) -> Result<()> {
    let OfRun { located, record, kept } = locate_of_run(global, name)?;
    if record.status == Status::Stopped {
        return Ok(());
    }
    let place = located.place()?;
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

pub(crate) fn remove(name: &str, force: bool, global: &Global) -> Result<()> {
    let listed = match locate_of_run(global, name) {
        Err(_) if force => return Ok(()),
        found => found?,
    };
    let record = &listed.record;
    if record.status != Status::Stopped {
        if !force {
            bail!("container {name} is {}: stop it first, or use --force", record.status.name());
        }
        record.end()?;
        forget_machine(&listed.located.id);
    }
    take_away(&listed.located.place()?, &Journal::of(&paths::store(global)?))?;
    Copies::of(global)?.remove(&listed.located.id)
}

/// A killed monitor has left its machine's state, which goes when somebody looks there and nobody holds it any more.
fn forget_machine(id: &SandboxId) {
    for _ in 0..LOOKS {
        match StateRoot::open() {
            Ok(state) if state.path().join(id.as_str()).exists() => sleep(BETWEEN),
            _ => return,
        }
    }
}

/// One that removes itself may have done so.
pub(super) fn take_away(place: &Place, journal: &Journal) -> Result<()> {
    match place.remove() {
        Ok(Some(record)) => journal.note(&record, &Action::Destroy),
        Err(error) if place.path().exists() => return Err(error),
        _ => {}
    }
    Ok(())
}

pub(super) fn wait(name: &str, global: &Global) -> Result<()> {
    let code = code(&locate_of_run(global, name)?)?;
    output::lines([code.to_string()])
}

/// Its exit code, when it has ended for good: its monitor says it, and then its record.
pub(super) fn code(listed: &OfRun) -> Result<u8> {
    let place = listed.located.place()?;
    let mut told = None;
    // One that has removed itself has no record any more.
    while let Ok(record) = place.read() {
        if record.status == Status::Stopped {
            told = record.kept.and_then(|kept| kept.ended).map(|ended| ended.code).or(told);
            break;
        }
        let exit = Client::connect(&place).and_then(|monitor| monitor.ask(&Request::Wait));
        if let Ok((Answer::Exited(code), _)) = exit {
            told = Some(code);
        }
        // It is about to note its end, or to start again.
        record.monitor.ends_within(BETWEEN).context("wait for the container's end")?;
    }
    Ok(told.unwrap_or(KILLED))
}

pub(super) fn rename(rename: &Rename, global: &Global) -> Result<u8> {
    let listed = locate_of_run(global, &rename.name)?;
    let _alone = listed.located.records.lock()?;
    is_free(global, rename.new.as_str())?;
    let (place, name) = (listed.located.place()?, rename.new.to_string());
    if listed.record.status != Status::Stopped {
        // Its monitor keeps its record.
        Client::connect(&place)?.ask(&Request::Rename { name })?;
        return Ok(0);
    }
    let (record, journal) = (place.read()?, Some(Journal::of(&paths::store(global)?)));
    Book::new(place, record, journal).rename(&name)?;
    Ok(0)
}
