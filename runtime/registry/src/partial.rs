//! A blob on its way: what has come of it is in a file, which gets the blob's name when all is there and as it should be.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::PathBuf,
};

use thiserror::Error;

use crate::{
    blobs::{Hasher, Part},
    layout::{Layout, LayoutError, at},
};

pub(crate) struct Partial {
    part: Part,
    path: PathBuf,
    file: File,
    done_bytes: u64,
    hasher: Hasher,
}

/// What a host has sent is not the blob; the file is removed.
#[derive(Debug, Error)]
pub(crate) enum WrongBlob {
    #[error("it sends more of {0} than the {1} bytes that the manifest states")]
    TooLong(String, u64),
    #[error("what it sends for {0} has another digest")]
    Digest(String),
}

#[derive(Debug, Error)]
pub(crate) enum PartialError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Wrong(#[from] WrongBlob),
}

impl Partial {
    /// What an earlier transfer has left is gone on with. Reads all of it.
    pub(crate) fn open(layout: &Layout, part: &Part) -> Result<Self, LayoutError> {
        let path = layout.partial(part.hex());
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at("open", &path))?;
        let mut partial = Self { part: part.clone(), path, file, done_bytes: 0, hasher: Hasher::default() };
        partial.take_up()?;
        Ok(partial)
    }

    fn take_up(&mut self) -> Result<(), LayoutError> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    self.hasher.update(buffer.get(..length).unwrap_or_default());
                    self.done_bytes += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("read", &self.path)(error)),
            }
        }
        if self.done_bytes > self.part.bytes { self.restart() } else { Ok(()) }
    }

    /// The host cannot leave out what is there already.
    pub(crate) fn restart(&mut self) -> Result<(), LayoutError> {
        self.done_bytes = 0;
        self.hasher = Hasher::default();
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(at("empty", &self.path))
    }

    pub(crate) fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    pub(crate) fn is_all_there(&self) -> bool {
        self.done_bytes == self.part.bytes
    }

    pub(crate) fn missing_bytes(&self) -> u64 {
        self.part.bytes - self.done_bytes
    }

    /// More comes, or is said to come, than the blob has.
    pub(crate) fn refuse_longer(&self) -> PartialError {
        match self.remove() {
            Ok(()) => WrongBlob::TooLong(self.part.digest.to_string(), self.part.bytes).into(),
            Err(error) => error.into(),
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), PartialError> {
        let done = self.done_bytes.saturating_add(bytes.len() as u64);
        if done > self.part.bytes {
            return Err(self.refuse_longer());
        }
        self.file.write_all(bytes).map_err(at("write", &self.path))?;
        self.hasher.update(bytes);
        self.done_bytes = done;
        Ok(())
    }

    /// The blob gets its name, once it is on the disk. All is there.
    pub(crate) fn finish(self, layout: &Layout) -> Result<(), PartialError> {
        if !self.hasher.has_led_to(&self.part.digest) {
            self.remove()?;
            return Err(WrongBlob::Digest(self.part.digest.to_string()).into());
        }
        self.file.sync_all().map_err(at("write", &self.path))?;
        let blob = layout.blob(self.part.hex());
        fs::rename(&self.path, &blob).map_err(at("name", &blob))?;
        Ok(())
    }

    fn remove(&self) -> Result<(), LayoutError> {
        fs::remove_file(&self.path).map_err(at("remove", &self.path))
    }
}
