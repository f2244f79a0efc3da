//! Private copies: what a container writes to a mount with `:cow` is kept beside the source, which stays as it is, until somebody has
//! looked at it, and applies or discards it. What is kept is an upper directory of overlayfs, written by a stranger: nothing here follows
//! a link in it.

mod apply;
mod args;
mod change;
mod file;
mod note;
mod patch;
mod record;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub(crate) use args::Verb;
pub(crate) use record::{Copies, Held};
pub(crate) use show::{list, show};

use crate::{args::Global, output, report::Report};
use args::{Apply, Discard};
use change::{Change, Kind};
use record::{Copy, Private};

/// Carries a verb out; answers with the exit code.
pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    let copies = Copies::of(global)?;
    match verb {
        Verb::Apply(apply) => self::apply(apply, &copies.find(&apply.name, global)?, report),
        Verb::Discard(discard) => self::discard(discard, &copies.find(&discard.name, global)?),
    }
}

fn apply(apply: &Apply, copy: &Copy, report: &Report) -> Result<u8> {
    let held = copy.hold()?;
    let chosen = chosen(copy, &apply.paths)?;
    let refused =
        |change: &&Change| change.conflict.as_ref().is_some_and(|why| !(apply.force && why.may_be_forced()));
    let mut conflicts = chosen.iter().flat_map(|(private, changes)| {
        changes.iter().filter(refused).map(|change| (private.shown(&change.way), change))
    });
    if let Some((path, Change { conflict: Some(conflict), .. })) = conflicts.next() {
        let more = match conflicts.count() {
            0 => String::new(),
            count => format!(", and {count} more"),
        };
        bail!("nothing is applied: {path} {conflict}{more}: see securectr diff {}", apply.name);
    }
    for (private, changes) in &chosen {
        apply::apply(private, changes, |words| report.warning(words))?;
        output::lines(changes.iter().map(|change| change.line(private)))?;
    }
    if apply.paths.is_empty() {
        held.remove()?;
    } else {
        held.settle()?;
    }
    Ok(0)
}

fn discard(discard: &Discard, copy: &Copy) -> Result<u8> {
    let held = copy.hold()?;
    if discard.paths.is_empty() {
        held.remove()?;
        return Ok(0);
    }
    chosen(copy, &discard.paths)?;
    for path in &discard.paths {
        for private in &copy.mounts {
            if let Ok(way) = path.strip_prefix(&private.path) {
                private.forget(way)?;
            }
        }
    }
    // Of a directory that was made anew, nothing that was in it before comes back by itself.
    for private in &copy.mounts {
        if let Some(left) = private.changes()?.iter().find(|left| private.is_meant(&left.way, &discard.paths))
        {
            bail!("{} is changed with its directory: discard that", private.shown(&left.way));
        }
    }
    held.settle()?;
    Ok(0)
}

type Chosen<'a> = Vec<(&'a Private, Vec<Change>)>;

/// All changes, or those at, below and on the way to the paths, which are the container's.
fn chosen<'a>(copy: &'a Copy, paths: &[PathBuf]) -> Result<Chosen<'a>> {
    let mut all = Vec::new();
    for private in &copy.mounts {
        let mut changes = private.changes()?;
        changes.retain(|change| paths.is_empty() || private.is_needed(change, paths));
        all.push((private, changes));
    }
    let is_there = |path: &&PathBuf| {
        all.iter().any(|(private, changes): &(&Private, Vec<Change>)| {
            changes.iter().any(|change| private.is_meant(&change.way, std::slice::from_ref(*path)))
        })
    };
    match paths.iter().find(|path| !is_there(path)) {
        Some(path) => bail!("the container has changed nothing at {}", path.display()),
        None => Ok(all),
    }
}

impl Private {
    fn changes(&self) -> Result<Vec<Change>> {
        change::changes(self)
            .with_context(|| format!("look at what was changed of {}", self.source.display()))
    }

    fn is_meant(&self, way: &Path, paths: &[PathBuf]) -> bool {
        paths.iter().any(|path| self.path.join(way).starts_with(path))
    }

    /// A directory that is new is needed by what is in it.
    fn is_needed(&self, change: &Change, paths: &[PathBuf]) -> bool {
        let is_above = |path: &PathBuf| path.starts_with(self.path.join(&change.way));
        self.is_meant(&change.way, paths)
            || change.is_directory() && change.kind != Kind::Deleted && paths.iter().any(is_above)
    }
}
