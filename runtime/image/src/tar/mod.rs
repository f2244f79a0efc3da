//! Tar archives as they come in images: ustar, GNU and PAX (pax(1)), with sparse files of all four GNU formats.
//!
//! The `tar` crate decodes the header block. The walk from block to block is our own, because the crate's `Archive` writes the
//! holes of sparse files out as zeros, does not know PAX' sparse files, and ends a PAX record at a newline within its value (a
//! capability's bytes may hold one). Where formats leave room, this reads as Go's `archive/tar` does, which nearly every image
//! tool uses: two readers that disagree about where a header begins would see two different images.

mod pax;
mod scan;
mod sparse;

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Seek};

use tar::{EntryType, Header};

pub(crate) use scan::scan;

use crate::limits::{Budget, Exceeded};
use crate::tree::{Attributes, Device};
use pax::Extensions;

const BLOCK_BYTES: u64 = 512;
const PIECE_BYTES: usize = 128 * 1024;
/// PAX headers and long names of GNU tar; Go's reader stops at the same size.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the tar archive ends in the middle (truncated)")]
    Truncated,
    #[error("no tar header at offset {0}")]
    NotAHeader(u64),
    #[error("'{name}' has a bad {field}")]
    Field { name: String, field: &'static str },
    #[error("'{name}' is of type '{kind}', which no image has")]
    Type { name: String, kind: char },
    #[error("a PAX header is malformed")]
    Pax,
    #[error("a PAX header or long name has {0} bytes, more than {MAX_EXTENSION_BYTES}")]
    ExtensionTooLong(u64),
    #[error("'{0}' is a sparse file with a malformed map of its data")]
    Sparse(String),
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    #[error("cannot read")]
    Read(#[source] io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// A stream that can pass over bytes; a file seeks, a stream that is hashed reads.
pub(crate) trait Input: Read {
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl<R: Read + Seek> Input for io::BufReader<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?)
    }
}

/// Passes over bytes by reading them.
pub(crate) struct Stream<R>(pub(crate) R);

impl<R: BufRead> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> Input for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Regular,
    Directory,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One member, its extensions already applied.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    /// Of hard and symbolic links.
    pub(crate) target: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
    /// Of device nodes.
    pub(crate) device: Device,
    /// Where its data starts in the archive, and how many bytes of it are stored.
    pub(crate) data_offset: u64,
    pub(crate) stored_bytes: u64,
    /// The file's size and its data's places, if holes are left out of the stored bytes.
    pub(crate) sparse: Option<sparse::Map>,
}

pub(crate) struct Reader<'a, R> {
    input: R,
    offset: u64,
    /// Stored bytes of the current member, padding included, that have not been read yet.
    pending: u64,
    bytes: &'a mut Budget,
    max_segments: u64,
}

impl<'a, R: Input> Reader<'a, R> {
    /// `bytes` pays for every byte of the archive.
    pub(crate) fn new(input: R, bytes: &'a mut Budget, max_segments: u64) -> Self {
        Self { input, offset: 0, pending: 0, bytes, max_segments }
    }

