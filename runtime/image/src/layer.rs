//! Reads one layer: decompresses it, verifies both its digests, and merges its entries into the tree. Files' data stays where it
//! is if the layer is stored uncompressed; otherwise the tar archive is spooled into a file without a name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Digest, Hasher, HashingReader};
use crate::limits::{Budget, Limits};
use crate::section::Section;
use crate::source::Layer;
use crate::tar::{self, Kind, Member, Reader, Stream};
use crate::tree::{Change, Entry, Origin, Problem, Tree};

const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("'{name}' is refused")]
    Entry {
        name: String,
        #[source]
        source: Problem,
    },
    #[error(transparent)]
    Tar(#[from] tar::Error),
    #[error("it does not have its digest: the digest of its content is {actual}")]
    Digest { actual: Digest },
    #[error(
        "it does not have its diff id: the digest of its uncompressed content is {actual}, its diff id {expected}"
    )]
    DiffId { expected: Digest, actual: Digest },
    #[error("cannot read")]
    Read(#[source] io::Error),
    #[error("cannot spool into {directory}")]
    Spool {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where the data of a layer's files lies, by offset in its uncompressed tar archive.
pub(crate) enum LayerData {
    InPlace(Section),
    Spooled(File),
}

impl LayerData {
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::InPlace(section) => section.read_exact_at(buffer, offset),
            Self::Spooled(file) => file.read_exact_at(buffer, offset),
        }
    }
}

/// What all layers of one image share while they are read.
pub(crate) struct Merge<'a> {
    pub(crate) tree: Tree,
    pub(crate) unpacked: Budget,
    pub(crate) limits: &'a Limits,
    /// Where compressed layers are spooled.
    pub(crate) spool_directory: &'a Path,
    /// Gets the count of stored bytes read since the last call.
    pub(crate) progress: &'a mut dyn FnMut(u64),
}

impl Merge<'_> {
    /// Merges `layer`, the one with that number from below.
    pub(crate) fn add(&mut self, number: u32, layer: &Layer) -> Result<LayerData, Error> {
        let result = self.read(number, layer);
        // A damaged layer shows in many ways; its digest names the cause.
        if let (Err(Error::Entry { .. } | Error::Tar(_)), Some(digest)) = (&result, &layer.digest) {
            let actual = HashingReader::new(layer.section.reader()).finish().map_err(Error::Read)?;
            if actual != *digest {
                return Err(Error::Digest { actual });
            }
        }
        result
    }

    fn read(&mut self, number: u32, layer: &Layer) -> Result<LayerData, Error> {
        let stored = Reported { source: layer.section.reader(), report: &mut *self.progress };
        let decoder = Decoder::new(HashingReader::new(stored)).map_err(Error::Read)?;
        let spool = match decoder {
            Decoder::None(_) => None,
            Decoder::Gzip(_) | Decoder::Zstd(_) => Some(Spool::new(self.spool_directory)?),
        };
        let unpacked = Unpacked { hasher: spool.as_ref().map(|_| Hasher::new()), decoder, spool };
        let stream = Stream(BufReader::with_capacity(BUFFER_BYTES, unpacked));
        let mut reader = Reader::new(stream, &mut self.unpacked, self.limits.sparse_segments);
        while let Some(member) = reader.next().map_err(spool_error)? {
            let name = String::from_utf8_lossy(&member.path).into_owned();
            let entry = entry(member, &mut reader, Origin(number)).map_err(spool_error)?;
            self.tree.apply(number, entry).map_err(|source| Error::Entry { name, source })?;
        }
        let unpacked = reader.finish().map_err(spool_error)?.0.into_inner();
        let digest = unpacked.decoder.finish().map_err(Error::Read)?;
        let diff_id = unpacked.hasher.map_or_else(|| digest.clone(), Hasher::finish);
        match &layer.digest {
            Some(expected) if *expected != digest => return Err(Error::Digest { actual: digest }),
            _ => {}
        }
        if diff_id != layer.diff_id {
            return Err(Error::DiffId { expected: layer.diff_id.clone(), actual: diff_id });
        }
        match unpacked.spool {
            None => Ok(LayerData::InPlace(layer.section.clone())),
            Some(spool) => spool.finish().map(LayerData::Spooled),
        }
    }
}

