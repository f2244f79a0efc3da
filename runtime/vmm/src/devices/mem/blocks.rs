//! Which blocks of the region the guest has plugged: a word a chunk, a bit a block.

use std::ops::Range;

use crate::memory::CHUNK_LEN;

/// In bytes. Linux plugs and unplugs parts of its memory blocks, in this size, as long as it is a page block or more.
pub(super) const BLOCK_LEN: u64 = 2 << 20;

const BLOCKS_A_CHUNK: u64 = CHUNK_LEN / BLOCK_LEN;
const _: () = assert!(BLOCKS_A_CHUNK == u64::BITS as u64);

/// Blocks one after another. Holding one proves that there is at least one, and that all are in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    first: u64,
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Plugged,
    Unplugged,
    Mixed,
}

/// The part of a run that lies in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) chunk: usize,
    mask: u64,
}

impl Part {
    /// In bytes from the chunk's start.
    pub(super) fn range(self) -> Range<u64> {
        let first = u64::from(self.mask.trailing_zeros());
        first * BLOCK_LEN..(first + u64::from(self.mask.count_ones())) * BLOCK_LEN
    }
}

#[derive(Clone, Debug)]
pub(super) struct Blocks(Vec<u64>);

impl Blocks {
    pub(super) fn new(chunk_count: usize) -> Self {
        Self(vec![0; chunk_count])
    }

    /// In bytes.
    pub(super) fn region_len(&self) -> u64 {
        self.0.len() as u64 * CHUNK_LEN
    }

    /// From a driver's words: `offset` in bytes from the region's start.
    pub(super) fn run(&self, offset: u64, count: u16) -> Option<Run> {
        let first = offset / BLOCK_LEN;
        let end = first.checked_add(count.into())?;
        let is_inside = offset % BLOCK_LEN == 0 && end <= self.region_len() / BLOCK_LEN;
        (is_inside && count > 0).then_some(Run { first, count: count.into() })
    }

    pub(super) fn state(&self, run: Run) -> State {
        let plugged: u64 =
            parts(run).map(|part| u64::from((self.word(part.chunk) & part.mask).count_ones())).sum();
        match plugged {
            0 => State::Unplugged,
            all if all == run.count => State::Plugged,
            _ => State::Mixed,
        }
    }

    /// In bytes.
    pub(super) fn plugged_len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * BLOCK_LEN
    }

    /// Those with a plugged block.
    pub(super) fn open_count(&self) -> u64 {
        self.0.iter().filter(|&&word| word != 0).count() as u64
    }

    pub(super) fn is_open(&self, part: Part) -> bool {
        self.word(part.chunk) != 0
    }

    pub(super) fn plug(&mut self, part: Part) {
        if let Some(word) = self.0.get_mut(part.chunk) {
            *word |= part.mask;
        }
    }

    pub(super) fn unplug(&mut self, part: Part) {
        if let Some(word) = self.0.get_mut(part.chunk) {
            *word &= !part.mask;
        }
    }

    /// The chunks that are open, each as a whole.
    pub(super) fn open_parts(&self) -> Vec<Part> {
        let is_open = |&(_, word): &(usize, &u64)| *word != 0;
        self.0.iter().enumerate().filter(is_open).map(|(chunk, _)| Part { chunk, mask: u64::MAX }).collect()
    }

    fn word(&self, chunk: usize) -> u64 {
        self.0.get(chunk).copied().unwrap_or(0)
    }
}

impl Run {
    /// In bytes.
    pub(super) fn len(self) -> u64 {
        self.count * BLOCK_LEN
    }
}

/// A run, chunk by chunk.
pub(super) fn parts(run: Run) -> impl Iterator<Item = Part> {
    let end = run.first + run.count;
    let chunks = run.first / BLOCKS_A_CHUNK..end.div_ceil(BLOCKS_A_CHUNK);
    chunks.map(move |chunk| {
        let start = chunk * BLOCKS_A_CHUNK;
        let from = run.first.max(start) - start;
        let to = end.min(start + BLOCKS_A_CHUNK) - start;
        let mask = u64::MAX >> (BLOCKS_A_CHUNK - (to - from)) << from;
        // A region has fewer chunks than a usize can count.
        Part { chunk: chunk as usize, mask }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_at_the_borders_of_chunks() {
        let blocks = Blocks::new(3);
        let run = blocks.run(63 * BLOCK_LEN, 66).unwrap();
        let cut: Vec<_> = parts(run).map(|part| (part.chunk, part.range())).collect();
        assert_eq!(cut, [(0, 63 * BLOCK_LEN..CHUNK_LEN), (1, 0..CHUNK_LEN), (2, 0..BLOCK_LEN)]);
    }

    #[test]
    fn what_is_not_in_the_region_is_no_run() {
        let blocks = Blocks::new(2);
        assert!(blocks.run(0, 128).is_some() && blocks.run(127 * BLOCK_LEN, 1).is_some());
        for (offset, count) in [
            (0, 0),
            (0, 129),
            (1, 1),
            (BLOCK_LEN, 128),
            (128 * BLOCK_LEN, 1),
            (u64::MAX - BLOCK_LEN + 1, 1),
            (u64::MAX, u16::MAX),
        ] {
            assert_eq!(blocks.run(offset, count), None, "{offset:#x}, {count}");
        }
    }

    #[test]
    fn a_run_is_plugged_unplugged_or_mixed() {
        let mut blocks = Blocks::new(2);
        let (all, second) = (blocks.run(0, 128).unwrap(), blocks.run(CHUNK_LEN, 64).unwrap());
        assert_eq!(blocks.state(all), State::Unplugged);
        parts(second).for_each(|part| blocks.plug(part));
        assert_eq!((blocks.state(all), blocks.state(second)), (State::Mixed, State::Plugged));
        assert_eq!((blocks.plugged_len(), blocks.open_count()), (CHUNK_LEN, 1));
    }
}
