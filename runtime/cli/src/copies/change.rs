//! What is different in a private copy: the upper directory of overlayfs beside the source.

use std::{ffi::OsStr, fmt, os::fd::OwnedFd, path::PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Stat, makedev};
use serde_json::{Value, json};

use super::{
    file::{
        attributes, kind, link_target, look, mark, names, open_directory, open_file, open_top, same_content,
    },
    note::{SET_ID, note},
    record::Private,
};

/// Each level takes two descriptors. A stranger can make trees deeper than any stack.
const MAX_DEPTH: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Added,
    Changed,
    Deleted,
}

/// Why it is not to be applied just so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    ChangedSince,
    GoneSince,
    Unreadable,
}

impl Conflict {
    pub(super) fn may_be_forced(self) -> bool {
        self != Self::Unreadable
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChangedSince => "was changed on this machine since",
            Self::GoneSince => "is gone from this machine since",
            Self::Unreadable => "cannot be read",
        })
    }
}

/// One difference; those in a directory come behind the directory.
#[derive(Debug)]
pub(super) struct Change {
    /// Below the mount; empty for the mount itself.
    pub way: PathBuf,
    pub kind: Kind,
    /// What it is now, unless it is gone.
    pub what: Option<FileType>,
    pub conflict: Option<Conflict>,
    /// What who applies it ought to know.
    pub note: Option<String>,
}

impl Change {
    pub(super) fn is_directory(&self) -> bool {
        self.what == Some(FileType::Directory)
    }

    fn letter(&self) -> &'static str {
        match self.kind {
            Kind::Added => "A",
            Kind::Changed => "C",
            Kind::Deleted => "D",
        }
    }

    /// As docker's diff has it, and what is to be known behind it.
    pub(super) fn line(&self, private: &Private) -> String {
        let words: Vec<_> =
            self.conflict.map(|why| why.to_string()).into_iter().chain(self.note.clone()).collect();
        let words = if words.is_empty() { String::new() } else { format!("   ({})", words.join("; ")) };
        format!("{} {}{words}", self.letter(), private.shown(&self.way))
    }

    pub(super) fn document(&self, private: &Private) -> Value {
        json!({
            "Kind": self.letter(),
            "Path": private.shown(&self.way),
            "Source": private.source.join(&self.way).to_string_lossy(),
            "Conflict": self.conflict.map(|why| why.to_string()),
            "Note": self.note,
        })
    }
}

/// In the order of their names, a directory before what is in it.
pub(super) fn changes(private: &Private) -> Result<Vec<Change>> {
    let upper = open_top(&private.upper).context("open the private copy")?;
    let lower = open_top(&private.source).with_context(|| format!("open {}", private.source.display()))?;
    let mut scan = Scan { began: private.began, changes: Vec::new() };
    let dot = OsStr::new(".");
    if let (Some(new), Some(old)) = (look(&upper, dot)?, look(&lower, dot)?) {
        if differ(&new, &old) {
            scan.add(PathBuf::new(), Kind::Changed, Some((&upper, dot, &new)), scan.newer(&old));
        }
    }
    scan.walk(&Level { upper, lower: Some(lower), way: PathBuf::new(), depth: 0 })?;
    Ok(scan.changes)
}

struct Scan {
    began: (i64, i64),
    changes: Vec<Change>,
}

/// A directory of the copy, and the one that it lies over.
struct Level {
    upper: OwnedFd,
    lower: Option<OwnedFd>,
    way: PathBuf,
    depth: usize,
}

/// Where something is, and what it is.
type Found<'a> = (&'a OwnedFd, &'a OsStr, &'a Stat);