    /// The next member, or `None` at the archive's end: two empty blocks, or no more bytes.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_pending()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let size = field(&header.as_old().size)
                .ok_or_else(|| Error::Field { name: shown(&header), field: "size" })?;
            match header.entry_type() {
                EntryType::XHeader => extensions.add_pax(&self.read_extension(size)?)?,
                EntryType::XGlobalHeader => drop(self.read_extension(size)?),
                EntryType::GNULongName => extensions.set_path(self.read_long_name(size)?),
                EntryType::GNULongLink => extensions.set_target(self.read_long_name(size)?),
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// Reads what follows the archive's end, which its digest covers too, and gives the stream back.
    pub(crate) fn finish(mut self) -> Result<R, Error> {
        self.skip_pending()?;
        let mut rest = [0; 8192];
        loop {
            match self.input.read(&mut rest) {
                Ok(0) => return Ok(self.input),
                Ok(bytes) => self.bytes.spend(bytes as u64)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read_header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return match self.read_block()? {
                Some(next) if next.iter().any(|byte| *byte != 0) => {
                    Err(Error::NotAHeader(self.offset - BLOCK_BYTES))
                }
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum().ok() != Some(checksum(&block)) {
            return Err(Error::NotAHeader(self.offset - BLOCK_BYTES));
        }
        Ok(Some(header))
    }

    /// `None` if the stream ends exactly here.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES as usize]>, Error> {
        let mut block = [0; BLOCK_BYTES as usize];
        let first = loop {
            match self.input.read(&mut block) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.input.read_exact(block.get_mut(first..).unwrap_or_default())?;
        self.bytes.spend(BLOCK_BYTES)?;
        self.offset += BLOCK_BYTES;
        Ok(Some(block))
    }

    /// Reads stored bytes of the current member.
    fn read_data(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let bytes = buffer.len() as u64;
        self.pending = self.pending.checked_sub(bytes).ok_or(Error::Truncated)?;
        self.input.read_exact(buffer)?;
        self.offset += bytes;
        Ok(())
    }

    /// Hands over the next `bytes` stored bytes of the current member, piece by piece.
    pub(crate) fn copy_data(
        &mut self,
        mut bytes: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        while bytes > 0 {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..length).unwrap_or_default();
            self.read_data(piece).map_err(io::Error::other)?;
            take(piece)?;
            bytes -= length as u64;
        }
        Ok(())
    }

    fn skip_pending(&mut self) -> Result<(), Error> {
        self.input.skip(self.pending)?;
        self.offset += self.pending;
        self.pending = 0;
        Ok(())
    }

    /// Announces `size` stored bytes and their padding.
    fn begin_data(&mut self, size: u64) -> Result<(), Error> {
        let padded = size.checked_next_multiple_of(BLOCK_BYTES).ok_or(Error::Truncated)?;
        self.bytes.spend(padded)?;
        self.pending = padded;
        Ok(())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_EXTENSION_BYTES {
            return Err(Error::ExtensionTooLong(size));
        }
        self.begin_data(size)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read_data(&mut data)?;
        Ok(data)
    }

    fn read_long_name(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut name = self.read_extension(size)?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(length);
        Ok(name)
    }

    fn member(&mut self, header: &Header, mut extensions: Extensions) -> Result<Member, Error> {
        let path = extensions.take_path().unwrap_or_else(|| header.path_bytes().into_owned());
        let name = || String::from_utf8_lossy(&path).into_owned();
        let bad = |field| Error::Field { name: name(), field };
        let kind = kind_of(header, &path)
            .ok_or_else(|| Error::Type { name: name(), kind: char::from(header.entry_type().as_byte()) })?;
        let target = extensions
            .take_target()
            .or_else(|| header.link_name_bytes().map(Cow::into_owned))
            .unwrap_or_default();
        let attributes = extensions.attributes(header).map_err(bad)?;
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => device_of(header).ok_or_else(|| bad("device number"))?,
            _ => Device { major: 0, minor: 0 },
        };
        // Only regular files have data, whatever the header says: so do Go and GNU tar read it.
        let stored = match kind {
            Kind::Regular => {
                extensions.size().or_else(|| field(&header.as_old().size)).ok_or_else(|| bad("size"))?
            }
            _ => 0,
        };
        let sparse = match kind {
            Kind::Regular => sparse::begin_data(self, header, &extensions, stored).map_err(|error| {
                if matches!(error, Error::Sparse(_)) { Error::Sparse(name()) } else { error }
            })?,
            _ => None,
        };
        Ok(Member {
            target,
            kind,
            attributes,
            device,
            data_offset: self.offset,
            stored_bytes: sparse.as_ref().map_or(stored, sparse::Map::data_bytes),
            sparse,
            path,
        })
    }
}

fn device_of(header: &Header) -> Option<Device> {
    // Both formats have them at the same place.
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(header), _) => (header.dev_major, header.dev_minor),
        (None, Some(header)) => (header.dev_major, header.dev_minor),
        (None, None) => return Some(Device { major: 0, minor: 0 }),
    };
    let number = |bytes: [u8; 8]| field(&bytes).and_then(|number| u32::try_from(number).ok());
    Some(Device { major: number(major)?, minor: number(minor)? })
}

/// A header's number: octal digits, or, with the highest bit set, a binary number (GNU). Blank is 0, as Go reads it.
fn field(bytes: &[u8]) -> Option<u64> {
    if let [first @ 0x80..=0xff, rest @ ..] = bytes {
        // A negative one begins with 0xff.
        let first = u64::from(first & 0x7f);
        return rest.iter().try_fold(first, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let digits = std::str::from_utf8(bytes.get(..end)?).ok()?.trim_matches(' ');
    if digits.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with('+'))
    }
}

fn shown(header: &Header) -> String {
    String::from_utf8_lossy(&header.path_bytes()).into_owned()
}

fn kind_of(header: &Header, path: &[u8]) -> Option<Kind> {
    Some(match header.entry_type() {
        // Before ustar, a folder was a file whose name ends in a slash.
        EntryType::Regular if header.as_old().linkflag == [0] && path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::Regular,
        EntryType::Directory => Kind::Directory,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Fifo => Kind::Fifo,
        _ => return None,
    })
}

/// The sum of the header's bytes, its own field read as spaces (ustar).
fn checksum(block: &[u8; BLOCK_BYTES as usize]) -> u32 {
    let field = 148..156;
    block
        .iter()
        .enumerate()
        .map(|(at, byte)| if field.contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
        .sum()
}

#[cfg(test)]
mod tests;
