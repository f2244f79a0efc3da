//! A user's files as an archive for a container.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

use super::CopyError;

/// `st_blocks` counts by these, in bytes (stat(3type)).
const BLOCK_BYTES: u64 = 512;

/// Writes one file, or one directory with all below it.
pub struct Packer<W: Write> {
    builder: Builder<W>,
    keeps_owners: bool,
    /// The first name of a file with several.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    /// Without `keeps_owners`, everything is root's there.
    pub fn new(output: W, keeps_owners: bool) -> Self {
        Self { builder: Builder::new(output), keeps_owners, links: BTreeMap::new() }
    }

    /// Packs what is at `path` as `name`; `.` is a directory's content alone.
    ///
    /// # Errors
    /// [`CopyError::Source`] and [`CopyError::Send`]
    pub fn pack(mut self, path: &Path, name: &Path, follows: bool) -> Result<(), CopyError> {
        let metadata = if follows { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let metadata = metadata.map_err(|source| unread(path, source))?;
        self.add(path, name, &metadata)?;
        let finished = self.builder.finish().and_then(|()| self.builder.get_mut().flush());
        finished.map_err(|source| CopyError::Send { path: path.to_owned(), source })
    }

    fn add(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), CopyError> {
        self.add_one(path, name, metadata)?;
        if !metadata.is_dir() {
            return Ok(());
        }
        let listed = || -> io::Result<Vec<_>> {
            let mut names: Vec<_> =
                fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            Ok(names)
        };
        for below in listed().map_err(|source| unread(path, source))? {
            let path = path.join(&below);
            let metadata = fs::symlink_metadata(&path).map_err(|source| unread(&path, source))?;
            self.add(&path, &name.join(&below), &metadata)?;
        }
        Ok(())
    }

    fn add_one(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> Result<(), CopyError> {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        if !self.keeps_owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        let kind = metadata.file_type();
        let sent = if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder.append_data(&mut header, name, io::empty())
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|source| unread(path, source))?;
            header.set_entry_type(EntryType::Symlink);
            self.builder.append_link(&mut header, name, target)
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            self.builder.append_data(&mut header, name, io::empty())
        } else if let Some(first) = self.first_name(name, metadata) {
            header.set_entry_type(EntryType::Link);
            self.builder.append_link(&mut header, name, first)
        } else if kind.is_file() {
            let file = File::open(path).map_err(|source| unread(path, source))?;
            self.add_file(header, name, metadata, file)
        } else {
            // A device or a socket: the container has others.
            Ok(())
        };
        sent.map_err(|source| CopyError::Send { path: path.to_owned(), source })
    }

    fn add_file(
        &mut self,
        mut header: Header,
        name: &Path,
        metadata: &Metadata,
        mut file: File,
    ) -> io::Result<()> {
        let has_holes = metadata.blocks().saturating_mul(BLOCK_BYTES) < metadata.len();
        if has_holes && self.keeps_owners {
            return self.builder.append_file(name, &mut file);
        }
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        self.builder.append_data(&mut header, name, Exact { file, left: metadata.len() })
    }

    fn first_name(&mut self, name: &Path, metadata: &Metadata) -> Option<PathBuf> {
        if !metadata.is_file() || metadata.nlink() < 2 {
            return None;
        }
        let file = (metadata.dev(), metadata.ino());
        let first = self.links.get(&file).cloned();
        self.links.entry(file).or_insert_with(|| name.to_owned());
        first
    }
}

fn unread(path: &Path, source: io::Error) -> CopyError {
    CopyError::Source { path: path.to_owned(), source }
}

/// As many bytes as were announced, or an error.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        if length == 0 && most > 0 {
            return Err(io::Error::other("it has changed while it was copied"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}
