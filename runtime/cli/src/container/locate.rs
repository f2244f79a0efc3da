//! A container by what somebody calls it.

use anyhow::{Context, Result, bail};
use securectr_sandbox::SandboxId;

use super::record::{Place, Record, Records};
use crate::{args::Global, paths};

/// The shortest beginning of an id that is taken for one.
const LEAST_ID_LEN: usize = 3;

/// Where a container is, and how it is called there.
pub(crate) struct Located {
    pub records: Records,
    pub id: SandboxId,
}

impl Located {
    pub(crate) fn place(&self) -> Result<Place> {
        self.records.find(&self.id)
    }
}

/// One of `run -d`, by its name or the beginning of its id, or else one of the OCI command line. Who says where records lie means
/// the latter.
pub(crate) fn locate(global: &Global, name: &str) -> Result<Located> {
    // Who has no store, as an engine without a home, has no such container.
    let kept = paths::store(global).ok().filter(|_| global.oci.root.is_none());
    if let Some(records) = kept.map(|store| Records::kept(&store)) {
        if let Some(record) = find(&records.all()?, name)? {
            return Ok(Located { id: record.id.parse()?, records });
        }
    }
    let id = name.parse().with_context(|| format!("container does not exist: {name}"))?;
    Ok(Located { records: Records::open(global.oci.root.as_deref())?, id })
}

pub(crate) fn find<'a>(all: &'a [Record], name: &str) -> Result<Option<&'a Record>> {
    let is_named = |record: &&Record| record.kept.as_ref().is_some_and(|kept| kept.name == name);
    if let Some(record) = all.iter().find(is_named) {
        return Ok(Some(record));
    }
    let mut found = all.iter().filter(|record| name.len() >= LEAST_ID_LEN && record.id.starts_with(name));
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => bail!("several containers have an id that begins with {name}"),
        (one, _) => Ok(one),
    }
}
