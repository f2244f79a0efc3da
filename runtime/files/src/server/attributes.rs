//! Looking a file up, and its attributes.

use rustix::{
    fs::{
        AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, ftruncate, utimensat,
    },
    io::Errno,
};

use super::{Outcome, Server};
use crate::{
    fuse::{Body, Reply, Request},
    inodes::Inode,
};

/// `FATTR_*`: which fields of `struct fuse_setattr_in` are meant.
const MODE: u32 = 1 << 0;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const HANDLE: u32 = 1 << 6;
const ATIME_NOW: u32 = 1 << 7;
const MTIME_NOW: u32 = 1 << 8;
const KILL_SUIDGID: u32 = 1 << 11;

const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;

/// `struct fuse_setattr_in`
struct Change {
    valid: u32,
    handle: u64,
    size: u64,
    atime: (u64, u32),
    mtime: (u64, u32),
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Change {
    fn read(mut body: Body<'_>) -> Result<Self, Errno> {
        let valid = body.u32()?;
        body.skip_u32()?;
        let (handle, size) = (body.u64()?, body.u64()?);
        // lock_owner
        body.skip_u64()?;
        let (atime, mtime) = (body.u64()?, body.u64()?);
        // ctime is the host's to say.
        body.skip_u64()?;
        let (atime_ns, mtime_ns) = (body.u32()?, body.u32()?);
        body.skip_u32()?;
        let mode = body.u32()?;
        body.skip_u32()?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let (atime, mtime) = ((atime, atime_ns), (mtime, mtime_ns));
        Ok(Self { valid, handle, size, atime, mtime, mode, uid, gid })
    }

    fn has(&self, field: u32) -> bool {
        self.valid & field != 0
    }

    fn owner(&self) -> Option<(Option<Uid>, Option<Gid>)> {
        let uid = self.has(UID).then(|| Uid::from_raw(self.uid));
        let gid = self.has(GID).then(|| Gid::from_raw(self.gid));
        (uid.is_some() || gid.is_some()).then_some((uid, gid))
    }

    /// By chown(2) to nobody else, and when a file is about to be changed by one who may not leave set-user-ID bits: the guest's
    /// kernel wants them to go, and does not say so.
    fn is_of_nothing(&self) -> bool {
        !self.has(MODE | UID | GID | SIZE | ATIME | MTIME)
    }

    fn times(&self) -> Option<Timestamps> {
        let time = |(seconds, nanoseconds): (u64, u32), set, now| {
            let (tv_sec, tv_nsec) = if self.has(now) {
                (0, UTIME_NOW)
            } else if self.has(set) {
                (seconds as i64, nanoseconds.into())
            } else {
                (0, UTIME_OMIT)
            };
            Timespec { tv_sec, tv_nsec }
        };
        let any = self.has(ATIME | MTIME);
        any.then(|| Timestamps {
            last_access: time(self.atime, ATIME, ATIME_NOW),
            last_modification: time(self.mtime, MTIME, MTIME_NOW),
        })
    }
}

impl Server {
    pub(super) fn look_up(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let parent = self.inodes.get(request.node)?;
        match self.inodes.look_up(&parent, body.name()?) {
            Ok(found) => found.tell(reply),
            Err(Errno::NOENT) if parent.is_exclusive() => reply.no_entry(parent.memory()),
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// An open file is held by its inode, too: one answer serves both.
    pub(super) fn get_attributes(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        tell_attributes(&*self.inodes.get(request.node)?, reply)
    }

    pub(super) fn set_attributes(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let inode = self.changeable(request.node)?;
        let change = Change::read(request.body)?;
        if change.has(MODE) {
            let mode = Mode::from_raw_mode(change.mode & 0o7777);
            chmodat(CWD, inode.own_name(), mode, AtFlags::empty())?;
        }
        if change.is_of_nothing() {
            self.clear_set_id_bits(&inode, request)?;
        }
        if let Some((uid, gid)) = change.owner() {
            let _unprivileged = self.unprivileged_unless_root(request)?;
            chownat(&*inode, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if change.has(SIZE) {
            self.resize(&inode, request, &change)?;
        }
        if let Some(times) = change.times() {
            utimensat(&*inode, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        tell_attributes(&inode, reply)
    }

    /// Who neither owns the file nor is root may not, by chown(2); and what they are about to change, the change itself clears.
    fn clear_set_id_bits(&self, inode: &Inode, request: &Request<'_>) -> Outcome {
        if request.uid != 0 && request.uid != inode.attributes()?.stx_uid {
            return Ok(());
        }
        let _unprivileged = self.unprivileged_unless_root(request)?;
        chownat(inode, c"", None, None, AtFlags::EMPTY_PATH)
    }

    fn resize(&self, inode: &Inode, request: &Request<'_>, change: &Change) -> Outcome {
        let _unprivileged = change.has(KILL_SUIDGID).then(|| self.unprivileged(request)).transpose()?;
        if change.has(HANDLE) {
            ftruncate(&*self.handles.get(change.handle, request.node)?, change.size)
        } else {
            ftruncate(inode.open(OFlags::WRONLY | OFlags::NONBLOCK)?, change.size)
        }
    }
}

fn tell_attributes(inode: &Inode, reply: &mut Reply) -> Outcome {
    let attributes = inode.attributes()?;
    reply.attributes_alone(inode.ino(attributes.stx_ino), &attributes, inode.memory());
    Ok(())
}
