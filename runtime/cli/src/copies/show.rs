//! `diff` of private copies.

use std::io::{self, IsTerminal};

use anyhow::Result;
use serde_json::json;

use super::{
    patch,
    record::{Copies, Copy},
};
use crate::{
    args::Global,
    output::{self, Format},
};

/// What one container has changed. False when it has no private copies.
pub(crate) fn show(name: &str, format: &Format, as_patch: bool, global: &Global) -> Result<bool> {
    let Ok(Copy { mounts, .. }) = Copies::of(global)?.find(name, global) else { return Ok(false) };
    for private in &mounts {
        let changes = private.changes()?;
        if as_patch {
            let text = patch::patch(private, &changes, io::stdout().is_terminal())?;
            output::text(&text)?;
        } else if let Format::Table = format {
            output::lines(changes.iter().map(|change| change.line(private)))?;
        } else {
            let rows: Vec<_> = changes.iter().map(|change| change.document(private)).collect();
            output::rows(format, &[], &rows)?;
        }
    }
    Ok(true)
}

/// About what is still to be decided.
pub(crate) fn list(format: &Format, global: &Global) -> Result<()> {
    let mut rows = Vec::new();
    for copy in Copies::of(global)?.all()? {
        for private in &copy.mounts {
            rows.push(json!({
                "ID": copy.id,
                "Names": copy.name,
                "Path": private.path,
                "Source": private.source,
                "Changes": private.changes()?.len(),
            }));
        }
    }
    let columns = [("CONTAINER", "Names"), ("PATH", "Path"), ("SOURCE", "Source"), ("CHANGES", "Changes")];
    output::rows(format, &columns, &rows)
}
