//! From a running container to a checkpoint.

use std::path::Path;

use anyhow::{Result, bail};
use securectr_sandbox::Config;

use super::{
    args::Create,
    document::{Checkpoint, Checkpoints, Of},
};
use crate::{
    args::Global,
    container::{Answer, Client, GONE_LIMIT, Moment, OfRun, Request, locate_of_run},
    output,
    progress::Spinner,
};

pub(super) fn create(create: &Create, global: &Global) -> Result<u8> {
    let Create { leave_running, container, checkpoint: name } = create;
    let checkpoints = Checkpoints::of(global)?;
    checkpoints.check_free(name)?;
    let listed = locate_of_run(global, container)?;
    let begun = checkpoints.begin()?;
    let spinner = Spinner::new("saving");
    let (client, moment) = save(&listed, begun.path())?;
    if *leave_running {
        client.ask(&Request::GoOn)?;
    }
    describe(&listed, begun.path(), moment, true)?;
    checkpoints.finish(begun, name)?;
    if !leave_running {
        client.ask(&Request::End { checkpoint: name.to_string() })?;
        if !listed.record.monitor.ends_within(GONE_LIMIT)? {
            bail!("the monitor of the container does not end");
        }
    }
    drop(spinner);
    output::lines([name.to_string()])?;
    Ok(0)
}

/// Saves a container in a directory. It stands still until the monitor is told more, or the connection goes.
pub(super) fn save(listed: &OfRun, directory: &Path) -> Result<(Client, Moment)> {
    let client = Client::connect(&listed.located.place()?)?;
    match client.ask(&Request::Save { directory: directory.to_owned() })? {
        (Answer::Saved(moment), _) => Ok((client, moment)),
        _ => bail!("the container's monitor has not said what it saved"),
    }
}

pub(super) fn describe(listed: &OfRun, directory: &Path, moment: Moment, is_sealed: bool) -> Result<()> {
    let spec = Config::read(listed.located.place()?.path())?.spec;
    let of = Of { container: listed.record.id.clone(), kept: listed.kept.clone(), spec, moment };
    Checkpoint::write(directory, of, is_sealed)
}
