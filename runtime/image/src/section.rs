//! Byte ranges of files that hold an image: a blob in a layout's directory, a member of an archive.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// `O_NONBLOCK` as `open` takes it.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

/// What tells one state of a file from another without reading it. Every write changes ctime, and nobody can set that back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Nanoseconds since 1970 of the last change of any kind.
    pub(crate) fn changed_ns(&self) -> i128 {
        self.ctime_ns
    }
}

/// An open file that must stay as it was when it was opened.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    path: PathBuf,
    stamp: Stamp,
}

impl Source {
    /// Opens a regular file; anything else (a FIFO would block) is refused.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(Self { file, path: path.to_owned(), stamp: Stamp::of(&metadata) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody wrote to the file since it was opened: what was verified is what was read later.
    pub(crate) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file.metadata()?) == self.stamp)
    }
}

/// `bytes` bytes of a source from `offset` on.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) source: Arc<Source>,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Section {
    pub(crate) fn whole(source: Source) -> Self {
        let bytes = source.stamp.size;
        Self { source: Arc::new(source), offset: 0, bytes }
    }

    pub(crate) fn reader(&self) -> SectionReader<'_> {
        SectionReader { section: self, at: 0 }
    }

    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.source.file.read_exact_at(buffer, self.offset + offset)
    }
}

/// Reads a section without moving the file's own offset, which other readers share.
#[derive(Debug)]
pub(crate) struct SectionReader<'a> {
    section: &'a Section,
    at: u64,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.section.bytes.saturating_sub(self.at);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let length = self.section.source.file.read_at(buffer, self.section.offset + self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for SectionReader<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let target = match position {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.section.bytes.checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
