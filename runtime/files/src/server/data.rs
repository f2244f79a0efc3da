//! The content of files.

use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync, seek},
    io::{Errno, IoSlice, ReadWriteFlags, dup, pread, pwrite, pwritev2},
};

use super::{Outcome, Server, session::MAX_DATA_LEN};
use crate::{
    fuse::{Reply, Request},
    handles::Handle,
    inodes::Inode,
};

/// `FUSE_OPEN_KILL_SUIDGID`
pub(super) const KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_WRITE_CACHE`: from the guest's page cache, at the place that is said.
const WRITE_CACHE: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID`
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FOPEN_KEEP_CACHE`
pub(super) const KEEP_CACHE: u32 = 1 << 1;
/// `FOPEN_NOFLUSH`
const OPENED_WITHOUT_FLUSH: u32 = 1 << 5;
/// `FUSE_FSYNC_FDATASYNC`
const DATA_ONLY: u32 = 1 << 0;

/// A copy ends after this much, so that nobody waits for a long one; the guest asks for the rest.
const MAX_COPY_LEN: usize = 16 << 20;

/// How a file is opened here. What is left out the guest does by itself: appending at each write, and going around its page cache
/// (O_DIRECT), which must not go around the host's.
pub(super) fn access(flags: u32) -> OFlags {
    let kept = OFlags::RWMODE | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC;
    OFlags::from_bits_truncate(flags) & kept | OFlags::NONBLOCK
}

/// What the guest is told of an open file: nobody needs to hear of its closing when nothing was written, and what was read of it
/// before is still true when nobody else writes to it.
pub(super) fn open_flags(inode: &Inode, access: OFlags) -> u32 {
    let flush = if access & OFlags::RWMODE == OFlags::RDONLY { OPENED_WITHOUT_FLUSH } else { 0 };
    flush | if inode.is_exclusive() { KEEP_CACHE } else { 0 }
}

impl Server {
    /// `struct fuse_open_in`
    pub(super) fn open(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let access = access(body.u32()?);
        let kills = body.u32()? & KILL_SUIDGID != 0;
        let inode = self.inodes.get(request.node)?;
        let unprivileged = kills.then(|| self.unprivileged(request)).transpose()?;
        let file = inode.open(access)?;
        drop(unprivileged);
        let flags = open_flags(&inode, access);
        reply.opened(self.handles.insert(file, request.node, inode), flags);
        Ok(())
    }

    /// `struct fuse_release_in`
    pub(super) fn close(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        self.handles.remove(body.u64()?, request.node)
    }

    /// `struct fuse_read_in`
    pub(super) fn read(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (handle, offset, len) = (body.u64()?, body.u64()?, body.u32()?);
        if len > MAX_DATA_LEN {
            return Err(Errno::INVAL);
        }
        let handle = self.handles.get(handle, request.node)?;
        reply.fill(len as usize, |buffer| pread(&*handle, buffer, offset))
    }

    /// `struct fuse_write_in`
    pub(super) fn write(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (handle, offset) = (body.u64()?, body.u64()?);
        let (len, how) = (body.u32()?, body.u32()?);
        // lock_owner
        body.skip_u64()?;
        let flags = OFlags::from_bits_retain(body.u32()?);
        body.skip_u32()?;
        let data = body.data(len)?;
        let handle = self.handles.get(handle, request.node)?;
        let kills = how & WRITE_KILL_SUIDGID != 0;
        let _unprivileged = kills.then(|| self.unprivileged(request)).transpose()?;
        let appends = flags.contains(OFlags::APPEND) && how & WRITE_CACHE == 0;
        let written = if appends { append(&handle, data)? } else { pwrite(&*handle, data, offset)? };
        // At most MAX_MESSAGE_LEN.
        reply.u32(written as u32);
        reply.u32(0);
        Ok(())
    }

    /// What close(2) says in the guest is what it says here, where a network file system may have a word.
    pub(super) fn flush(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        dup(&*self.handles.get(body.u64()?, request.node)?).map(drop)
    }

    /// `struct fuse_fsync_in`
    pub(super) fn sync(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let handle = self.handles.get(body.u64()?, request.node)?;
        if body.u32()? & DATA_ONLY != 0 { fdatasync(&*handle) } else { fsync(&*handle) }
    }

    /// `struct fuse_fallocate_in`
    pub(super) fn allocate(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let handle = self.handles.get(body.u64()?, request.node)?;
        let (offset, len, mode) = (body.u64()?, body.u64()?, body.u32()?);
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        let _unprivileged = self.unprivileged_unless_root(request)?;
        fallocate(&*handle, mode, offset, len)
    }

    /// `struct fuse_lseek_in`: only for data and holes, the guest knows the rest.
    pub(super) fn seek(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        let mut body = request.body;
        let handle = self.handles.get(body.u64()?, request.node)?;
        let offset = body.u64()?;
        let position = match body.u32()? {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        reply.u64(seek(&*handle, position)?);
        Ok(())
    }

    /// `struct fuse_copy_file_range_in`
    pub(super) fn copy(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let from = self.handles.get(body.u64()?, request.node)?;
        let mut offset = body.u64()?;
        let node = body.u64()?;
        let to = self.handles.get(body.u64()?, node)?;
        let mut to_offset = body.u64()?;
        let len = usize::try_from(body.u64()?).unwrap_or(usize::MAX).min(MAX_COPY_LEN);
        let _unprivileged = self.unprivileged_unless_root(request)?;
        let copied = copy_file_range(&*from, Some(&mut offset), &*to, Some(&mut to_offset), len)?;
        // At most MAX_COPY_LEN.
        reply.u32(copied as u32);
        reply.u32(0);
        Ok(())
    }
}

/// At the file's end as it is now, whatever the guest believes: the host may have appended, too.
fn append(handle: &Handle, data: &[u8]) -> Result<usize, Errno> {
    pwritev2(handle, &[IoSlice::new(data)], 0, ReadWriteFlags::APPEND)
}
