//! A directory in which changes are made, and what each answers.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
        chmodat, chownat, fstat, linkat, lremovexattr, lsetxattr, lstat, makedev, mkdir, mknodat, open,
        readlink, renameat_with, rmdir, stat, symlink, unlink, utimensat,
    },
    io::{Errno, Result},
};

use super::change::{Change, Name, NodeKind, RenameHow, XattrHow};
use crate::{
    listing::{attributes, digest, names},
    sys,
};

/// By what a time is left as it is (utimensat(2)).
const UTIME_OMIT: i64 = 0x3fff_fffe;
const UTIME_NOW: i64 = 0x3fff_ffff;

pub(crate) struct Place {
    top: PathBuf,
    held: BTreeMap<usize, File>,
}

impl Place {
    pub(crate) fn new(top: &Path) -> Self {
        Self { top: top.to_owned(), held: BTreeMap::new() }
    }

    fn at(&self, name: &Name) -> PathBuf {
        self.top.join(name)
    }

    /// What it answers: words, or an error.
    pub(crate) fn perform(&mut self, change: &Change) -> Result<String> {
        match change {
            Change::Hold { .. }
            | Change::HoldWithoutName { .. }
            | Change::NameHeld { .. }
            | Change::AppendToHeld { .. }
            | Change::LookAtHeld { .. } => return self.with_held(change),
            Change::List { .. } | Change::Read { .. } | Change::ReadLink { .. } | Change::Look { .. } => {
                return self.look(change);
            }
            Change::SetMode { .. }
            | Change::SetOwner { .. }
            | Change::SetTimes { .. }
            | Change::SetXattr { .. }
            | Change::RemoveXattr { .. } => self.change_attributes(change)?,
            Change::Create { .. } | Change::Write { .. } | Change::Truncate { .. } => {
                return self.change_content(change);
            }
            _ => self.change_names(change)?,
        }
        Ok(String::new())
    }

    fn change_content(&self, change: &Change) -> Result<String> {
        let file: File = match change {
            Change::Create { path, mode, exclusive } => {
                let more = if *exclusive { OFlags::EXCL } else { OFlags::empty() };
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | more;
                open(self.at(path), flags, Mode::from_raw_mode(*mode))?.into()
            }
            Change::Write { path, offset, len, empties } => {
                let more = if *empties { OFlags::TRUNC } else { OFlags::empty() };
                let file: File =
                    open(self.at(path), OFlags::WRONLY | OFlags::NONBLOCK | more, Mode::empty())?.into();
                file.write_all_at(&vec![*len as u8; *len], *offset).map_err(|error| errno(&error))?;
                file
            }
            Change::Truncate { path, len } => {
                sys::truncate(&self.at(path), *len)?;
                return stat(self.at(path)).map(|stat| attributes(&stat));
            }
            _ => return Err(Errno::INVAL),
        };
        Ok(attributes(&fstat(file)?))
    }

