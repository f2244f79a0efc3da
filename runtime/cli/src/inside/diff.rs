//! `diff`: what a container has changed of its image's files.

use std::io::{self, Write};

use anyhow::{Context, Result};
use securectr_sandbox::Job;
use serde::Deserialize;
use serde_json::json;

use super::{
    args::Diff,
    work::{Work, plain},
};
use crate::{args::Global, container::locate, output};

/// As the guest says it: the kind is A, C or D, the path one without a slash before it.
#[derive(Debug, Deserialize)]
struct Told {
    kind: String,
    path: String,
}

/// Nothing of it is kept: a container can change as much as its disk holds.
pub(super) fn diff(diff: &Diff, global: &Global) -> Result<u8> {
    let work = Work::begin(&locate(global, &diff.name)?, Job::Changes, false, global)?;
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
    work.end()?;
    Ok(0)
}
