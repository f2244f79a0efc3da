//! The blobs of the store: what manifests, configurations and layers are, each under its digest, written once and never changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::entry::create_private_directory;
use crate::digest::{Digest, Hasher};
use crate::limits::Exceeded;
use crate::section::Section;

/// What is being written is called so, and something behind it.
const UNFINISHED: &str = "unfinished-";

const CHUNK_LEN: usize = 256 * 1024;

/// How content gets into the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Taking {
    Copy,
    /// The file itself: it is on the same disk, a blob as a whole, nobody else's, and synced.
    Move,
}

/// Whoever holds one has locked what is to be kept against [`Content::sweep`].
#[derive(Debug)]
pub(super) struct Content(PathBuf);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("receive a blob")]
    Receive(#[source] io::Error),
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

    /// Takes what a section has, unless it is there. Without an expected digest, it gets the one that it has.
    pub(super) fn take(
        &self,
        section: &Section,
        expected: Option<&Digest>,
        how: Taking,
        taken: &mut dyn FnMut(u64),
    ) -> Result<Digest, Error> {
        if let Some(digest) = expected.filter(|digest| self.has(digest, section.bytes)) {
            taken(section.bytes);
            return Ok(digest.clone());
        }
        let mut file = if how == Taking::Copy { Some(self.begin()?) } else { None };
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
            if let Some(file) = &mut file {
                file.write_all(bytes).map_err(Error::Write)?;
            }
            taken(bytes.len() as u64);
        }
        let actual = hasher.finish();
        match (expected, file) {
            (Some(name), _) if *name != actual => Err(Error::Digest { name: name.clone(), actual }),
            (_, Some(file)) => self.finish(file, &actual).map(|()| actual),
            (_, None) => self.adopt(section.source.path(), &actual).map(|()| actual),
        }
    }

    /// Takes what comes, up to so many bytes, and tells its digest and size. An error on its way leaves nothing.
    pub(super) fn receive(&self, mut from: impl Read, limit: u64) -> Result<(Digest, u64), Error> {
        let mut file = self.begin()?;
        let (mut hasher, mut total) = (Hasher::new(), 0);
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let bytes = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => chunk.get(..len).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Receive(error)),
            };
            total += bytes.len() as u64;
            if total > limit {
                let exceeded = Exceeded { of: "bytes in a layer", limit };
                return Err(Error::Receive(io::Error::other(exceeded)));
            }
            hasher.update(bytes);
            file.write_all(bytes).map_err(Error::Write)?;
        }
        let digest = hasher.finish();
        self.finish(file, &digest)?;
        Ok((digest, total))
    }

    /// By another name, not by one more: whoever reads a blob takes any change of it for somebody's writing, and that of its links
    /// is one.
    fn adopt(&self, path: &Path, digest: &Digest) -> Result<(), Error> {
        let adopted = || {
            fs::set_permissions(path, fs::Permissions::from_mode(0o400))?;
            match renameat_with(CWD, path, CWD, self.blob(digest), RenameFlags::NOREPLACE) {
                Err(errno) if errno != Errno::EXIST => Err(errno.into()),
                _ => File::open(&self.0)?.sync_all(),
            }
        };
        adopted().map_err(Error::Write)
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
        match file.persist_noclobber(self.blob(digest)) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Write(error.error));
            }
            _ => {}
        }
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
