//! Finds out where a file's data is, declared holes and runs of zeros left out.

use super::sparse::Segment;
use super::{Error, Input, Member, Reader};
use crate::tree::{Content, Origin, Piece};

/// Zeros are looked for in aligned units of this size: the smallest hole that the image format can have.
const UNIT_BYTES: usize = 4096;
const BUFFER_BYTES: usize = 64 * UNIT_BYTES;

/// Reads the data of `member`, which must be the one that `reader` returned last.
pub(crate) fn scan<R: Input>(
    reader: &mut Reader<'_, R>,
    member: &Member,
    origin: Origin,
) -> Result<Content, Error> {
    let whole = [Segment { at: 0, bytes: member.stored_bytes }];
    let (size, segments) = match &member.sparse {
        Some(map) => (map.size, map.segments.as_slice()),
        None => (member.stored_bytes, whole.as_slice()),
    };
    let mut pieces = Pieces::default();
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(member.stored_bytes).unwrap_or(BUFFER_BYTES))];
    let mut offset = member.data_offset;
    for segment in segments {
        let mut at = segment.at;
        let mut left = segment.bytes;
        while left > 0 {
            // The first read ends at a unit of the file, so that all later ones begin at one.
            let fit = BUFFER_BYTES as u64 - at % UNIT_BYTES as u64;
            let length = usize::try_from(left.min(fit)).unwrap_or(BUFFER_BYTES).min(buffer.len());
            let data = buffer.get_mut(..length).unwrap_or_default();
            reader.read_data(data)?;
            pieces.add_data(at, offset, data);
            at += length as u64;
            offset += length as u64;
            left -= length as u64;
        }
    }
    Ok(Content { size, origin, pieces: pieces.0 })
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn add_data(&mut self, mut at: u64, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let to_boundary = UNIT_BYTES - usize::try_from(at % UNIT_BYTES as u64).unwrap_or_default();
            let (unit, rest) = data.split_at(to_boundary.min(data.len()));
            if !is_zero(unit) {
                self.add(Piece { at, offset, bytes: unit.len() as u64 });
            }
            at += unit.len() as u64;
            offset += unit.len() as u64;
            data = rest;
        }
    }

    fn add(&mut self, piece: Piece) {
        match self.0.last_mut() {
            Some(last) if last.at + last.bytes == piece.at && last.offset + last.bytes == piece.offset => {
                last.bytes += piece.bytes;
            }
            _ => self.0.push(piece),
        }
    }
}

fn is_zero(data: &[u8]) -> bool {
    // Comparing with itself, shifted by one, is a single memcmp.
    match data {
        [first, rest @ ..] => *first == 0 && data.get(..rest.len()) == Some(rest),
        [] => true,
    }
}
