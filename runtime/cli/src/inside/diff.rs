//! `diff`: what a container has changed of its image's files.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use securectr_sandbox::Job;
use serde::Deserialize;
use serde_json::json;

use super::{
    args::Diff,
    work::{Work, plain},
};
use crate::{args::Global, container::locate, copies, output};

/// As the guest says it: the kind is A, C or D, the path one without a slash before it.
#[derive(Debug, Deserialize)]
struct Told {
    kind: String,
    path: String,
}

/// Nothing of it is kept: a container can change as much as its disk holds.
pub(super) fn diff(diff: &Diff, global: &Global) -> Result<u8> {
    let Some(name) = &diff.name else {
        copies::list(&diff.format, global)?;
        return Ok(0);
    };
    let is_there = locate(global, name).and_then(|located| located.place()).is_ok();
    if is_there && !diff.cow && !diff.patch {
        in_root(diff, name, global)?;
    }
    // What is copied outlives its container.
    let has_copies = copies::show(name, &diff.format, diff.patch, global)?;
    if !is_there && !has_copies {
        bail!("No such container: {name}");
    }
    Ok(0)
}

fn in_root(diff: &Diff, name: &str, global: &Global) -> Result<()> {
    let work = Work::begin(&locate(global, name)?, Job::Changes, false, global)?;
    work.lines(|line| {
        let told: Told = serde_json::from_slice(line).context("understand the container's agent")?;
        let (kind, path) = (plain(told.kind.as_bytes()), format!("/{}", plain(told.path.as_bytes())));
        match &diff.format {
            output::Format::Table => {
                writeln!(io::stdout(), "{kind} {path}").context("write to standard output")
            }
            format => output::rows(format, &[], &[json!({"Kind": kind, "Path": path})]),
        }
    })?;
    work.end()
}
