//! Which pages of a template a machine touches on its way to a running program: the first one that goes on from it shows it, and all others
//! find these pages in their places. Whether that is right is no question of safety, only of time.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use securectr_vmm::spec::{Expected, PAGE_LEN, PageRun};

use super::manifest::MACHINE;

/// In a template.
const NAME: &str = "touched.json";

/// A machine that has touched more, or is older, has done more than to start: 16 MiB.
const MOST_PAGES: u32 = 4 << 10;
const MOST_AGE: Duration = Duration::from_secs(5);

/// As many fit a VMM's spec.
const MOST_RUNS: usize = 3000;

/// Of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst): the page is there; it is one of the file's.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;

/// What the first machine from a template shows.
#[derive(Debug)]
pub(crate) struct Observation {
    template: PathBuf,
    since: Instant,
}

/// What was shown; with nothing, the one who asks is to show it.
pub(super) fn expected(template: &Path) -> (Expected, Option<Observation>) {
    let read = fs::read(template.join(NAME));
    let runs = read.ok().and_then(|json| serde_json::from_slice::<Vec<PageRun>>(&json).ok());
    match runs.filter(|runs| runs.len() <= MOST_RUNS) {
        Some(runs) => (Expected::Pages(runs), None),
        None => {
            (Expected::Unknown, Some(Observation { template: template.to_owned(), since: Instant::now() }))
        }
    }
}

impl Observation {
    /// Notes what the machine has touched so far, if that is not more than a start takes. Where that cannot be seen, and without root it
    /// cannot, nothing is expected of others.
    pub(crate) fn note(&self, vmm_pid: i32) -> io::Result<()> {
        if self.since.elapsed() > MOST_AGE {
            return Ok(());
        }
        let runs = self.seen(vmm_pid).unwrap_or_default();
        let count: u32 = runs.iter().map(|PageRun(_, count, _)| count).sum();
        if count > MOST_PAGES || runs.len() > MOST_RUNS {
            return Ok(());
        }
        // Whole or not there, whoever else does it now.
        let file = tempfile::NamedTempFile::new_in(&self.template)?;
        serde_json::to_writer(&file, &runs)?;
        file.persist(self.template.join(NAME))?;
        Ok(())
    }

    fn seen(&self, vmm_pid: i32) -> io::Result<Vec<PageRun>> {
        let machine = fs::metadata(self.template.join(MACHINE))?.ino();
        let pagemap = File::open(format!("/proc/{vmm_pid}/pagemap"))?;
        let mut pages = Vec::new();
        for mapping in mappings(vmm_pid, machine)? {
            touched(&pagemap, &mapping, &mut pages)?;
        }
        Ok(runs(pages))
    }
}

/// A part of a file in a process.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    /// In the file, in bytes.
    offset: u64,
}

/// Where a process has a file, those that follow each other as one: a VMM maps each page by itself.
fn mappings(pid: i32, inode: u64) -> io::Result<Vec<Mapping>> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in BufReader::new(File::open(format!("/proc/{pid}/maps"))?).lines() {
        let Some(next) = mapping(&line?, inode) else { continue };
        match all.last_mut() {
            Some(last) if last.addresses.end == next.addresses.start => {
                last.addresses.end = next.addresses.end
            }
            _ => all.push(next),
        }
    }
    Ok(all)
}

/// As `7f0a40000000-7f0a40001000 rw-p 00fd5000 00:1c 17 /path` (proc_pid_maps(5)).
fn mapping(line: &str, wanted: u64) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (addresses, _, offset, _, inode) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = addresses.split_once('-')?;
    let is_it = inode.parse() == Ok(wanted);
    is_it.then_some(Mapping { addresses: hex(start)?..hex(end)?, offset: hex(offset)? })
}

/// Adds the pages of the file that are there, and whether they were written.
fn touched(pagemap: &File, mapping: &Mapping, pages: &mut Vec<(u32, bool)>) -> io::Result<()> {
    let count = (mapping.addresses.end - mapping.addresses.start) / PAGE_LEN;
    let mut entries = vec![0; (count * 8) as usize];
    pagemap.read_exact_at(&mut entries, mapping.addresses.start / PAGE_LEN * 8)?;
    let first = mapping.offset / PAGE_LEN;
    for (page, entry) in (first..).zip(entries.chunks_exact(8)) {
        let entry = entry.try_into().map_or(0, u64::from_le_bytes);
        if entry & PRESENT != 0 {
            // A machine has fewer pages than a u32 can count: 2 TiB at most.
            pages.push((page as u32, entry & OF_FILE == 0));
        }
    }
    Ok(())
}

fn runs(mut pages: Vec<(u32, bool)>) -> Vec<PageRun> {
    pages.sort_unstable();
    let mut runs: Vec<PageRun> = Vec::new();
    for (page, is_written) in pages {
        match runs.last_mut() {
            Some(PageRun(first, count, written)) if *first + *count == page && *written == is_written => {
                *count += 1;
            }
            _ => runs.push(PageRun(page, 1, is_written)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_follow_each_other_are_one_run_as_long_as_they_are_alike() {
        let pages = vec![(9, true), (3, false), (4, false), (5, true), (6, true), (8, true)];
        let found = runs(pages);
        assert_eq!(found, [PageRun(3, 2, false), PageRun(5, 2, true), PageRun(8, 2, true)]);
    }

    #[test]
    fn a_mapping_is_known_by_its_file() {
        let line = "7f0a40000000-7f0a40001000 rw-p 00fd5000 00:1c 17  /store/templates/0/memory";
        let found = Mapping { addresses: 0x7f0a_4000_0000..0x7f0a_4000_1000, offset: 0xfd_5000 };
        assert_eq!(mapping(line, 17), Some(found));
        assert_eq!(mapping(line, 18), None);
        assert_eq!(mapping("7ffd-7fff rw-p 0 00:00 0 [stack]", 17), None);
        assert_eq!(mapping("", 17), None);
    }

    #[test]
    fn what_was_noted_is_expected_and_anything_else_is_noted_anew() {
        let template = tempfile::tempdir().unwrap();
        let path = template.path().join(NAME);
        assert!(matches!(expected(template.path()), (Expected::Unknown, Some(_))));
        fs::write(&path, "[[3,2,false]]").unwrap();
        let (Expected::Pages(pages), None) = expected(template.path()) else { panic!("it was not read") };
        assert_eq!(pages, [PageRun(3, 2, false)]);
        fs::write(&path, "[[3,2,").unwrap();
        assert!(matches!(expected(template.path()), (Expected::Unknown, Some(_))));
    }
}
