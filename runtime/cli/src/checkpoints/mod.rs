//! Containers that are saved with their machines, and others that go on from there: checkpoints in the store, and forks, which are
//! checkpoints that nobody keeps.

mod args;
mod document;
mod make;
mod restore;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(crate) use args::Verb;
use args::{List, OfCheckpoints};
pub(crate) use document::Checkpoint;
use document::{Checkpoints, bytes};
use restore::{Called, Wanted};

use crate::{
    args::{Global, Run},
    kept, output,
    report::Report,
    tree,
};

/// `run --from`.
pub(crate) fn run(run: &Run, global: &Global) -> Result<u8> {
    let Some(name) = &run.from else { bail!("there is no checkpoint to go on from") };
    let directory = Checkpoints::of(global)?.find(name)?;
    let called = run.name.clone().map_or(Called::AsBefore, Called::So);
    if !run.detach {
        let id = restore::go_on(&directory, Wanted { called, remove: true, is_paused: true }, global)?;
        return kept::go_on(&id, global);
    }
    let id = restore::go_on(&directory, Wanted { called, remove: run.rm, is_paused: false }, global)?;
    kept::tell_id(run, &id)?;
    Ok(0)
}

pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    let group = match verb {
        Verb::Checkpoint(group) => group,
        Verb::Restore(restore) => return restore::restore(restore, global),
        Verb::Fork(fork) => return restore::fork(fork, global),
    };
    let checkpoints = Checkpoints::of(global)?;
    match &group.verb {
        OfCheckpoints::Create(create) => make::create(create, global),
        OfCheckpoints::Ls(list) => self::list(list, &checkpoints),
        OfCheckpoints::Rm(remove) => Ok(report.each(&remove.checkpoints, |name| {
            let directory = checkpoints.find(name)?;
            tree::remove(&directory).with_context(|| format!("remove the checkpoint {name}"))?;
            output::lines([name.to_string()])
        })),
        OfCheckpoints::Verify(verify) => Ok(report.each(&verify.checkpoints, |name| {
            let directory = checkpoints.find(name)?;
            Checkpoint::read(&directory)?.verify(&directory)?;
            output::lines([format!("{name}: good")])
        })),
    }
}

fn list(list: &List, checkpoints: &Checkpoints) -> Result<u8> {
    let all = checkpoints.all()?;
    if list.quiet {
        output::lines(all.iter().map(|(name, _)| name.to_string()))?;
        return Ok(0);
    }
    let rows: Vec<Value> = all
        .iter()
        .filter_map(|(name, directory)| {
            let checkpoint = Checkpoint::read(directory).ok()?;
            let created = humantime::parse_rfc3339(&checkpoint.created).ok()?;
            let bytes = bytes(directory);
            Some(json!({
                "Name": name,
                "Container": checkpoint.kept.name,
                "ContainerID": checkpoint.container,
                "Image": checkpoint.kept.image,
                "CreatedAt": checkpoint.created,
                "CreatedSince": output::ago(created),
                "Bytes": bytes,
                "Size": output::size(bytes),
            }))
        })
        .collect();
    let columns = [
        ("CHECKPOINT", "Name"),
        ("CONTAINER", "Container"),
        ("IMAGE", "Image"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ];
    output::rows(&list.format, &columns, &rows)?;
    Ok(0)
}
