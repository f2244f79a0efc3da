//! Which memory may have something in it: the rest need not be read to be known as zeroes, which would cost the host a mapping for each
//! page that the guest has never touched.

use std::{
    fs::File,
    ops::Range,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use securectr_vmm::spec::{Fd, MOST_PAGE_RUNS, PAGE_LEN, PageRun};

use super::{GuestMemory, saved::in_file};

/// Of an entry (Documentation/admin-guide/mm/pagemap.rst): the page is there, or it is in swap; it is one of a file's.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
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

    /// Of the pages of so many bytes from an address of this process on; none where they cannot be seen.
    fn entries(&self, address: u64, len: usize) -> Option<Vec<u64>> {
        let mut entries = vec![0; len.div_ceil(PAGE_LEN as usize) * ENTRY_LEN];
        let place = address / PAGE_LEN * ENTRY_LEN as u64;
        self.0.as_ref()?.read_exact_at(&mut entries, place).ok()?;
        let entry = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_ne_bytes);
        entries.chunks(ENTRY_LEN).map(entry).collect()
    }

    /// Whether anything is there, or in swap for it.
    fn has(&self, address: u64, len: usize) -> bool {
        let entries = self.entries(address, len);
        entries.is_none_or(|entries| entries.iter().any(|entry| entry & (PRESENT | SWAPPED) != 0))
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

    /// The pages of the file that are mapped, and whether they were written since; none, if that would be too many runs of them.
    pub(crate) fn touched(&self, memory: &GuestMemory) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        for (region, start) in in_file(memory) {
            let within = start..start + region.size() as u64;
            for place in self.laid.iter().filter(|laid| within.contains(&laid.start)) {
                let address = region.as_ptr() as u64 + (place.start - start);
                let entries = self.pages.entries(address, (place.end - place.start) as usize);
                // A machine has fewer pages than a u32 can count: 2 TiB at most.
                let pages = (place.start / PAGE_LEN) as u32..;
                for (page, entry) in pages.zip(entries.unwrap_or_default()) {
                    if entry & PRESENT != 0 {
                        append(&mut runs, page, entry & OF_FILE == 0);
                    }
                }
            }
        }
        if runs.len() <= MOST_PAGE_RUNS { runs } else { Vec::new() }
    }
}

fn append(runs: &mut Vec<PageRun>, page: u32, is_written: bool) {
    match runs.last_mut() {
        Some(PageRun(first, count, written)) if *first + *count == page && *written == is_written => {
            *count += 1;
        }
        _ => runs.push(PageRun(page, 1, is_written)),
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use securectr_vmm::spec::Expected;

    use super::*;
    use crate::memory::{MIB, allocate, lay};

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
    fn pages_that_are_read_or_written_are_told_in_runs() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 16 * PAGE_LEN as usize], MIB).unwrap();
        let memory = allocate(4).unwrap();
        let laid = lay(&memory, &file, &Expected::Unknown).unwrap();
        let used = Used::new(PageMap::open(), laid);
        assert_eq!(used.touched(&memory), []);
        let at = |page: u64| GuestAddress(MIB + page * PAGE_LEN);
        memory.write_slice(&[2; 2 * PAGE_LEN as usize], at(3)).unwrap();
        let _: u8 = memory.read_obj(at(5)).unwrap();
        memory.write_slice(b"x", at(9)).unwrap();
        memory.write_slice(b"x", GuestAddress(0)).unwrap();
        let first = (MIB / PAGE_LEN) as u32;
        let expected = [(3, 2, true), (5, 1, false), (9, 1, true)];
        assert_eq!(
            used.touched(&memory),
            expected.map(|(page, count, written)| PageRun(first + page, count, written))
        );
    }

    #[test]
    fn without_the_kernels_word_everything_may_be_used() {
        assert!(Used::new(PageMap(None), Vec::new()).has(&(0..4096), 0));
    }
}
