//! What each request means. The guest's kernel has checked whether its user may (it mounts with `default_permissions`): here it is
//! done, by a server that may do all that a file server can.
//!
//! What is not here is ENOSYS, which the guest's kernel knows how to live with: it keeps locks to itself, and asks no more.

mod attributes;
mod data;
mod directories;
mod names;
mod session;
mod xattrs;

use std::{ffi::CString, sync::Arc};

use rustix::io::Errno;
use securectr_files::Owners;

use crate::{
    fuse::{Reply, Request, opcode},
    handles::Handles,
    identity::{Caller, Unprivileged},
    inodes::{Inode, Inodes, ROOT},
};

pub(crate) struct Server {
    inodes: Inodes,
    handles: Handles,
    owners: Owners,
}

type Outcome = Result<(), Errno>;

impl Server {
    /// The jail is shut: the root is that of the shares.
    pub(crate) fn new(owners: Owners) -> Result<Self, std::io::Error> {
        Ok(Self { inodes: Inodes::new()?, handles: Handles::default(), owners })
    }

    /// Does what is asked; the bytes to answer with, if it is a request that is answered.
    pub(crate) fn answer<'r>(&self, request: &Request<'_>, reply: &'r mut Reply) -> Option<&'r [u8]> {
        match request.opcode {
            opcode::FORGET => {
                let _ = self.forget(request);
                return None;
            }
            opcode::BATCH_FORGET => {
                let _ = self.forget_many(request);
                return None;
            }
            // Nothing here waits for anything but a disk.
            opcode::INTERRUPT => return None,
            _ => {}
        }
        reply.clear();
        Some(match self.perform(request, reply) {
            Ok(()) => reply.succeed(request.unique),
            Err(errno) => reply.fail(request.unique, errno),
        })
    }

    fn perform(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        match request.opcode {
            opcode::INIT => self.init(request, reply),
            opcode::DESTROY => self.destroy(),
            opcode::STATFS => self.statfs(request, reply),
            opcode::LOOKUP => self.look_up(request, reply),
            opcode::GETATTR => self.get_attributes(request, reply),
            opcode::SETATTR => self.set_attributes(request, reply),
            opcode::READLINK => self.read_link(request, reply),
            opcode::SYMLINK => self.make_symlink(request, reply),
            opcode::MKNOD => self.make_node(request, reply),
            opcode::MKDIR => self.make_directory(request, reply),
            opcode::LINK => self.link(request, reply),
            opcode::UNLINK => self.unlink(request),
            opcode::RMDIR => self.remove_directory(request),
            opcode::RENAME => self.rename(request),
            opcode::RENAME2 => self.rename_with_flags(request),
            opcode::CREATE => self.create(request, reply),
            opcode::TMPFILE => self.create_without_name(request, reply),
            opcode::OPEN => self.open(request, reply),
            opcode::READ => self.read(request, reply),
            opcode::WRITE => self.write(request, reply),
            opcode::FLUSH => self.flush(request),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(request),
            opcode::RELEASE | opcode::RELEASEDIR => self.close(request),
            opcode::FALLOCATE => self.allocate(request),
            opcode::LSEEK => self.seek(request, reply),
            opcode::COPY_FILE_RANGE => self.copy(request, reply),
            opcode::OPENDIR => self.open_directory(request, reply),
            opcode::READDIR => self.read_directory(request, reply, false),
            opcode::READDIRPLUS => self.read_directory(request, reply, true),
            opcode::GETXATTR => self.get_xattr(request, reply),
            opcode::LISTXATTR => self.list_xattrs(request, reply),
            opcode::SETXATTR => self.set_xattr(request),
            opcode::REMOVEXATTR => self.remove_xattr(request),
            _ => Err(Errno::NOSYS),
        }
    }

    /// A share to come is changed by the guest alone.
    pub(crate) fn trust(&self, share: &str) {
        if let Ok(share) = CString::new(share) {
            self.inodes.trust(share);
        }
    }

    /// Lets go of all that belongs to a share.
    pub(crate) fn release(&self, share: &str) {
        if let Ok(share) = CString::new(share) {
            self.handles.release(&share);
            self.inodes.release(&share);
        }
    }

    /// An inode that the guest may change: all but the directory of the shares.
    fn changeable(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        if node == ROOT { Err(Errno::ROFS) } else { self.inodes.get(node) }
    }

    /// While the answer lives, set-user-ID and set-group-ID bits go as they do when the caller changes a file.
    fn unprivileged(&self, request: &Request<'_>) -> Result<Unprivileged, Errno> {
        Unprivileged::become_one(self.caller(request))
    }

    /// The same for requests that do not say whether the caller may leave these bits: root may.
    fn unprivileged_unless_root(&self, request: &Request<'_>) -> Result<Option<Unprivileged>, Errno> {
        (request.uid != 0).then(|| self.unprivileged(request)).transpose()
    }

    fn caller(&self, request: &Request<'_>) -> Caller {
        Caller::assume(self.owners, request.uid, request.gid)
    }
}
