use std::{fs, os::unix::fs::FileExt};

use vm_memory::GuestAddress;

use super::*;
use crate::memory::{MIB, PageMap, allocate};

const PAGE: usize = PAGE_LEN as usize;

fn memory(expected: &Expected) -> GuestMemory {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[1; 8 * PAGE], MIB).unwrap();
    let memory = allocate(4).unwrap();
    lay(&memory, &file, expected).unwrap();
    memory
}

fn known() -> Expected {
    Expected::Pages(Vec::new())
}

fn resident(memory: &GuestMemory) -> Vec<u64> {
    let region = memory.iter().next().unwrap();
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let first = region.as_ptr() as u64 / PAGE_LEN;
    let is_there = |page: &u64| {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, (first + page) * 8).unwrap();
        u64::from_le_bytes(entry) >> 63 == 1
    };
    (0..4 * MIB / PAGE_LEN).filter(is_there).collect()
}

fn read(memory: &GuestMemory, page: u64) -> u8 {
    memory.read_obj(GuestAddress(page * PAGE_LEN)).unwrap()
}

#[test]
fn what_is_saved_is_found_again_and_what_is_written_then_is_not() {
    let saved = allocate(4).unwrap();
    for (place, text) in [(0, b"first"), (MIB + 5 * PAGE_LEN, b"other"), (4 * MIB - 5, b"last!")] {
        saved.write_slice(text, GuestAddress(place)).unwrap();
    }
    let file = tempfile::tempfile().unwrap();
    save(&saved, &Used::new(PageMap::open(), Vec::new()), &file).unwrap();
    let memory = allocate(4).unwrap();
    lay(&memory, &file, &known()).unwrap();
    for (place, text) in [(0, b"first"), (MIB + 5 * PAGE_LEN, b"other"), (4 * MIB - 5, b"last!")] {
        assert_eq!(memory.read_obj::<[u8; 5]>(GuestAddress(place)).unwrap(), *text);
    }
    assert_eq!(read(&memory, 100), 0);
    memory.write_slice(b"again", GuestAddress(0)).unwrap();
    let mut found = [0; 5];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, *b"first");
}

#[test]
fn zeroes_are_holes_but_for_those_between_pages_that_are_near() {
    let memory = allocate(4).unwrap();
    let region = memory.iter().next().unwrap();
    let found = || not_zero(region, 64 * PAGE..80 * PAGE);
    let write = |at: usize| memory.write_slice(&[1], GuestAddress(at as u64)).unwrap();
    write(63 * PAGE);
    assert!(found().is_empty());
    write(67 * PAGE + 7);
    assert_eq!(found(), 67 * PAGE..68 * PAGE);
    write(73 * PAGE + 4095);
    assert_eq!(found(), 67 * PAGE..74 * PAGE);
}

#[test]
fn a_page_that_is_mapped_alone_comes_without_its_neighbours() {
    let memory = memory(&Expected::Unknown);
    assert!(resident(&memory).is_empty());
    assert_eq!((read(&memory, 256 + 3), read(&memory, 256 + 6)), (1, 1));
    assert_eq!(resident(&memory), [259, 262]);
}

#[test]
fn what_the_file_has_is_mapped_and_its_holes_are_not() {
    let memory = memory(&known());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let start = memory.iter().next().unwrap().as_ptr() as u64;
    let line = format!("{:x}-{:x} rw-p 00100000", start + MIB, start + MIB + 8 * PAGE_LEN);
    assert!(maps.contains(&line), "{line} in {maps}");
}

#[test]
fn runs_are_cut_to_what_there_is() {
    let memory = memory(&known());
    let found = |run| places(&memory, run).map(|(_, range, _)| (range.start, range.end)).collect::<Vec<_>>();
    assert_eq!(found(PageRun(1, 2, true)), [(0x1000, 0x3000)]);
    assert_eq!(found(PageRun(1023, 2, true)), [(0x3f_f000, 0x40_0000)]);
    assert_eq!(found(PageRun(u32::MAX, u32::MAX, true)), []);
    assert_eq!(found(PageRun(7, 0, true)), []);
}

#[test]
fn pages_that_will_be_written_are_copied_beforehand() {
    let memory = memory(&known());
    for (region, range, _) in places(&memory, PageRun(256, 3, true)) {
        sys::populate_for_writing(region, &range).unwrap();
    }
    assert_eq!(resident(&memory), [256, 257, 258]);
}
