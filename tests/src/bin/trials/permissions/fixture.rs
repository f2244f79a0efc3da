//! The directories and files on which operations are tried.

use std::{
    fs,
    os::unix::fs::{chown, lchown, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, chmod, mknodat};

use super::{OWNER, SHARED_GROUP};

#[derive(Debug)]
pub(crate) struct Directory {
    pub name: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Directory {
    pub(crate) const ALL: &'static [Self] = &[
        Self { name: "root's own directory", mode: 0o755, uid: 0, gid: 0 },
        Self { name: "the owner's directory", mode: 0o755, uid: OWNER, gid: OWNER },
        Self { name: "everybody's directory", mode: 0o777, uid: 0, gid: 0 },
        Self { name: "root's sticky directory", mode: 0o1777, uid: 0, gid: 0 },
        Self { name: "the owner's sticky directory", mode: 0o1777, uid: OWNER, gid: OWNER },
        Self { name: "the group's directory", mode: 0o2770, uid: 0, gid: SHARED_GROUP },
        Self { name: "the owner's directory without search", mode: 0o644, uid: OWNER, gid: OWNER },
        Self { name: "a directory that is only searched", mode: 0o711, uid: 0, gid: 0 },
        Self { name: "the owner's read-only directory", mode: 0o555, uid: OWNER, gid: OWNER },
    ];
}

#[derive(Debug)]
pub(crate) struct Target {
    pub name: &'static str,
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    File,
    Directory,
    FullDirectory,
    Link,
    Pipe,
}

impl Target {
    pub(crate) const ALL: &'static [Self] = &[
        Self { name: "nothing", kind: Kind::None, mode: 0, uid: 0, gid: 0 },
        Self { name: "the owner's file", kind: Kind::File, mode: 0o644, uid: OWNER, gid: OWNER },
        Self { name: "the owner's closed file", kind: Kind::File, mode: 0, uid: OWNER, gid: OWNER },
        Self { name: "root's secret", kind: Kind::File, mode: 0o600, uid: 0, gid: 0 },
        Self { name: "a file for all but its owner", kind: Kind::File, mode: 0o077, uid: OWNER, gid: OWNER },
        Self { name: "the group's file", kind: Kind::File, mode: 0o660, uid: 0, gid: SHARED_GROUP },
        Self { name: "a set-id program for all", kind: Kind::File, mode: 0o6777, uid: 0, gid: SHARED_GROUP },
        Self {
            name: "the owner's set-id program",
            kind: Kind::File,
            mode: 0o6755,
            uid: OWNER,
            gid: SHARED_GROUP,
        },
        Self {
            name: "a set-gid file without execution",
            kind: Kind::File,
            mode: 0o2666,
            uid: OWNER,
            gid: OWNER,
        },
        Self { name: "the owner's directory", kind: Kind::Directory, mode: 0o755, uid: OWNER, gid: OWNER },
        Self { name: "a full directory", kind: Kind::FullDirectory, mode: 0o2777, uid: 0, gid: SHARED_GROUP },
        Self { name: "a link", kind: Kind::Link, mode: 0, uid: OWNER, gid: OWNER },
        Self { name: "a pipe", kind: Kind::Pipe, mode: 0o644, uid: OWNER, gid: OWNER },
    ];
}

/// What an operation may touch.
#[derive(Debug)]
pub(crate) struct Places {
    pub target: PathBuf,
    /// A name beside it that is not there.
    pub new: PathBuf,
    /// A name in a directory of everybody's that is not there.
    pub aside: PathBuf,
    /// A file of everybody's in that directory.
    pub other: PathBuf,
}

pub(crate) struct Fixture {
    top: PathBuf,
    directory: &'static Directory,
}

impl Fixture {
    pub(crate) fn new(root: &Path, directory: &'static Directory) -> Self {
        Self { top: root.join("fixture"), directory }
    }

    pub(crate) fn places(&self, target: &Target) -> Places {
        let within = self.top.join("within");
        Places {
            target: within.join(target.name),
            new: within.join("new"),
            aside: self.top.join("aside/new"),
            other: self.top.join("aside/other"),
        }
    }

    pub(crate) fn build(&self) -> Result<()> {
        let (within, aside) = (self.top.join("within"), self.top.join("aside"));
        fs::create_dir(&self.top)?;
        fs::create_dir(&within)?;
        fs::create_dir(&aside)?;
        own(&aside, 0, 0, 0o777)?;
        for target in Target::ALL {
            self.make(target).with_context(|| target.name)?;
        }
        self.make_other()?;
        own(&within, self.directory.uid, self.directory.gid, self.directory.mode)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.top)?)
    }

    /// What has been done to a target is undone.
    pub(crate) fn restore(&self, target: &Target) -> Result<()> {
        let places = self.places(target);
        for path in [&places.target, &places.new, &places.aside, &places.other] {
            match fs::symlink_metadata(path) {
                Ok(file) if file.is_dir() => fs::remove_dir_all(path)?,
                Ok(_) => fs::remove_file(path)?,
                Err(_) => {}
            }
        }
        self.make_other()?;
        self.make(target)
    }

    fn make_other(&self) -> Result<()> {
        let other = self.top.join("aside/other");
        fs::write(&other, "other")?;
        own(&other, OWNER, OWNER, 0o666)
    }

    fn make(&self, target: &Target) -> Result<()> {
        let path = self.places(target).target;
        match target.kind {
            Kind::None => return Ok(()),
            Kind::File => fs::write(&path, "content")?,
            Kind::Directory => fs::create_dir(&path)?,
            Kind::FullDirectory => {
                fs::create_dir(&path)?;
                fs::write(path.join("file"), "")?;
            }
            Kind::Link => {
                symlink("../aside/other", &path)?;
                return Ok(lchown(&path, Some(target.uid), Some(target.gid))?);
            }
            Kind::Pipe => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
        }
        own(&path, target.uid, target.gid, target.mode)
    }
}

/// The mode at last: a change of the owner takes set-id bits.
fn own(path: &Path, uid: u32, gid: u32, mode: u32) -> Result<()> {
    chown(path, Some(uid), Some(gid))?;
    Ok(chmod(path, Mode::from_raw_mode(mode))?)
}
