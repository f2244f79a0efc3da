//! What is written about a template, and whether what lies there is that.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::inputs::Inputs;
use crate::sparse::data_ranges;

/// Changes whenever the meaning of a field does.
const FORMAT: u32 = 2;

pub(super) const NAME: &str = "manifest.json";
pub(super) const MACHINE: &str = "machine";

/// No manifest is longer, in bytes.
const MOST_MANIFEST: u64 = 64 << 10;

/// In what it is read, in bytes: a page, since that is what file systems have holes of.
const PIECE_LEN: u64 = 4096;

/// Why a template is not used.
#[derive(Debug, Error)]
pub enum Refusal {
    #[error("there is none")]
    Missing,
    #[error("read {0}")]
    Read(&'static str, #[source] io::Error),
    #[error("understand {NAME}")]
    Json(#[source] serde_json::Error),
    #[error("it has format {0}, this program reads {FORMAT}")]
    Format(u32),
    #[error("it was made from something else")]
    Inputs,
    #[error("{0} is not a file of this user alone")]
    Foreign(&'static str),
    #[error("{0} was changed after it was made")]
    Changed(&'static str),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Of this program.
    version: String,
    pub(super) inputs: Inputs,
    machine: Sealed,
}

/// A file as it was when it was finished.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    bytes: u64,
    /// Of each page that is not all zeroes, its number and what is in it.
    sha256: String,
    changed: (i64, i64),
}

impl Manifest {
    /// Of a saved machine.
    pub(super) fn of(inputs: &Inputs, machine: &File) -> io::Result<Self> {
        Ok(Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            inputs: inputs.clone(),
            machine: Sealed::of(machine)?,
        })
    }

    pub(super) fn read(directory: &Path) -> Result<Self, Refusal> {
        let file = match open(directory, NAME) {
            Err(Refusal::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::Missing);
            }
            file => file?,
        };
        let mut json = Vec::new();
        file.take(MOST_MANIFEST).read_to_end(&mut json).map_err(|error| Refusal::Read(NAME, error))?;
        let manifest: Self = serde_json::from_slice(&json).map_err(Refusal::Json)?;
        if manifest.format == FORMAT { Ok(manifest) } else { Err(Refusal::Format(manifest.format)) }
    }

    /// Opens it for one that is made from the same.
    pub(super) fn open(&self, directory: &Path, inputs: &Inputs) -> Result<File, Refusal> {
        if self.inputs != *inputs {
            return Err(Refusal::Inputs);
        }
        self.machine.open(directory, MACHINE)
    }

    /// Compares all that is there with what was written.
    pub(super) fn verify(&self, directory: &Path) -> Result<(), Refusal> {
        self.machine.verify(directory, MACHINE)
    }
}

/// A file of ours that nobody else can write, and no link.
fn open(directory: &Path, name: &'static str) -> Result<File, Refusal> {
    let read = |error| Refusal::Read(name, error);
    let options = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).clone();
    let file = options.open(directory.join(name)).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let is_own = metadata.is_file() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    if is_own { Ok(file) } else { Err(Refusal::Foreign(name)) }
}

impl Sealed {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { bytes: metadata.len(), sha256: checksum(file)?, changed: changed(&metadata) })
    }

    fn open(&self, directory: &Path, name: &'static str) -> Result<File, Refusal> {
        let file = open(directory, name)?;
        let metadata = file.metadata().map_err(|error| Refusal::Read(name, error))?;
        let is_same = metadata.len() == self.bytes && changed(&metadata) == self.changed;
        if is_same { Ok(file) } else { Err(Refusal::Changed(name)) }
    }

    fn verify(&self, directory: &Path, name: &'static str) -> Result<(), Refusal> {
        let file = self.open(directory, name)?;
        let found = checksum(&file).map_err(|error| Refusal::Read(name, error))?;
        if found == self.sha256 { Ok(()) } else { Err(Refusal::Changed(name)) }
    }
}

fn changed(metadata: &fs::Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Of each piece that is not all zeroes, its place and what is in it: a hole is as good as zeroes.
fn checksum(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE_LEN as usize];
    for data in data_ranges(file) {
        let data = data?;
        for start in (data.start..data.end).step_by(PIECE_LEN as usize) {
            let Some(piece) = buffer.get_mut(..PIECE_LEN.min(data.end - start) as usize) else { break };
            file.read_exact_at(piece, start)?;
            if piece.iter().any(|&byte| byte != 0) {
                hash.update(start.to_le_bytes());
                hash.update(piece);
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
