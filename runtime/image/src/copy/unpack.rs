//! An archive that a container sends becomes files.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, Seek, SeekFrom, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown,
        futimens, linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{CopyError, Destination, place::Place};
use crate::{
    limits::Budget,
    tar::{Kind, Member, Reader, Stream},
    tree::Attributes,
};

/// Segments of one sparse file.
const MAX_SEGMENTS: u64 = 1_000_000;

/// Memory for directories, whose modes and times are set at last.
const MAX_DIRECTORIES_BYTES: u64 = 256 << 20;

/// What one takes beside its name.
const DIRECTORY_BYTES: u64 = 256;

/// Permissions that nobody gets from a stranger by default: set-user-ID, set-group-ID and sticky are not among them.
const PLAIN_MODE: u32 = 0o777;

impl Destination {
    /// Unpacks what docker's rules put here. `is_content` is what was asked for as `PATH/.`. With `keeps_owners`, numbers and all
    /// mode bits are as the container has them, which takes root.
    ///
    /// # Errors
    /// After one, part of the copy may be there.
    pub fn unpack(
        &self,
        archive: impl BufRead,
        is_content: bool,
        keeps_owners: bool,
    ) -> Result<(), CopyError> {
        // How much the user's disk holds is the user's matter, and told by it.
        let mut bytes = Budget::new("bytes", u64::MAX);
        let mut reader = Reader::new(Stream(archive), &mut bytes, MAX_SEGMENTS);
        let first = reader.next()?.ok_or(CopyError::Nothing)?;
        let place = self.place(first.kind == Kind::Directory, is_content)?;
        let memory = Budget::new("bytes of directories' names", MAX_DIRECTORIES_BYTES);
        let mut unpacking = Unpacking { place, keeps_owners, directories: BTreeMap::new(), memory };
        let mut next = Some(first);
        while let Some(member) = next {
            unpacking.make(&member, &mut reader)?;
            next = reader.next()?;
        }
        unpacking.finish()
    }
}

struct Unpacking {
    place: Place,
    keeps_owners: bool,
    /// Those that were made here; what comes into them changes their times, and may not be allowed by their modes.
    directories: BTreeMap<Vec<u8>, Attributes>,
    memory: Budget,
}

type Source<'a, 'b, R> = &'a mut Reader<'b, Stream<R>>;

impl Unpacking {
    fn make<R: BufRead>(&mut self, member: &Member, reader: Source<'_, '_, R>) -> Result<(), CopyError> {
        let made = self.try_make(member, reader);
        made.map_err(|source| CopyError::Make { name: shown(&member.path), source })
    }

    fn try_make<R: BufRead>(&mut self, member: &Member, reader: Source<'_, '_, R>) -> io::Result<()> {
        let (parent, name) = self.place.member(&member.path)?;
        let Some(name) = name.map(PathBuf::from) else {
            // The place itself, which is a directory that was there or was made for it.
            return if member.kind == Kind::Directory {
                Ok(())
            } else {
                Err(io::ErrorKind::IsADirectory.into())
            };
        };
        match member.kind {
            Kind::Directory => {
                match mkdirat(&parent, &name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) if is_directory(&parent, &name)? => return Ok(()),
                    made => made?,
                }
                self.memory.spend(member.path.len() as u64 + DIRECTORY_BYTES).map_err(io::Error::other)?;
                let attributes = Attributes { xattrs: BTreeMap::new(), ..member.attributes.clone() };
                self.directories.insert(member.path.clone(), attributes);
                Ok(())
            }
            Kind::Regular => {
                make_way(&parent, &name)?;
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(&parent, &name, flags, Mode::from_raw_mode(0o600))?);
                copy_data(member, reader, &mut file)?;
                self.finish_file(&file, &member.attributes)
            }
            Kind::Symlink => {
                make_way(&parent, &name)?;
                symlinkat(member.target.as_slice(), &parent, &name)?;
                self.finish_link(&parent, &name, &member.attributes)
            }
            Kind::HardLink => {
                let (target_parent, target) = self.place.member(&member.target)?;
                let target = target.ok_or(io::ErrorKind::IsADirectory)?;
                make_way(&parent, &name)?;
                Ok(linkat(target_parent, target, parent, name, AtFlags::empty())?)
            }
            Kind::Fifo => {
                make_way(&parent, &name)?;
                let mode = self.mode(&member.attributes);
                mknodat(&parent, &name, FileType::Fifo, mode, 0)?;
                self.finish_link(&parent, &name, &member.attributes)
            }
            // A device of the container's is none of the host's.
            Kind::CharDevice | Kind::BlockDevice => Ok(()),
        }
    }

    /// The deepest first.
    fn finish(self) -> Result<(), CopyError> {
        for (path, attributes) in self.directories.iter().rev() {
            let set = || {
                let (parent, name) = self.place.member(path)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let name = name.ok_or(io::ErrorKind::InvalidInput)?;
                let directory = openat(parent, name, flags, Mode::empty())?;
                self.finish_file(&directory, attributes)
            };
            set().map_err(|source| CopyError::Make { name: shown(path), source })?;
        }
        Ok(())
    }

    /// Mode after owner: a change of owner takes set-user-ID away.
    fn finish_file(&self, file: impl AsFd, attributes: &Attributes) -> io::Result<()> {
        if self.keeps_owners {
            let (uid, gid) = owner(attributes);
            fchown(&file, Some(uid), Some(gid))?;
        }
        fchmod(&file, self.mode(attributes))?;
        Ok(futimens(&file, &times(attributes))?)
    }

    fn finish_link(&self, parent: &OwnedFd, name: &PathBuf, attributes: &Attributes) -> io::Result<()> {
        if self.keeps_owners {
            let (uid, gid) = owner(attributes);
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(utimensat(parent, name, &times(attributes), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn mode(&self, attributes: &Attributes) -> Mode {
        let mode = u32::from(attributes.mode);
        Mode::from_raw_mode(if self.keeps_owners { mode } else { mode & PLAIN_MODE })
    }
}

fn owner(attributes: &Attributes) -> (Uid, Gid) {
    (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid))
}

fn times(attributes: &Attributes) -> Timestamps {
    let (seconds, nanoseconds) = (attributes.mtime_seconds, i64::from(attributes.mtime_nanoseconds));
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}

fn is_directory(parent: &OwnedFd, name: &PathBuf) -> io::Result<bool> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// What is there gives way, unless it is a directory.
fn make_way(parent: &OwnedFd, name: &PathBuf) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Holes stay holes, and the size is tried before anything is written.
fn copy_data<R: BufRead>(member: &Member, reader: Source<'_, '_, R>, file: &mut File) -> io::Result<()> {
    let whole = |bytes| [(0, bytes)];
    let size = member.sparse.as_ref().map_or(member.stored_bytes, |map| map.size);
    file.set_len(size)?;
    let mut copy = |(at, bytes): (u64, u64)| -> io::Result<()> {
        file.seek(SeekFrom::Start(at))?;
        reader.copy_data(bytes, &mut |piece| file.write_all(piece))
    };
    match &member.sparse {
        None => whole(member.stored_bytes).into_iter().try_for_each(&mut copy),
        Some(map) => map.segments.iter().map(|segment| (segment.at, segment.bytes)).try_for_each(&mut copy),
    }
}

/// A name from outside, for a message.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
