//! Reading directories.

use std::mem::MaybeUninit;

use rustix::fs::{FileType, OFlags, RawDir, RawDirEntry, SeekFrom, seek};

use super::data::KEEP_CACHE;
use super::{Outcome, Server, session::MAX_DATA_LEN};
use crate::{
    fuse::{ENTRY_LEN, Reply, Request},
    handles::Handle,
};

/// `struct fuse_dirent` without its name.
const DIRENT_LEN: usize = 24;
/// `FOPEN_CACHE_DIR`: the guest may remember the names. Where it must ask for each file behind them again after a second, it is
/// better off with [`Server::read_directory`], which tells of many at once.
const CACHE_DIRECTORY: u32 = 1 << 3;
/// The kernel's own records are read in pieces of this; what is not used of one is read again.
const PIECE_LEN: usize = 8192;

impl Server {
    pub(super) fn open_directory(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let inode = self.inodes.get(request.node)?;
        let file = inode.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let flags = if inode.is_exclusive() { KEEP_CACHE | CACHE_DIRECTORY } else { 0 };
        reply.opened(self.handles.insert(file, request.node, inode), flags);
        Ok(())
    }

    /// `plus`: each name with what a lookup of it would tell.
    pub(super) fn read_directory(&self, request: &Request<'_>, reply: &mut Reply, plus: bool) -> Outcome {
        let mut body = request.body;
        let (handle, offset, len) = (body.u64()?, body.u64()?, body.u32()?.min(MAX_DATA_LEN));
        let handle = self.handles.get(handle, request.node)?;
        let mut buffer = [MaybeUninit::uninit(); PIECE_LEN];
        let _alone = handle.read_alone();
        seek(&*handle, SeekFrom::Start(offset))?;
        let mut entries = RawDir::new(&*handle, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // What it was told of so far, the guest must hear: it is to forget it one day.
                Err(_) if reply.len() > 0 => break,
                Err(errno) => return Err(errno),
            };
            if reply.len() + record_len(&entry, plus) > len as usize {
                break;
            }
            self.tell_entry(&handle, &entry, plus, reply);
        }
        Ok(())
    }

    fn tell_entry(&self, handle: &Handle, entry: &RawDirEntry<'_>, plus: bool, reply: &mut Reply) {
        let name = entry.file_name();
        if plus {
            // The way up is not looked at, and what has just been removed is not there: without a number the guest takes the
            // name alone.
            let is_child = !matches!(name.to_bytes(), b"." | b"..");
            match is_child.then(|| self.inodes.look_up(handle.inode(), name)) {
                Some(Ok(found)) => found.tell(reply),
                Some(Err(_)) | None => reply.zeroes(ENTRY_LEN),
            }
        }
        reply.u64(handle.inode().ino(entry.ino()));
        reply.u64(entry.next_entry_cookie());
        // NAME_MAX at most.
        reply.u32(name.count_bytes() as u32);
        reply.u32(kind_number(entry.file_type()));
        reply.bytes(name.to_bytes());
        reply.zeroes(padding(name.count_bytes()));
    }
}

fn record_len(entry: &RawDirEntry<'_>, plus: bool) -> usize {
    let name = entry.file_name().count_bytes();
    DIRENT_LEN + name + padding(name) + if plus { ENTRY_LEN } else { 0 }
}

/// Records begin at multiples of 8.
fn padding(name_len: usize) -> usize {
    name_len.next_multiple_of(8) - name_len
}

/// `DT_*` of readdir(3).
fn kind_number(kind: FileType) -> u32 {
    kind.as_raw_mode() >> 12
}
