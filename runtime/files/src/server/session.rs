//! The beginning and the end of a mount, and the file system as a whole.

use rustix::{fs::fstatfs, io::Errno};

use super::{Outcome, Server};
use crate::fuse::{Reply, Request};

/// The protocol as of Linux 6.6. What is newer the guest does without.
const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// Linux 5.4: nobody has a guest kernel that is older.
const OLDEST_MINOR: u32 = 31;

const FUSE_ASYNC_READ: u32 = 1 << 0;
const FUSE_ATOMIC_O_TRUNC: u32 = 1 << 3;
const FUSE_BIG_WRITES: u32 = 1 << 5;
const FUSE_AUTO_INVAL_DATA: u32 = 1 << 12;
const FUSE_DO_READDIRPLUS: u32 = 1 << 13;
const FUSE_ASYNC_DIO: u32 = 1 << 15;
const FUSE_PARALLEL_DIROPS: u32 = 1 << 18;
const FUSE_MAX_PAGES: u32 = 1 << 22;
const FUSE_HANDLE_KILLPRIV_V2: u32 = 1 << 28;

/// No write-back cache: what the guest has written is the host's at once, and what the host changes is not written over.
const WANTED: u32 = FUSE_ASYNC_READ
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_BIG_WRITES
    // What the guest has cached of a file goes when the host has changed it.
    | FUSE_AUTO_INVAL_DATA
    // Always, not where the guest thinks that it pays: who lists a directory mostly looks at its files, too.
    | FUSE_DO_READDIRPLUS
    | FUSE_ASYNC_DIO
    | FUSE_PARALLEL_DIROPS
    | FUSE_MAX_PAGES
    // Without it the guest asks for `security.capability` before each write.
    | FUSE_HANDLE_KILLPRIV_V2;

/// What a request carries at most, in bytes.
pub(super) const MAX_DATA_LEN: u32 = 128 * 1024;
const MAX_PAGES: u16 = 32;
/// Requests that nobody in the guest waits for, such as reading ahead.
const MAX_BACKGROUND: u16 = 64;
const CONGESTION: u16 = 48;

impl Server {
    /// `struct fuse_init_in` and `fuse_init_out`
    pub(super) fn init(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (major, minor) = (body.u32()?, body.u32()?);
        if major != MAJOR || minor < OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let read_ahead = body.u32()?;
        let offered = body.u32()?;
        self.destroy()?;
        reply.u32(MAJOR);
        reply.u32(MINOR);
        reply.u32(read_ahead.min(MAX_DATA_LEN));
        reply.u32(offered & WANTED);
        reply.u16(MAX_BACKGROUND);
        reply.u16(CONGESTION);
        reply.u32(MAX_DATA_LEN);
        // Times are in nanoseconds.
        reply.u32(1);
        reply.u16(MAX_PAGES);
        reply.zeroes(2 + 4 + 4 + 6 * 4);
        Ok(())
    }

    pub(super) fn destroy(&self) -> Outcome {
        self.handles.clear();
        self.inodes.clear();
        Ok(())
    }

    /// `struct fuse_kstatfs`
    pub(super) fn statfs(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let stat = fstatfs(&*self.inodes.get(request.node)?)?;
        for count in [stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree] {
            reply.u64(count);
        }
        for length in [stat.f_bsize, stat.f_namelen, stat.f_frsize] {
            reply.u32(u32::try_from(length).unwrap_or(0));
        }
        reply.zeroes(4 + 6 * 4);
        Ok(())
    }

    pub(super) fn forget(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        self.inodes.forget(request.node, body.u64()?);
        Ok(())
    }

    /// `struct fuse_batch_forget_in`
    pub(super) fn forget_many(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let count = body.u32()?;
        body.skip_u32()?;
        for _ in 0..count {
            let node = body.u64()?;
            self.inodes.forget(node, body.u64()?);
        }
        Ok(())
    }
}
