//! The memory of a guest that goes on from a file. What the file has is mapped, so that all guests that go on from it share what they do
//! not write. Its holes are memory as any guest's: a page of a hole would cost twice, once for the file.
//!
//! What the guest will touch soon is brought to it beforehand, in few calls. Otherwise each page costs an exit, and one that is read first
//! and written then costs three: the host takes the first mapping back when it makes the copy.

use std::{fs::File, io, iter, ops::Range};

use kvm_ioctls::VcpuFd;
use securectr_vmm::spec::{PAGE_LEN, PageRun};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::{GuestMemory, sys};

/// A process may have 65,530 mappings (vm.max_map_count); each page that is mapped alone splits one in two.
const MOST_ALONE: usize = 30_000;

/// Maps what the file has over the memory, of which it has at least the length.
pub(super) fn lay(memory: &GuestMemory, file: &File) -> io::Result<()> {
    let len: u64 = memory.iter().map(|region| region.size() as u64).sum();
    if file.metadata()?.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for (region, start) in in_file(memory) {
        for range in data(file, start, region) {
            sys::lay_file(region, &range, file, start + range.start as u64)?;
        }
    }
    Ok(())
}

/// The regions lie behind each other in the file: each one's start there, in bytes.
fn in_file(memory: &GuestMemory) -> impl Iterator<Item = (&GuestRegionMmap, u64)> {
    memory.iter().scan(0, |next, region| {
        let start = *next;
        *next += region.size() as u64;
        Some((region, start))
    })
}

/// Where a region has what is no hole of the file, in bytes from its start, in whole pages.
fn data<'a>(
    file: &'a File,
    start: u64,
    region: &'a GuestRegionMmap,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let end = start + region.size() as u64;
    let mut from = start;
    iter::from_fn(move || {
        let found = sys::next_data(file, from).filter(|range| range.start < end)?;
        from = found.end;
        let page = |at: u64| (at.min(end) - start) as usize;
        Some(page(found.start / PAGE_LEN * PAGE_LEN)..page(found.end.next_multiple_of(PAGE_LEN)))
    })
}

/// Puts the pages that the file has into mappings of their own, so that the kernel never maps the neighbours of one with it. Where
/// that cannot be done, more pages will be taken for touched than are.
pub(super) fn map_alone(memory: &GuestMemory, file: &File) {
    let page_len = PAGE_LEN as usize;
    let pages = in_file(memory).flat_map(|(region, start)| {
        data(file, start, region).flat_map(|range| range.step_by(page_len)).map(move |at| (region, at))
    });
    // Mappings that follow each other are one unless their advice differs.
    let every_second = pages.filter(|(_, at)| at / page_len % 2 == 0).take(MOST_ALONE);
    for (region, at) in every_second {
        if sys::advise_random(region, &(at..at + page_len)).is_err() {
            return;
        }
    }
}

/// Copies the pages that the guest will write, and maps these and those that it will read. What cannot be done, the guest's own accesses
/// will: the host may be older than the calls for it.
pub(crate) fn bring(memory: &GuestMemory, vcpu: &VcpuFd, runs: &[PageRun]) {
    let places = || runs.iter().flat_map(|run| places(memory, *run));
    for (region, range) in places().filter(|(.., written)| *written).map(|(region, range, _)| (region, range))
    {
        if sys::populate_for_writing(region, &range).is_err() {
            break;
        }
    }
    for (region, range, _) in places() {
        let address = region.start_addr().raw_value() + range.start as u64;
        if sys::pre_fault(vcpu, address, range.len() as u64).is_err() {
            break;
        }
    }
}

/// Where in the memory the pages of the file are: in two regions at most, or in none.
fn places(
    memory: &GuestMemory,
    PageRun(first, count, written): PageRun,
) -> impl Iterator<Item = (&GuestRegionMmap, Range<usize>, bool)> {
    let run = u64::from(first) * PAGE_LEN..(u64::from(first) + u64::from(count)) * PAGE_LEN;
    in_file(memory).filter_map(move |(region, start)| {
        let range = run.start.max(start)..run.end.min(start + region.size() as u64);
        let at = |place: u64| (place - start) as usize;
        (!range.is_empty()).then(|| (region, at(range.start)..at(range.end), written))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::FileExt,
    };

    use securectr_vmm::spec::Expected;

    use super::*;
    use crate::memory::{Backing, MIB, allocate};

    fn memory(expected: Expected) -> GuestMemory {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * MIB).unwrap();
        file.write_all_at(&[1; 8 * PAGE_LEN as usize], MIB).unwrap();
        allocate(4, Backing::Private(file, expected)).unwrap()
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

    fn read(memory: &GuestMemory, page: u64) {
        use vm_memory::{Bytes, GuestAddress};
        let _: u8 = memory.read_obj(GuestAddress(page * PAGE_LEN)).unwrap();
    }

    #[test]
    fn a_page_that_is_mapped_alone_comes_without_its_neighbours() {
        let memory = memory(Expected::Unknown);
        assert!(resident(&memory).is_empty());
        read(&memory, 256 + 3);
        read(&memory, 256 + 6);
        assert_eq!(resident(&memory), [259, 262]);
    }

    #[test]
    fn what_the_file_has_is_mapped_and_its_holes_are_not() {
        let memory = memory(Expected::Pages(Vec::new()));
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let start = memory.iter().next().unwrap().as_ptr() as u64;
        let line = format!("{:x}-{:x} rw-p 00100000", start + MIB, start + MIB + 8 * PAGE_LEN);
        assert!(maps.contains(&line), "{line} in {maps}");
    }

    #[test]
    fn runs_are_cut_to_what_there_is() {
        let memory = memory(Expected::Pages(Vec::new()));
        let found =
            |run| places(&memory, run).map(|(_, range, _)| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!(found(PageRun(1, 2, true)), [(0x1000, 0x3000)]);
        assert_eq!(found(PageRun(1023, 2, true)), [(0x3f_f000, 0x40_0000)]);
        assert_eq!(found(PageRun(u32::MAX, u32::MAX, true)), []);
        assert_eq!(found(PageRun(7, 0, true)), []);
    }

    #[test]
    fn pages_that_will_be_written_are_copied_beforehand() {
        let memory = memory(Expected::Pages(Vec::new()));
        for (region, range, _) in places(&memory, PageRun(256, 3, true)) {
            sys::populate_for_writing(region, &range).unwrap();
        }
        assert_eq!(resident(&memory), [256, 257, 258]);
    }
}
