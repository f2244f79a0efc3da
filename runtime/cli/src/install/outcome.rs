//! What was done, or would be, told.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::{
    args::Engine,
    change::{Change, Content},
    diff::unified,
    plan::Plan,
};
use crate::{args::LogFormat, check::Finding};

#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    dry_run: bool,
    engines: BTreeSet<Engine>,
    changes: Vec<Told>,
    /// Units of systemd that read their configuration again.
    pub refreshed: Vec<String>,
    pub notes: Vec<String>,
    pub checks: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Told {
    path: PathBuf,
    what: What,
    /// Unified; none for a link.
    diff: Option<String>,
    /// Of a link.
    target: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Write,
    Link,
    Remove,
}

impl Told {
    fn of(change: &Change) -> Self {
        let text = |content: &Option<Content>| {
            content.as_ref().and_then(|content| content.text().map(ToOwned::to_owned))
        };
        let (what, target) = match &change.after {
            None => (What::Remove, None),
            Some(Content::File(_)) => (What::Write, None),
            Some(Content::Link(target)) => (What::Link, Some(target.clone())),
        };
        let diff = unified(&change.path, text(&change.before).as_deref(), text(&change.after).as_deref());
        Self { path: change.path.clone(), what, diff: (!diff.is_empty()).then_some(diff), target }
    }

    fn line(&self, dry_run: bool) -> String {
        let [would, did] = match self.what {
            What::Write => ["would write", "wrote"],
            What::Link => ["would link", "linked"],
            What::Remove => ["would remove", "removed"],
        };
        let target = self.target.as_ref().map(|target| format!(" to {}", target.display()));
        let verb = if dry_run { would } else { did };
        format!("{verb} {}{}", self.path.display(), target.unwrap_or_default())
    }
}

impl Outcome {
    pub(super) fn of(plan: &Plan, engines: &BTreeSet<Engine>, dry_run: bool) -> Self {
        Self {
            dry_run,
            engines: engines.clone(),
            changes: plan.changes.iter().map(Told::of).collect(),
            refreshed: Vec::new(),
            notes: plan.notes.clone(),
            checks: Vec::new(),
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.checks.iter().all(|finding| finding.ok)
    }

    pub(super) fn print(&self, format: LogFormat) -> Result<()> {
        if matches!(format, LogFormat::Json) {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        let engines: Vec<_> = self.engines.iter().map(ToString::to_string).collect();
        if !engines.is_empty() {
            println!("for {}:", engines.join(", "));
        }
        if self.changes.is_empty() {
            println!("nothing to change");
        }
        for change in &self.changes {
            println!("{}", change.line(self.dry_run));
            if let Some(diff) = change.diff.as_ref().filter(|_| self.dry_run) {
                print!("{diff}");
            }
        }
        for unit in &self.refreshed {
            println!("{unit} has read its configuration again");
        }
        for finding in &self.checks {
            finding.print();
        }
        for note in &self.notes {
            println!("note {note}");
        }
        Ok(())
    }
}
