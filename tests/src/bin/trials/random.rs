//! Chance that can be repeated.

/// xorshift64*: the same numbers for the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 on; the limit is above that.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 8) % limit
    }

    /// Below a limit that is a power of two itself, so that small numbers are as frequent as large ones.
    pub(crate) fn of_any_size(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits) + 1;
        self.below(1 << bits)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    #[expect(clippy::indexing_slicing, reason = "below the length")]
    pub(crate) fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len).collect()
    }
}
