//! Files that were finished once, and whether they are still what they were.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::sparse::data_ranges;

/// In what a file is read, in bytes: a page, since that is what file systems have holes of.
const PIECE_LEN: u64 = 4096;

/// Why a file is not taken, which is known by its name.
#[derive(Debug, Error)]
pub enum Broken {
    #[error("read {0}")]
    Read(&'static str, #[source] io::Error),
    #[error("{0} is not a file of this user alone")]
    Foreign(&'static str),
    #[error("{0} was changed after it was made")]
    Changed(&'static str),
}

/// A file as it was when it was finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    bytes: u64,
    /// Of each page that is not all zeroes, its number and what is in it.
    sha256: String,
    /// The kernel's time of change, which cannot be set back: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Sealed {
    /// Reads all of a file.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { bytes: metadata.len(), sha256: checksum(file)?, changed: changed(&metadata) })
    }

    /// Opens it, unless it was touched since.
    pub fn open(&self, directory: &Path, name: &'static str) -> Result<File, Broken> {
        let file = open_own(directory, name)?;
        if self.is_untouched(&file, name)? { Ok(file) } else { Err(Broken::Changed(name)) }
    }

    /// Opens it and compares all that is in it.
    pub fn verify(&self, directory: &Path, name: &'static str) -> Result<File, Broken> {
        let file = open_own(directory, name)?;
        let found = checksum(&file).map_err(|error| Broken::Read(name, error))?;
        let bytes = file.metadata().map_err(|error| Broken::Read(name, error))?.len();
        if (bytes, &found) == (self.bytes, &self.sha256) { Ok(file) } else { Err(Broken::Changed(name)) }
    }

    fn is_untouched(&self, file: &File, name: &'static str) -> Result<bool, Broken> {
        let metadata = file.metadata().map_err(|error| Broken::Read(name, error))?;
        Ok(metadata.len() == self.bytes && changed(&metadata) == self.changed)
    }
}

/// A file of ours that nobody else can write, and no link.
pub fn open_own(directory: &Path, name: &'static str) -> Result<File, Broken> {
    let read = |error| Broken::Read(name, error);
    let options = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).clone();
    let file = options.open(directory.join(name)).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let is_own = metadata.is_file() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    if is_own { Ok(file) } else { Err(Broken::Foreign(name)) }
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

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
