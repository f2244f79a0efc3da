//! Files as members of a tar archive (tar(5)), in GNU's format: what the host reads of a container.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

/// A file is told to be as long as it was when it was looked at.
const CHANGED: &str = "it has changed while it was copied";

/// Files with several names that are known again; beyond these, each name has a file of its own.
const MOST_LINKS: usize = 1_000_000;

/// `st_blocks` counts by these, in bytes (stat(3type)).
const BLOCK_LEN: u64 = 512;

pub(super) struct Archive<W: Write> {
    builder: Builder<W>,
    links: BTreeMap<(u64, u64), PathBuf>,
}

/// What the file behind a name is made of.
pub(super) enum Content {
    Directory,
    File(File),
    Link(PathBuf),
    /// A pipe, whatever else has no content.
    Nothing,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(output: W) -> Self {
        Self { builder: Builder::new(output), links: BTreeMap::new() }
    }

    /// Adds a member. Devices and sockets are passed over: nobody on the host has a use for them.
    pub(super) fn add(
        &mut self,
        name: &Path,
        metadata: &Metadata,
        content: Content,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        match content {
            Content::Directory => {
                self.add_xattrs(xattrs)?;
                header.set_entry_type(EntryType::Directory);
                self.builder.append_data(&mut header, name, io::empty())
            }
            Content::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.builder.append_link(&mut header, name, target)
            }
            Content::File(file) => {
                if let Some(first) = self.first_name(name, metadata) {
                    header.set_entry_type(EntryType::Link);
                    return self.builder.append_link(&mut header, name, first);
                }
                self.add_xattrs(xattrs)?;
                self.add_file(header, name, metadata, file)
            }
            Content::Nothing if metadata.file_type().is_fifo() => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, name, io::empty())
            }
            Content::Nothing => Ok(()),
        }
    }

    /// Says that something is not there any more, as layers do.
    pub(super) fn add_empty(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(0);
        self.builder.append_data(&mut header, name, io::empty())
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.builder.finish()?;
        self.builder.get_mut().flush()
    }

    fn first_name(&mut self, name: &Path, metadata: &Metadata) -> Option<PathBuf> {
        if metadata.nlink() < 2 {
            return None;
        }
        let file = (metadata.dev(), metadata.ino());
        let first = self.links.get(&file).cloned();
        if first.is_none() && self.links.len() < MOST_LINKS {
            self.links.insert(file, name.to_owned());
        }
        first
    }

    fn add_xattrs(&mut self, xattrs: &[(String, Vec<u8>)]) -> io::Result<()> {
        let records = xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(records)
    }

    fn add_file(
        &mut self,
        mut header: Header,
        name: &Path,
        metadata: &Metadata,
        mut file: File,
    ) -> io::Result<()> {
        if metadata.blocks().saturating_mul(BLOCK_LEN) < metadata.len() {
            // With holes: they are found, and left out.
            return self.builder.append_file(name, &mut file);
        }
        header.set_size(metadata.len());
        header.set_entry_type(EntryType::Regular);
        let mut exact = Exact { file, left: metadata.len() };
        self.builder.append_data(&mut header, name, &mut exact)
    }
}

/// As many bytes as were announced; fewer are an error, since the next member would not be found.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let len = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        if len == 0 && most > 0 {
            return Err(io::Error::other(CHANGED));
        }
        self.left -= len as u64;
        Ok(len)
    }
}
