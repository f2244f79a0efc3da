//! Memory that is saved to a file, and that goes on from one. What the file has is mapped, so that all guests that go on from it share
//! what they do not write. Its holes are memory as any guest's: a page of a hole would cost twice, once for the file.
//!
//! What the guest will touch soon is brought to it beforehand, in few calls. Otherwise each page costs an exit, and one that is read first
//! and written then costs three: the host takes the first mapping back when it makes the copy.

use std::{fs::File, io, iter, ops::Range};

use kvm_ioctls::VcpuFd;
use securectr_vmm::spec::{Expected, PAGE_LEN, PageRun};
use vm_memory::{
    Address, Bytes, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

use super::{GuestMemory, MemoryError, Used, sys};

/// A process may have 65,530 mappings (vm.max_map_count); each page that is mapped alone splits one in two.
const MOST_ALONE: usize = 30_000;

/// In what memory is looked at for zeroes, in bytes: what is written of a piece is one range, and so one mapping of each guest.
const PIECE_LEN: usize = 64 << 10;

/// From one word of a page that is looked at first to the next, in bytes.
const SAMPLE_STEP: usize = 512;

/// Writes the memory to the beginning of an empty file, with holes for most of what is all zeroes.
pub(crate) fn save(memory: &GuestMemory, used: &Used, file: &File) -> io::Result<()> {
    for (region, start) in in_file(memory) {
        for at in (0..region.size()).step_by(PIECE_LEN) {
            let piece = at..(at + PIECE_LEN).min(region.size());
            let place = start + piece.start as u64..start + piece.end as u64;
            if used.has(&place, region.as_ptr() as u64 + at as u64) {
                let pages = not_zero(region, piece);
                sys::write_out(region, &pages, file, start + pages.start as u64)?;
            }
        }
    }
    Ok(())
}

/// From the first page that is not all zeroes to the last.
fn not_zero(region: &GuestRegionMmap, piece: Range<usize>) -> Range<usize> {
    let mut pages = piece.step_by(PAGE_LEN as usize);
    let is_used = |&page: &usize| !is_zero(region, page);
    let Some(first) = pages.find(is_used) else { return 0..0 };
    let last = pages.rfind(is_used).unwrap_or(first);
    first..(last + PAGE_LEN as usize).min(region.size())
}

/// Of most pages that are not, few words show it.
fn is_zero(region: &GuestRegionMmap, page: usize) -> bool {
    let address = |offset: usize| MemoryRegionAddress((page + offset) as u64);
    let mut samples = (0..PAGE_LEN as usize).step_by(SAMPLE_STEP);
    let mut bytes = [0; PAGE_LEN as usize];
    samples.all(|offset| region.read_obj::<u64>(address(offset)).is_ok_and(|word| word == 0))
        && region.read_slice(&mut bytes, address(0)).is_ok()
        && bytes.iter().all(|&byte| byte == 0)
}

/// Maps what the file has over the memory, which is as long as what was saved. Answers with the places, as they are in the file.
pub(crate) fn lay(
    memory: &GuestMemory,
    file: &File,
    expected: &Expected,
) -> Result<Vec<Range<u64>>, MemoryError> {
    let laid = lay_all(memory, file).map_err(MemoryError::Saved)?;
    if *expected == Expected::Unknown {
        map_alone(memory, file);
    }
    for region in memory.iter() {
        sys::keep_out_of_core_dumps(region).map_err(MemoryError::CoreDump)?;
    }
    Ok(laid)
}

fn lay_all(memory: &GuestMemory, file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut laid = Vec::new();
    for (region, start) in in_file(memory) {
        for range in data(file, start, region) {
            sys::lay_file(region, &range, file, start + range.start as u64)?;
            laid.push(start + range.start as u64..start + range.end as u64);
        }
    }
    Ok(laid)
}

/// The regions lie behind each other in the file: each one's start there, in bytes.
pub(super) fn in_file(memory: &GuestMemory) -> impl Iterator<Item = (&GuestRegionMmap, u64)> {
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
fn map_alone(memory: &GuestMemory, file: &File) {
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
mod tests;
