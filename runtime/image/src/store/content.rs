//! The blobs of the store: what manifests, configurations and layers are, each under its digest, written once and never changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::entry::create_private_directory;
use crate::digest::{Digest, Hasher};
use crate::section::Section;

/// What is being written is called so, and something behind it.
const UNFINISHED: &str = "unfinished-";

const CHUNK_LEN: usize = 256 * 1024;

/// Whoever holds one has locked what is to be kept against [`Content::sweep`].
#[derive(Debug)]
pub(super) struct Content(PathBuf);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("write a blob")]
    Write(#[source] io::Error),
    #[error("the content of {name} has another digest: {actual}")]
    Digest { name: Digest, actual: Digest },
}

impl Content {
    /// In a layout's directory.
    pub(super) fn of(layout: &Path) -> Self {
        Self(layout.join("blobs/sha256"))
    }

    pub(super) fn create(&self) -> io::Result<()> {
        create_private_directory(&self.0)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.join(digest.hex())
    }

    pub(super) fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        fs::read(self.blob(digest))
    }

    pub(super) fn put(&self, json: &[u8]) -> Result<Digest, Error> {
        let mut file = self.begin()?;
        file.write_all(json).map_err(Error::Write)?;
        let digest = Digest::of(json);
        self.finish(file, &digest)?;
        Ok(digest)
    }

    /// Copies what a section has, unless it is there. Without an expected digest, it gets the one that it has.
    pub(super) fn copy(
        &self,
        section: &Section,
        expected: Option<&Digest>,
        copied: &mut dyn FnMut(u64),
    ) -> Result<Digest, Error> {
        if let Some(digest) = expected.filter(|digest| self.has(digest, section.bytes)) {
            copied(section.bytes);
            return Ok(digest.clone());
        }
        let mut file = self.begin()?;
        let mut hasher = Hasher::new();
        let mut reader = section.reader();
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let read = reader.read(&mut chunk);
            let len = read.map_err(|error| Error::Read(section.source.path().to_owned(), error))?;
            let bytes = chunk.get(..len).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            file.write_all(bytes).map_err(Error::Write)?;
            copied(bytes.len() as u64);
        }
        let actual = hasher.finish();
        match expected {
            Some(name) if *name != actual => Err(Error::Digest { name: name.clone(), actual }),
            _ => self.finish(file, &actual).map(|()| actual),
        }
    }

    /// One that was cut is none.
    fn has(&self, digest: &Digest, bytes: u64) -> bool {
        fs::metadata(self.blob(digest)).is_ok_and(|metadata| metadata.len() == bytes)
    }

    fn begin(&self) -> Result<NamedTempFile, Error> {
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.0).map_err(Error::Write)
    }

    /// With its final name it is whole, also after a power cut.
    fn finish(&self, file: NamedTempFile, digest: &Digest) -> Result<(), Error> {
        file.as_file().set_permissions(fs::Permissions::from_mode(0o400)).map_err(Error::Write)?;
        file.as_file().sync_all().map_err(Error::Write)?;
        file.persist(self.blob(digest)).map_err(|error| Error::Write(error.error))?;
        File::open(&self.0).and_then(|directory| directory.sync_all()).map_err(Error::Write)
    }

    /// Removes all but these, and what killed processes left. Returns how many bytes of the disk that was.
    pub(super) fn sweep(&self, kept: &BTreeSet<Digest>) -> io::Result<u64> {
        let mut freed_bytes = 0;
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let is_kept = entry.file_name().to_str().is_some_and(|name| {
                format!("sha256:{name}").parse::<Digest>().is_ok_and(|digest| kept.contains(&digest))
            });
            if !is_kept {
                freed_bytes += entry.metadata()?.blocks() * 512;
                fs::remove_file(entry.path())?;
            }
        }
        Ok(freed_bytes)
    }
}
