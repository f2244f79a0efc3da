//! A container by what somebody calls it.

use anyhow::{Context, Result, bail};
use securectr_sandbox::{SandboxId, StateRoot};

use super::{
    kept::Kept,
    record::{Place, Record, Records},
};
use crate::{args::Global, paths};

/// The shortest beginning of an id that is taken for one.
pub(crate) const LEAST_ID_LEN: usize = 3;

/// Where a container is, and how it is called there.
#[derive(Clone)]
pub(crate) struct Located {
    pub records: Records,
    pub id: SandboxId,
}

impl Located {
    pub(crate) fn place(&self) -> Result<Place> {
        self.records.find(&self.id)
    }
}

/// A container of `run`.
pub(crate) struct OfRun {
    pub located: Located,
    pub record: Record,
    pub kept: Kept,
}

/// All of `run`: those that stay, from the store, and those in somebody's foreground.
pub(crate) fn of_run(global: &Global) -> Result<Vec<OfRun>> {
    // Who has no store, or no place for machines, as an engine without a home, has no such containers.
    let kept = paths::store(global).ok().map(|store| Records::kept(&store));
    let in_foreground = StateRoot::open().ok().map(|state| Records::in_foreground(&state));
    let mut all = Vec::new();
    for records in kept.into_iter().chain(in_foreground) {
        for mut record in records.all()? {
            let (Ok(id), Some(kept)) = (record.id.parse(), record.kept.take()) else { continue };
            all.push(OfRun { located: Located { records: records.clone(), id }, record, kept });
        }
    }
    Ok(all)
}

/// One of `run`, by its name or the beginning of its id, or else one of the OCI command line. Who says where records lie means
/// the latter.
pub(crate) fn locate(global: &Global, name: &str) -> Result<Located> {
    if global.oci.root.is_none() {
        if let Some(listed) = find(&of_run(global)?, name)? {
            return Ok(listed.located.clone());
        }
    }
    let id = name.parse().with_context(|| format!("container does not exist: {name}"))?;
    Ok(Located { records: Records::open(global.oci.root.as_deref())?, id })
}

/// One of `run`.
pub(crate) fn locate_of_run(global: &Global, name: &str) -> Result<OfRun> {
    let mut all = of_run(global)?;
    let found = find(&all, name)?.map(|listed| listed.located.id.clone());
    let index = all.iter().position(|listed| Some(&listed.located.id) == found.as_ref());
    index.map(|index| all.swap_remove(index)).with_context(|| format!("No such container: {name}"))
}

pub(crate) fn find<'a>(all: &'a [OfRun], name: &str) -> Result<Option<&'a OfRun>> {
    if let Some(listed) = all.iter().find(|listed| listed.kept.name == name) {
        return Ok(Some(listed));
    }
    let begins = |listed: &&OfRun| name.len() >= LEAST_ID_LEN && listed.record.id.starts_with(name);
    let mut found = all.iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => bail!("several containers have an id that begins with {name}"),
        (one, _) => Ok(one),
    }
}

/// Fails when a container has this name.
pub(crate) fn is_free(global: &Global, name: &str) -> Result<()> {
    match find(&of_run(global)?, name)? {
        Some(other) => bail!("the name {name} is in use by the container {}", other.record.id),
        None => Ok(()),
    }
}
