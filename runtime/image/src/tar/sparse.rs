//! Sparse files: which bytes of a file its stored data are. Four formats of GNU tar ("Sparse Formats" in its manual): the old
//! one with the map in headers, and PAX 0.0, 0.1 (map in records) and 1.0 (map before the data).

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{Extensions, number};
use super::{BLOCK_BYTES, Error, Input, Reader};
use crate::limits::Exceeded;

/// Holes cost nothing, so that only this bounds a sparse file: 16 TiB, as ext4 does.
const MAX_FILE_BYTES: u64 = 16 << 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset in the file.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

/// A file's size and its segments of data: ascending, apart from each other, within the size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) size: u64,
    pub(crate) segments: Vec<Segment>,
}

impl Map {
    pub(super) fn data_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The stored bytes must be exactly what the segments need.
    fn checked(size: u64, segments: Vec<Segment>, stored: u64) -> Result<Self, Error> {
        if size > MAX_FILE_BYTES {
            return Err(Exceeded { of: "bytes in one file", limit: MAX_FILE_BYTES }.into());
        }
        let mut end = 0;
        let mut data = 0_u64;
        for segment in &segments {
            let next =
                segment.at.checked_add(segment.bytes).filter(|next| *next <= size && segment.at >= end);
            end = next.ok_or_else(malformed)?;
            data += segment.bytes;
        }
        if data == stored { Ok(Self { size, segments }) } else { Err(malformed()) }
    }
}

/// The records `GNU.sparse.*` of a PAX header.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: Option<u64>,
    minor: Option<u64>,
    /// `size` of 0.x, `realsize` of 1.0.
    size: Option<u64>,
    name: Option<Vec<u8>>,
    /// Offset, length, offset, length, ...
    numbers: Vec<u64>,
}

impl Records {
    /// `None` if the value is malformed.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        match name {
            b"major" => self.major = Some(number(value)?),
            b"minor" => self.minor = Some(number(value)?),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" if self.numbers.len() % 2 == 0 => self.numbers.push(number(value)?),
            b"numbytes" if self.numbers.len() % 2 == 1 => self.numbers.push(number(value)?),
            b"offset" | b"numbytes" => return None,
            b"map" => self.numbers = value.split(|byte| *byte == b',').map(number).collect::<Option<_>>()?,
            _ => {}
        }
        Some(())
    }

    pub(super) fn take_name(&mut self) -> Option<Vec<u8>> {
        self.name.take()
    }
}

fn malformed() -> Error {
    Error::Sparse(String::new())
}

/// Reads the map, if the member has one, and leaves the reader where the data begins. `stored` is the size that the header
/// states. The name in [`Error::Sparse`] is for the caller to fill in.
pub(super) fn begin_data<R: Input>(
    reader: &mut Reader<'_, R>,
    header: &Header,
    extensions: &Extensions,
    stored: u64,
) -> Result<Option<Map>, Error> {
    let records = &extensions.sparse;
    if header.entry_type() == EntryType::GNUSparse {
        let (size, segments) = read_headers(reader, header)?;
        reader.begin_data(stored)?;
        return Map::checked(size, segments, stored).map(Some);
    }
    reader.begin_data(stored)?;
    let Some(size) = records.size else { return Ok(None) };
    let (numbers, map_bytes) = match (records.major, records.minor) {
        (Some(1), Some(0)) => read_numbers(reader)?,
        (None | Some(0), None | Some(0 | 1)) => (records.numbers.clone(), 0),
        _ => return Err(malformed()),
    };
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    for pair in numbers.chunks(2) {
        let [at, bytes] = *pair else { return Err(malformed()) };
        check_count(segments.len(), reader.max_segments)?;
        segments.push(Segment { at, bytes });
    }
    Map::checked(size, segments, stored.checked_sub(map_bytes).ok_or_else(malformed)?).map(Some)
}

/// The old format: four segments in the header, 21 in each header that follows.
fn read_headers<R: Input>(reader: &mut Reader<'_, R>, header: &Header) -> Result<(u64, Vec<Segment>), Error> {
    let header = header.as_gnu().ok_or_else(malformed)?;
    let size = header.real_size().map_err(|_| malformed())?;
    let mut segments = Vec::new();
    add_segments(&mut segments, &header.sparse, reader.max_segments)?;
    let mut more = header.is_extended();
    while more {
        let mut extended = GnuExtSparseHeader::new();
        *extended.as_mut_bytes() = reader.read_block()?.ok_or(Error::Truncated)?;
        add_segments(&mut segments, extended.sparse(), reader.max_segments)?;
        more = extended.is_extended();
    }
    Ok((size, segments))
}

fn add_segments(segments: &mut Vec<Segment>, headers: &[GnuSparseHeader], limit: u64) -> Result<(), Error> {
    for header in headers.iter().take_while(|header| !header.is_empty()) {
        check_count(segments.len(), limit)?;
        let at = header.offset().map_err(|_| malformed())?;
        let bytes = header.length().map_err(|_| malformed())?;
        segments.push(Segment { at, bytes });
    }
    Ok(())
}

fn check_count(count: usize, limit: u64) -> Result<(), Exceeded> {
    if count as u64 >= limit { Err(Exceeded { of: "segments of a sparse file", limit }) } else { Ok(()) }
}

/// PAX 1.0: the count of segments, then their offsets and lengths, one number a line, padded to a block. Also returns how many
/// stored bytes that took.
fn read_numbers<R: Input>(reader: &mut Reader<'_, R>) -> Result<(Vec<u64>, u64), Error> {
    let mut numbers = Vec::new();
    let mut wanted = None;
    let mut digits: Vec<u8> = Vec::new();
    let mut map_bytes = 0;
    loop {
        let mut block = [0; BLOCK_BYTES as usize];
        reader.read_data(&mut block)?;
        map_bytes += BLOCK_BYTES;
        for byte in block {
            match byte {
                b'\n' => {
                    let value = number(&digits).filter(|_| !digits.is_empty()).ok_or_else(malformed)?;
                    digits.clear();
                    match wanted {
                        None => {
                            check_count(usize::try_from(value).unwrap_or(usize::MAX), reader.max_segments)?;
                            wanted = Some(value * 2);
                        }
                        Some(_) => numbers.push(value),
                    }
                    if wanted == Some(numbers.len() as u64) {
                        return Ok((numbers, map_bytes));
                    }
                }
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(malformed()),
            }
        }
    }
}