impl Scan {
    fn walk(&mut self, level: &Level) -> Result<()> {
        let Level { upper, lower, way, depth } = level;
        if *depth > MAX_DEPTH {
            bail!("{}: more than {MAX_DEPTH} directories in each other", way.display());
        }
        let inside = names(upper).with_context(|| format!("list {}", way.display()))?;
        for name in &inside {
            self.entry(level, name).with_context(|| format!("look at {}", way.join(name).display()))?;
        }
        // One that hides what was there.
        if let (Some(lower), Some(b"y")) = (lower, mark(upper, OsStr::new("."), "opaque").as_deref()) {
            for name in names(lower)?.difference(&inside) {
                if let Some(old) = look(lower, name)? {
                    self.deleted(lower, name, way.join(name), &old)?;
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, level: &Level, name: &OsStr) -> Result<()> {
        let Some(new) = look(&level.upper, name)? else { return Ok(()) };
        let old = match &level.lower {
            Some(lower) => look(lower, name)?.map(|old| (lower, old)),
            None => None,
        };
        let way = level.way.join(name);
        if is_whiteout(&new) {
            return old.map_or(Ok(()), |(lower, old)| self.deleted(lower, name, way, &old));
        }
        let found = (&level.upper, name, &new);
        if kind(&new) == FileType::Directory {
            return self.directory(found, old, way, level.depth);
        }
        match old {
            None => {
                // Copied up from something.
                let was_there = mark(&level.upper, name, "origin").is_some();
                self.add(way, Kind::Added, Some(found), was_there.then_some(Conflict::GoneSince));
            }
            Some((lower, old)) if !is_same(found, (lower, name, &old)) => {
                let conflict = self.newest(lower, name, &old)?;
                self.add(way, Kind::Changed, Some(found), conflict);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn directory(
        &mut self,
        found: Found<'_>,
        old: Option<(&OwnedFd, Stat)>,
        way: PathBuf,
        depth: usize,
    ) -> Result<()> {
        let (upper, name, new) = found;
        let lower = match &old {
            Some((lower, old)) if kind(old) == FileType::Directory => Some(open_directory(lower, name)?),
            _ => None,
        };
        let inside = open_directory(upper, name).ok();
        let unreadable = inside.is_none().then_some(Conflict::Unreadable);
        match &old {
            None => self.add(way.clone(), Kind::Added, Some(found), unreadable),
            Some((_, old)) if differ(new, old) || unreadable.is_some() => {
                self.add(way.clone(), Kind::Changed, Some(found), unreadable.or(self.newer(old)));
            }
            Some(_) => {}
        }
        match inside {
            Some(upper) => self.walk(&Level { upper, lower, way, depth: depth + 1 }),
            None => Ok(()),
        }
    }

    fn deleted(&mut self, lower: &OwnedFd, name: &OsStr, way: PathBuf, old: &Stat) -> Result<()> {
        let conflict = self.newest(lower, name, old)?;
        self.add(way, Kind::Deleted, None, conflict);
        Ok(())
    }

    fn add(&mut self, way: PathBuf, kind: Kind, found: Option<Found<'_>>, conflict: Option<Conflict>) {
        let what = found.map(|(_, _, new)| self::kind(new));
        let note = found.and_then(|(upper, name, new)| note(&way, new, link_target(upper, name).ok()));
        self.changes.push(Change { way, kind, what, conflict, note });
    }

    /// The kernel's time of change cannot be set back.
    fn newer(&self, old: &Stat) -> Option<Conflict> {
        let changed = (old.st_ctime, old.st_ctime_nsec as i64);
        (changed > self.began).then_some(Conflict::ChangedSince)
    }

    /// The same, also of what is in a directory.
    fn newest(&self, lower: &OwnedFd, name: &OsStr, old: &Stat) -> Result<Option<Conflict>> {
        if kind(old) != FileType::Directory {
            return Ok(self.newer(old));
        }
        let directory = open_directory(lower, name)?;
        for name in names(&directory)? {
            if let Some(inside) = look(&directory, &name)? {
                if let Some(conflict) = self.newest(&directory, &name, &inside)? {
                    return Ok(Some(conflict));
                }
            }
        }
        Ok(self.newer(old))
    }
}

/// As overlayfs notes what is gone.
fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == makedev(0, 0)
}

/// In mode or owner, as far as these are applied.
fn differ(new: &Stat, old: &Stat) -> bool {
    let ignored = if kind(new) == FileType::Directory { 0 } else { SET_ID };
    let of = |stat: &Stat| (stat.st_mode & !ignored, stat.st_uid, stat.st_gid);
    of(new) != of(old)
}

/// But for times: it may have been touched only. What cannot be read is different.
fn is_same(new: Found<'_>, old: Found<'_>) -> bool {
    if differ(new.2, old.2) || attributes(new.0, new.1) != attributes(old.0, old.1) {
        return false;
    }
    match kind(new.2) {
        FileType::Symlink => link_target(new.0, new.1).ok() == link_target(old.0, old.1).ok(),
        FileType::RegularFile => {
            let same = || {
                let (one, other) = (open_file(new.0, new.1)?, open_file(old.0, old.1)?);
                same_content(&one, &other, new.2.st_size as u64)
            };
            new.2.st_size == old.2.st_size && same().unwrap_or(false)
        }
        _ => true,
    }
}
