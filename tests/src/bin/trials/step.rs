//! One step of the content's trial: an operation on the file, and what it does to a model in memory.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The file never becomes longer, in bytes.
pub(crate) const MAX_LEN: usize = 256 * 1024;
/// What O_DIRECT asks for, in bytes.
pub(crate) const BLOCK_LEN: usize = 4096;
/// Of an offset or a length; 64 KiB at a time at most.
const OFFSET_BITS: u64 = 18;
const LEN_BITS: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    Buffered,
    /// O_DIRECT
    Direct,
    /// mmap(2), shared.
    Mapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Allocation {
    Extend,
    KeepSize,
    PunchHole,
    Zero,
    ZeroKeepSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Read {
        way: Way,
        offset: usize,
        len: usize,
    },
    /// The bytes come of a seed of their own.
    Write {
        way: Way,
        offset: usize,
        len: usize,
        seed: u64,
        sync: bool,
    },
    /// O_APPEND
    Append {
        len: usize,
        seed: u64,
    },
    Resize {
        len: usize,
        by_path: bool,
    },
    Allocate {
        how: Allocation,
        offset: usize,
        len: usize,
    },
    Copy {
        from: usize,
        to: usize,
        len: usize,
    },
    Sync {
        data_only: bool,
    },
    Reopen,
}

impl Step {
    /// One that is allowed on a file of this length.
    pub(crate) fn random(random: &mut Random, file_len: usize) -> Self {
        let len = random.of_any_size(LEN_BITS) as usize + 1;
        let offset = (random.of_any_size(OFFSET_BITS) as usize).min(MAX_LEN - len);
        match random.below(24) {
            0..=5 => Self::random_write(random, offset, len, file_len),
            6..=7 if file_len + len <= MAX_LEN => Self::Append { len, seed: random.next() },
            6..=13 => Self::random_read(random, offset, len, file_len),
            14..=15 => Self::Resize { len: random.of_any_size(OFFSET_BITS) as usize, by_path: random.coin() },
            16..=18 => {
                use Allocation::{Extend, KeepSize, PunchHole, Zero, ZeroKeepSize};
                let how = random.one_of(&[Extend, KeepSize, PunchHole, PunchHole, Zero, ZeroKeepSize]);
                Self::Allocate { how, offset, len }
            }
            // Ranges of one file must not overlap.
            19..=21 => match (random.below(MAX_LEN as u64) as usize, file_len.saturating_sub(offset)) {
                (to, rest) if rest > 0 => {
                    let len = len.min(rest).min(MAX_LEN - to).min(offset.abs_diff(to));
                    if len == 0 { Self::Reopen } else { Self::Copy { from: offset, to, len } }
                }
                _ => Self::Reopen,
            },
            22 => Self::Sync { data_only: random.coin() },
            _ => Self::Reopen,
        }
    }

    fn random_write(random: &mut Random, offset: usize, len: usize, file_len: usize) -> Self {
        let (way, offset, len) = Self::random_place(random, offset, len, file_len);
        Self::Write { way, offset, len, seed: random.next(), sync: random.coin() }
    }

    fn random_read(random: &mut Random, offset: usize, len: usize, file_len: usize) -> Self {
        let (way, offset, len) = Self::random_place(random, offset, len, file_len);
        Self::Read { way, offset, len }
    }

    fn random_place(random: &mut Random, offset: usize, len: usize, file_len: usize) -> (Way, usize, usize) {
        match random.one_of(&[Way::Buffered, Way::Direct, Way::Mapped]) {
            Way::Direct => {
                let len = len.next_multiple_of(BLOCK_LEN);
                let offset = (offset / BLOCK_LEN * BLOCK_LEN).min(MAX_LEN - len);
                (Way::Direct, offset, len)
            }
            Way::Mapped if file_len > 0 => {
                let offset = offset % file_len;
                (Way::Mapped, offset, len.min(file_len - offset))
            }
            _ => (Way::Buffered, offset, len),
        }
    }

    /// Does it to the model; what a read is to find.
    pub(crate) fn apply(&self, model: &mut Vec<u8>) -> Vec<u8> {
        match *self {
            Self::Read { offset, len, .. } => {
                return model.iter().skip(offset).take(len).copied().collect();
            }
            Self::Write { offset, len, seed, .. } => replace(model, offset, &content(seed, len)),
            Self::Append { len, seed } => model.extend(content(seed, len)),
            Self::Resize { len, .. } => model.resize(len, 0),
            Self::Allocate { how, offset, len } => {
                let grows = matches!(how, Allocation::Extend | Allocation::Zero);
                if grows && model.len() < offset + len {
                    model.resize(offset + len, 0);
                }
                if !matches!(how, Allocation::Extend | Allocation::KeepSize) {
                    model.iter_mut().skip(offset).take(len).for_each(|byte| *byte = 0);
                }
            }
            Self::Copy { from, to, len } => {
                let copied: Vec<u8> = model.iter().skip(from).take(len).copied().collect();
                replace(model, to, &copied);
            }
            Self::Sync { .. } | Self::Reopen => {}
        }
        Vec::new()
    }
}

fn replace(model: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if model.len() < offset + bytes.len() {
        model.resize(offset + bytes.len(), 0);
    }
    for (old, new) in model.iter_mut().skip(offset).zip(bytes) {
        *old = *new;
    }
}

/// What a write with this seed writes.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    Random::new(seed).bytes(len)
}