    fn change_names(&self, change: &Change) -> Result<()> {
        match change {
            Change::MakeDirectory { path, mode } => mkdir(self.at(path), Mode::from_raw_mode(*mode)),
            Change::RemoveDirectory { path } => rmdir(self.at(path)),
            Change::Unlink { path } => unlink(self.at(path)),
            Change::Symlink { target, path } => symlink(target, self.at(path)),
            Change::Link { from, to, follow } => {
                let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                linkat(CWD, self.at(from), CWD, self.at(to), flags)
            }
            Change::Rename { from, to, how } => {
                let flags = match how {
                    RenameHow::Over => RenameFlags::empty(),
                    RenameHow::NoReplace => RenameFlags::NOREPLACE,
                    RenameHow::Exchange => RenameFlags::EXCHANGE,
                };
                renameat_with(CWD, self.at(from), CWD, self.at(to), flags)
            }
            Change::MakeNode { path, kind, mode } => {
                let kind = match kind {
                    NodeKind::File => FileType::RegularFile,
                    NodeKind::Pipe => FileType::Fifo,
                    NodeKind::Socket => FileType::Socket,
                    NodeKind::Whiteout => FileType::CharacterDevice,
                };
                mknodat(CWD, self.at(path), kind, Mode::from_raw_mode(*mode), makedev(0, 0))
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn change_attributes(&self, change: &Change) -> Result<()> {
        match change {
            Change::SetMode { path, mode } => {
                chmodat(CWD, self.at(path), Mode::from_raw_mode(*mode), AtFlags::empty())
            }
            Change::SetOwner { path, uid, gid, follow } => {
                let [uid, gid] = [uid, gid].map(|id| *id);
                chownat(
                    CWD,
                    self.at(path),
                    uid.map(Uid::from_raw),
                    gid.map(Gid::from_raw),
                    following(*follow),
                )
            }
            Change::SetTimes { path, modified, follow } => {
                let (tv_sec, tv_nsec) = modified.unwrap_or((0, UTIME_NOW));
                let times = Timestamps {
                    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                    last_modification: Timespec { tv_sec, tv_nsec },
                };
                utimensat(CWD, self.at(path), &times, following(*follow))
            }
            Change::SetXattr { path, name, len, how } => {
                let flags = match how {
                    XattrHow::Either => XattrFlags::empty(),
                    XattrHow::Create => XattrFlags::CREATE,
                    XattrHow::Replace => XattrFlags::REPLACE,
                };
                lsetxattr(self.at(path), *name, &vec![7; *len], flags)
            }
            Change::RemoveXattr { path, name } => lremovexattr(self.at(path), *name),
            _ => Err(Errno::INVAL),
        }
    }

    fn look(&self, change: &Change) -> Result<String> {
        match change {
            Change::List { path } => names(&self.at(path)).map(|names| format!("{names:?}")),
            Change::Read { path } => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let file: File = open(self.at(path), flags, Mode::empty())?.into();
                content(&file)
            }
            Change::ReadLink { path } => {
                readlink(self.at(path), Vec::new()).map(|target| format!("{target:?}"))
            }
            Change::Look { path, follow: true } => stat(self.at(path)).map(|stat| attributes(&stat)),
            Change::Look { path, follow: false } => lstat(self.at(path)).map(|stat| attributes(&stat)),
            _ => Err(Errno::INVAL),
        }
    }

    fn with_held(&mut self, change: &Change) -> Result<String> {
        match change {
            Change::Hold { slot, path } => {
                let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let file = open(self.at(path), flags, Mode::empty())?;
                let is_regular = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
                if is_regular {
                    self.held.insert(*slot, file.into());
                }
                Ok(format!("{is_regular}"))
            }
            Change::HoldWithoutName { slot, directory, mode } => {
                let flags = OFlags::RDWR | OFlags::APPEND | OFlags::TMPFILE;
                let file: File = open(self.at(directory), flags, Mode::from_raw_mode(*mode))?.into();
                let said = attributes(&fstat(&file)?);
                self.held.insert(*slot, file);
                Ok(said)
            }
            Change::NameHeld { slot, path } => {
                let file = self.held.get(slot).ok_or(Errno::BADF)?;
                let own_name = format!("/proc/self/fd/{}", file.as_raw_fd());
                linkat(CWD, own_name, CWD, self.at(path), AtFlags::SYMLINK_FOLLOW)?;
                Ok(attributes(&fstat(file)?))
            }
            Change::AppendToHeld { slot, len } => {
                let mut file = self.held.get(slot).ok_or(Errno::BADF)?;
                file.write_all(&vec![*len as u8; *len]).map_err(|error| errno(&error))?;
                Ok(attributes(&fstat(file)?))
            }
            Change::LookAtHeld { slot } => {
                let file = self.held.get(slot).ok_or(Errno::BADF)?;
                Ok(format!("{} {}", attributes(&fstat(file)?), content(file)?))
            }
            _ => Err(Errno::INVAL),
        }
    }
}

/// No more than is ever written.
fn content(file: &File) -> Result<String> {
    let mut bytes = vec![0; 1 << 18];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64).map_err(|error| errno(&error))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(format!("{:x}", digest(bytes.get(..filled).unwrap_or_default())))
}

fn following(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