fn entry<R: tar::Input>(
    member: Member,
    reader: &mut Reader<'_, R>,
    origin: Origin,
) -> Result<Entry, tar::Error> {
    let content = match member.kind {
        Kind::Regular => Some(tar::scan(reader, &member, origin)?),
        _ => None,
    };
    let Member { path, target, attributes, device, kind, .. } = member;
    let change = match (kind, content) {
        (Kind::Regular, Some(content)) => Change::Regular(attributes, content),
        (Kind::Directory | Kind::Regular, _) => Change::Directory(attributes),
        (Kind::HardLink, _) => Change::HardLink(target),
        (Kind::Symlink, _) => Change::Symlink(attributes, target),
        (Kind::CharDevice, _) => Change::CharDevice(attributes, device),
        (Kind::BlockDevice, _) => Change::BlockDevice(attributes, device),
        (Kind::Fifo, _) => Change::Fifo(attributes),
    };
    Ok(Entry { path, change })
}

/// The error of a spool travels through `Read::read` and the tar reader; here it gets its own name back.
fn spool_error(error: tar::Error) -> Error {
    match error {
        tar::Error::Read(error) => match error.downcast::<SpoolError>() {
            Ok(SpoolError { directory, source }) => Error::Spool { directory, source },
            Err(error) => tar::Error::Read(error).into(),
        },
        error => error.into(),
    }
}

/// How a layer is compressed is told by its first bytes (RFC 1952, RFC 8878), as all engines do, not by its media type.
pub(crate) enum Decoder<R: Read> {
    None(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(source: R) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
        Ok(match source.fill_buf()? {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            // A frame, or a skippable one (zstd:chunked may begin with it).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Self::Zstd(zstd::Decoder::with_buffer(source)?)
            }
            _ => Self::None(source),
        })
    }
}

impl<R: Read> Decoder<HashingReader<R>> {
    /// The digest of all stored bytes.
    fn finish(self) -> io::Result<Digest> {
        let source = match self {
            Self::None(source) => source,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        // What the buffer holds has been hashed already.
        source.into_inner().finish()
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The uncompressed archive: hashed and spooled while it is read, unless it is stored uncompressed.
struct Unpacked<R: Read> {
    decoder: Decoder<R>,
    hasher: Option<Hasher>,
    spool: Option<Spool>,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        let data = buffer.get(..length).unwrap_or_default();
        if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
        if let Some(spool) = &mut self.spool {
            spool.write(data).map_err(io::Error::other)?;
        }
        Ok(length)
    }
}

struct Reported<'a, R> {
    source: R,
    report: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Reported<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        (self.report)(length as u64);
        Ok(length)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot spool into {directory}")]
struct SpoolError {
    directory: PathBuf,
    source: io::Error,
}

/// A file without a name, gone with its descriptor. Long runs of zeros take no space in it.
struct Spool {
    file: File,
    directory: PathBuf,
    end: u64,
}

impl Spool {
    fn new(directory: &Path) -> Result<Self, Error> {
        let file = tempfile::tempfile_in(directory)
            .map_err(|source| Error::Spool { directory: directory.to_owned(), source })?;
        Ok(Self { file, directory: directory.to_owned(), end: 0 })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), SpoolError> {
        if data.iter().any(|byte| *byte != 0) {
            self.file
                .write_all_at(data, self.end)
                .map_err(|source| SpoolError { directory: self.directory.clone(), source })?;
        }
        self.end += data.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<File, Error> {
        self.file.set_len(self.end).map_err(|source| Error::Spool { directory: self.directory, source })?;
        Ok(self.file)
    }
}
