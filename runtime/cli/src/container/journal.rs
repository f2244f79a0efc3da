//! What has happened to containers of `run`, for `events`: a line of JSON each, in the store. Nobody else is there who would remember.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use securectr_sandbox::Denial;
use serde::{Deserialize, Serialize};

use super::record::Record;

/// A file that is longer becomes the older one of two, in bytes.
const LONGEST: u64 = 1 << 20;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// RFC 3339.
    pub time: String,
    /// In Docker's words.
    pub action: String,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Start,
    Pause,
    Unpause,
    Kill {
        signal: u32,
    },
    Oom,
    Die {
        code: u8,
    },
    Rename {
        old_name: String,
    },
    Update,
    /// Its guest was not let through with something.
    NetworkDenied(Denial),
    Destroy,
}

impl Action {
    /// Its name, and what is told of it.
    fn told(&self) -> (&'static str, Option<(&'static str, String)>) {
        match self {
            Self::Create => ("create", None),
            Self::Start => ("start", None),
            Self::Pause => ("pause", None),
            Self::Unpause => ("unpause", None),
            Self::Kill { signal } => ("kill", Some(("signal", signal.to_string()))),
            Self::Oom => ("oom", None),
            Self::Die { code } => ("die", Some(("exitCode", code.to_string()))),
            Self::Rename { old_name } => ("rename", Some(("oldName", old_name.clone()))),
            Self::Update => ("update", None),
            Self::NetworkDenied(denial) => ("network-denied", Some(("denied", denial.to_string()))),
            Self::Destroy => ("destroy", None),
        }
    }
}

/// The file and its predecessor.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    file: PathBuf,
    older: PathBuf,
}

impl Journal {
    pub(crate) fn of(store: &Path) -> Self {
        Self { file: store.join("events.jsonl"), older: store.join("events.old.jsonl") }
    }

    /// A container goes on when nothing can be noted of it.
    pub(crate) fn note(&self, record: &Record, action: &Action) {
        let _ = self.append(&event(record, action));
    }

    fn append(&self, event: &Event) -> io::Result<()> {
        let mut file = File::options().append(true).create(true).open(&self.file)?;
        if file.metadata()?.len() > LONGEST {
            // Of two who see it at once, one finds it renamed, and a short file lost is no harm.
            fs::rename(&self.file, &self.older)?;
            file = File::options().append(true).create(true).open(&self.file)?;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // One write: lines of several writers do not mix.
        file.write_all(&line)
    }

    /// The older file first.
    pub(crate) fn files(&self) -> [&Path; 2] {
        [&self.older, &self.file]
    }
}

fn event(record: &Record, action: &Action) -> Event {
    let (action, told) = action.told();
    let mut attributes = BTreeMap::new();
    if let Some(kept) = &record.kept {
        attributes.extend(kept.labels.iter().cloned());
        attributes.insert("image".to_owned(), kept.image.clone());
        attributes.insert("name".to_owned(), kept.name.clone());
    }
    if let (Some(kept), "start") = (&record.kept, action) {
        attributes.extend(kept.timings.iter().map(|(step, us)| (step.clone(), us.to_string())));
    }
    attributes.extend(told.map(|(key, value)| (key.to_owned(), value)));
    Event {
        time: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        action: action.to_owned(),
        id: record.id.clone(),
        attributes,
    }
}
