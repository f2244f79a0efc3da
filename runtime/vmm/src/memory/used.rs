//! Which memory may have something in it: the rest need not be read to be known as zeroes, which would cost the host a mapping for each
//! page that the guest has never touched.

use std::{
    fs::File,
    io,
    ops::Range,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use securectr_vmm::spec::{Fd, PAGE_LEN};

/// Of an entry (Documentation/admin-guide/mm/pagemap.rst): the page is there, or it is in swap.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const ENTRY_LEN: usize = 8;

/// How this process's pages are mapped (proc_pid_pagemap(5)); without the right to see where. Nothing is known without it.
#[derive(Debug)]
pub(crate) struct PageMap(Option<File>);

/// What is known of a guest's memory.
#[derive(Debug)]
pub(crate) struct Used {
    pages: PageMap,
    /// What a file has laid there, in ascending order: by places as in a saved memory, in bytes.
    laid: Vec<Range<u64>>,
}

impl PageMap {
    /// To be called before there is no /proc any more.
    pub(crate) fn open() -> Self {
        Self(File::open("/proc/self/pagemap").ok())
    }

    pub(crate) fn fd(&self) -> Option<Fd> {
        self.0.as_ref().map(|file| Fd(file.as_raw_fd()))
    }

    /// Whether anything is at so many bytes from an address of this process on, or in swap for it.
    fn has(&self, address: u64, len: usize) -> bool {
        let Some(file) = &self.0 else { return true };
        let count = len.div_ceil(PAGE_LEN as usize);
        let mut entries = vec![0; count * ENTRY_LEN];
        let read: io::Result<()> = file.read_exact_at(&mut entries, address / PAGE_LEN * ENTRY_LEN as u64);
        let is_used = |entry: &[u8]| {
            let entry = entry.try_into().map_or(u64::MAX, u64::from_ne_bytes);
            entry & (PRESENT | SWAPPED) != 0
        };
        read.is_err() || entries.chunks(ENTRY_LEN).any(is_used)
    }
}

impl Used {
    pub(crate) fn new(pages: PageMap, laid: Vec<Range<u64>>) -> Self {
        Self { pages, laid }
    }

    /// Whether there may be more than zeroes at a place, which is at an address of this process.
    pub(super) fn has(&self, place: &Range<u64>, address: u64) -> bool {
        let first = self.laid.partition_point(|laid| laid.end <= place.start);
        let is_laid = self.laid.get(first).is_some_and(|laid| laid.start < place.end);
        is_laid || self.pages.has(address, (place.end - place.start) as usize)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::memory::{MIB, allocate};

    #[test]
    fn what_nobody_has_touched_and_no_file_has_laid_is_not_used() {
        let memory = allocate(4).unwrap();
        memory.write_slice(b"x", GuestAddress(MIB + 5)).unwrap();
        let start = memory.iter().next().unwrap().as_ptr() as u64;
        let used = Used::new(PageMap::open(), vec![0..4096, 2 * MIB..3 * MIB]);
        let found = (0..4 * MIB / 4096).filter(|page| {
            let at = page * 4096;
            used.has(&(at..at + 4096), start + at)
        });
        let laid = 2 * MIB / 4096..3 * MIB / 4096;
        assert_eq!(found.collect::<Vec<_>>(), [0, 256].into_iter().chain(laid).collect::<Vec<_>>());
    }

    #[test]
    fn without_the_kernels_word_everything_may_be_used() {
        assert!(Used::new(PageMap(None), Vec::new()).has(&(0..4096), 0));
    }
}
