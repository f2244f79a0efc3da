//! Files with holes.

use std::{fs::File, io, iter, ops::Range};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

/// The parts of a file that are no holes, in bytes and in their order. Moves the file's position.
pub(crate) fn data_ranges(file: &File) -> impl Iterator<Item = io::Result<Range<u64>>> + '_ {
    let mut position = 0;
    iter::from_fn(move || {
        let range = next_range(file, position).transpose()?;
        // After an error there is no going on.
        position = range.as_ref().map_or(i64::MAX, |range| range.end as i64);
        Some(range)
    })
}

fn next_range(file: &File, position: i64) -> io::Result<Option<Range<u64>>> {
    let start = match lseek(file, position, Whence::SeekData) {
        Ok(start) => start,
        // lseek(2): there is no data behind the position.
        Err(Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    // Offsets of a file are not negative.
    Ok(Some(start as u64..end as u64))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_left_out() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * MIB).unwrap();
        assert_eq!(data_ranges(&file).count(), 0);
        file.write_all_at(b"x", MIB).unwrap();
        file.write_all_at(b"y", 3 * MIB).unwrap();
        let ranges: Vec<_> = data_ranges(&file).map(Result::unwrap).collect();
        assert_eq!(ranges.iter().map(|range| range.start).collect::<Vec<_>>(), [MIB, 3 * MIB]);
        assert!(ranges.iter().all(|range| range.end - range.start < MIB));
    }
}
