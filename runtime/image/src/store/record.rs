//! Which image a reference led to, and the state of the file that decided it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::Reference;
use crate::section::Stamp;
use crate::source::deciding_file;

/// Within this time a file can change again without its ctime telling (the kernel's clock for it ticks, some file systems' in
/// whole seconds), so that such a young state is not kept.
const SETTLED_NS: i128 = 2_000_000_000;

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    state: Stamp,
    image: Digest,
}

#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    deciding_file: PathBuf,
}

impl Record {
    pub(super) fn of(reference: &Reference, sources: &Path) -> Self {
        let deciding_file = deciding_file(reference);
        let path = std::path::absolute(reference.path()).unwrap_or_else(|_| reference.path().to_owned());
        let key = format!("{:?} {path:?} {:?}", reference.transport(), reference.tag());
        Self { path: sources.join(Digest::of(key.as_bytes()).hex()), deciding_file }
    }

    /// The image, if the deciding file is as it was.
    pub(super) fn image(&self) -> Option<Digest> {
        let content: Content = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        (self.state_now()? == content.state).then_some(content.image)
    }

    pub(super) fn state_now(&self) -> Option<Stamp> {
        fs::metadata(&self.deciding_file).ok().map(|metadata| Stamp::of(&metadata))
    }

    /// Notes that the deciding file, in that state, leads to `image`.
    pub(super) fn keep(&self, image: &Digest, state: Stamp) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        if i128::try_from(now).unwrap_or(0) - state.changed_ns() < SETTLED_NS {
            return Ok(());
        }
        // Not written at once, nor needed to be: half a record is no JSON, and counts as none.
        fs::write(&self.path, serde_json::to_vec(&Content { state, image: image.clone() })?)
    }
}
