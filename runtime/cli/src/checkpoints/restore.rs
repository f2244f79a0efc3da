//! From a checkpoint to containers that go on from it.

use std::path::Path;

use anyhow::{Context, Result};
use securectr_sandbox::{SandboxId, copy_disk};

use super::{
    args::{Fork, Restore},
    document::{Checkpoint, Checkpoints},
    make,
};
use crate::{
    args::Global,
    container::{
        Action, DISK, Journal, Kept, Place, Records, Request, again, is_free, locate_of_run, spawn_and_hear,
    },
    kept::{first_record, write_spec},
    output, paths,
    progress::Spinner,
};

/// How a container is to be called.
pub(crate) enum Called {
    So(SandboxId),
    /// As the one that was saved, or by its id if that name is taken.
    AsBefore,
    /// By this and the first number that is free.
    Numbered(String),
}

/// What a container that goes on is to be.
pub(crate) struct Wanted {
    pub called: Called,
    /// Nothing of it stays when it ends.
    pub remove: bool,
    /// It waits for [`Request::Resume`].
    pub is_paused: bool,
}

pub(super) fn restore(restore: &Restore, global: &Global) -> Result<u8> {
    let directory = Checkpoints::of(global)?.find(&restore.checkpoint)?;
    let called = restore.name.clone().map_or(Called::AsBefore, Called::So);
    let wanted = Wanted { called, remove: restore.rm, is_paused: false };
    output::lines([go_on(&directory, wanted, global)?.to_string()])?;
    Ok(0)
}

pub(super) fn fork(fork: &Fork, global: &Global) -> Result<u8> {
    let listed = locate_of_run(global, &fork.container)?;
    let begun = Checkpoints::of(global)?.begin()?;
    let _spinner = Spinner::new("forking");
    let (client, moment) = make::save(&listed, begun.path())?;
    client.ask(&Request::GoOn)?;
    make::describe(&listed, begun.path(), moment, false)?;
    let base = fork.name.as_ref().map_or_else(|| listed.kept.name.clone(), ToString::to_string);
    for _ in 0..fork.number {
        let called = Called::Numbered(base.clone());
        let wanted = Wanted { called, remove: fork.rm, is_paused: false };
        output::lines([go_on(begun.path(), wanted, global)?.to_string()])?;
    }
    Ok(0)
}

/// Makes a container that goes on from what lies in a directory; answers when its processes run.
pub(crate) fn go_on(directory: &Path, wanted: Wanted, global: &Global) -> Result<SandboxId> {
    let checkpoint = Checkpoint::read(directory)?;
    checkpoint.check_processor()?;
    let id = SandboxId::random().context("make an id")?;
    let records = Records::kept(&paths::store(global)?);
    let place = records.create(&id)?;
    let started = furnish(&checkpoint, directory, (&records, &id, &place), &wanted, global).and_then(|()| {
        let mut monitor = again(&records, global)?;
        monitor.args(["keep", "--from"]).arg(directory).current_dir("/");
        if wanted.is_paused {
            monitor.arg("--paused");
        }
        spawn_and_hear(&mut monitor, |command| command.arg(id.as_str()))
    });
    started.inspect_err(|_| drop(place.remove()))?;
    Ok(id)
}

/// Writes down what a monitor needs.
fn furnish(
    checkpoint: &Checkpoint,
    directory: &Path,
    (records, id, place): (&Records, &SandboxId, &Place),
    wanted: &Wanted,
    global: &Global,
) -> Result<()> {
    if let Some(disk) = checkpoint.disk(directory)? {
        copy_disk(&disk, &place.path().join(DISK))?;
    }
    write_spec(place, &checkpoint.spec)?;
    let _alone = records.lock()?;
    let kept = Kept {
        name: name(wanted, checkpoint, id, global)?,
        remove: wanted.remove || checkpoint.kept.remove,
        cut_off: None,
        restarts: 0,
        timings: Default::default(),
        started: None,
        ended: None,
        ..checkpoint.kept.clone()
    };
    let record = first_record(id, place, kept)?;
    place.write(&record)?;
    Journal::of(&paths::store(global)?).note(&record, &Action::Create);
    Ok(())
}

fn name(wanted: &Wanted, checkpoint: &Checkpoint, id: &SandboxId, global: &Global) -> Result<String> {
    let free = |name: &String| is_free(global, name).is_ok();
    Ok(match &wanted.called {
        Called::So(name) => {
            is_free(global, name.as_str())?;
            name.to_string()
        }
        Called::AsBefore => {
            let before = Some(checkpoint.kept.name.clone()).filter(free);
            before.unwrap_or_else(|| id.to_string())
        }
        Called::Numbered(base) => {
            let numbered = (1_u32..).map(|number| format!("{base}-{number}")).find(free);
            numbered.unwrap_or_else(|| id.to_string())
        }
    })
}
