//! What is tried on each file.

use std::{fs::File, io::Write, os::fd::OwnedFd};

use rustix::{
    fs::{
        Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps,
        Uid, XattrFlags, access, chmodat, chownat, copy_file_range, fallocate, ftruncate, linkat, lsetxattr,
        lstat, mkdir, mknodat, open, readlink, rename, renameat_with, rmdir, stat, symlink, unlink,
        utimensat,
    },
    io::{Errno, Result},
};

use super::{OWNER, SHARED_GROUP, fixture::Places};
use crate::{
    listing::{attributes, names},
    sys,
};

const UTIME_NOW: i64 = 0x3fff_ffff;

pub(crate) struct Operation {
    pub name: &'static str,
    /// Where it succeeds, something is different.
    pub changes: bool,
    pub perform: fn(&Places) -> Result<String>,
}

const fn look(name: &'static str, perform: fn(&Places) -> Result<String>) -> Operation {
    Operation { name, changes: false, perform }
}

const fn change(name: &'static str, perform: fn(&Places) -> Result<String>) -> Operation {
    Operation { name, changes: true, perform }
}

impl Operation {
    pub(crate) const ALL: &'static [Self] = &[
        look("stat", |at| stat(&at.target).map(|stat| attributes(&stat))),
        look("lstat", |at| lstat(&at.target).map(|stat| attributes(&stat))),
        look("readlink", |at| readlink(&at.target, Vec::new()).map(|target| format!("{target:?}"))),
        look("listing", |at| names(&at.target).map(|names| format!("{names:?}"))),
        look("reading access", |at| done(access(&at.target, Access::READ_OK))),
        look("writing access", |at| done(access(&at.target, Access::WRITE_OK))),
        look("executing access", |at| done(access(&at.target, Access::EXEC_OK))),
        look("opening to read", |at| opened(at, OFlags::RDONLY).map(|_| String::new())),
        look("opening to write", |at| opened(at, OFlags::WRONLY).map(|_| String::new())),
        look("opening without following", |at| {
            opened(at, OFlags::RDONLY | OFlags::NOFOLLOW).map(|_| String::new())
        }),
        change("writing", |at| written(&opened(at, OFlags::WRONLY)?.into())),
        change("appending", |at| written(&opened(at, OFlags::WRONLY | OFlags::APPEND)?.into())),
        change("emptying", |at| opened(at, OFlags::WRONLY | OFlags::TRUNC).map(|_| String::new())),
        change("creating", |at| opened(at, OFlags::WRONLY | OFlags::CREATE).map(|_| String::new())),
        change("creating anew", |at| {
            opened(at, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL).map(|_| String::new())
        }),
        change("truncating by its path", |at| done(sys::truncate(&at.target, 3))),
        change("truncating", |at| done(ftruncate(opened(at, OFlags::WRONLY)?, 3))),
        change("allocating", |at| {
            done(fallocate(opened(at, OFlags::WRONLY)?, FallocateFlags::empty(), 0, 10_000))
        }),
        change("copying into", |at| {
            let from = open(&at.other, OFlags::RDONLY, Mode::empty())?;
            copy_file_range(from, None, opened(at, OFlags::WRONLY)?, None, 3).map(|len| len.to_string())
        }),
        change("making a directory", |at| done(mkdir(&at.target, Mode::from_raw_mode(0o2775)))),
        change("making a pipe", |at| {
            done(mknodat(CWD, &at.target, FileType::Fifo, Mode::from_raw_mode(0o640), 0))
        }),
        change("making a set-id file", |at| {
            done(mknodat(CWD, &at.target, FileType::RegularFile, Mode::from_raw_mode(0o6775), 0))
        }),
        change("making a symlink", |at| done(symlink("nowhere", &at.target))),
        change("unlinking", |at| done(unlink(&at.target))),
        change("removing a directory", |at| done(rmdir(&at.target))),
        change("linking beside", |at| done(linkat(CWD, &at.target, CWD, &at.new, AtFlags::empty()))),
        change("linking from aside", |at| done(linkat(CWD, &at.other, CWD, &at.target, AtFlags::empty()))),
        change("renaming beside", |at| done(rename(&at.target, &at.new))),
        change("renaming aside", |at| done(rename(&at.target, &at.aside))),
        change("renaming over", |at| done(rename(&at.other, &at.target))),
        change("renaming over nothing only", |at| {
            done(renameat_with(CWD, &at.other, CWD, &at.target, RenameFlags::NOREPLACE))
        }),
        change("exchanging", |at| {
            done(renameat_with(CWD, &at.other, CWD, &at.target, RenameFlags::EXCHANGE))
        }),
        change("changing the mode", |at| moded(at, 0o640)),
        change("setting set-id bits", |at| moded(at, 0o6755)),
        change("giving away", |at| owned(at, Some(3000), None)),
        change("giving to the owner", |at| owned(at, Some(OWNER), Some(OWNER))),
        change("giving to the group", |at| owned(at, None, Some(SHARED_GROUP))),
        change("setting times to now", |at| timed(at, UTIME_NOW)),
        change("setting times", |at| timed(at, 5)),
        change("setting an attribute", |at| {
            done(lsetxattr(&at.target, "user.x", b"value", XattrFlags::empty()))
        }),
    ];
}

fn done(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

fn opened(at: &Places, flags: OFlags) -> Result<OwnedFd> {
    open(&at.target, flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o664))
}

fn written(mut file: &File) -> Result<String> {
    let written = file.write(b"written").map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    written.map(|len| len.to_string())
}

fn moded(at: &Places, mode: u32) -> Result<String> {
    done(chmodat(CWD, &at.target, Mode::from_raw_mode(mode), AtFlags::empty()))
}

fn owned(at: &Places, uid: Option<u32>, gid: Option<u32>) -> Result<String> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    done(chownat(CWD, &at.target, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
}

fn timed(at: &Places, nanoseconds: i64) -> Result<String> {
    let time = || Timespec { tv_sec: 1000, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time(), last_modification: time() };
    done(utimensat(CWD, &at.target, &times, AtFlags::empty()))
}
