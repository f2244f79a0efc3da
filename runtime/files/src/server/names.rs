//! What changes directories.

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, linkat, mkdirat, mknodat, openat, readlinkat,
        renameat_with, symlinkat, unlinkat,
    },
    io::Errno,
};

use super::{Outcome, Server, data};
use crate::fuse::{Body, Reply, Request};

impl Server {
    pub(super) fn read_link(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let target = readlinkat(&*self.inodes.get(request.node)?, c"", Vec::new())?;
        reply.bytes(target.as_bytes());
        Ok(())
    }

    pub(super) fn make_symlink(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (name, target) = (body.name()?, body.string()?);
        let parent = self.changeable(request.node)?;
        let caller = self.caller(request);
        // Only the guest follows it.
        symlinkat(target, &*parent, name)?;
        drop(caller);
        self.inodes.look_up(&parent, name)?.tell(reply);
        Ok(())
    }

    /// Regular files, pipes and sockets; of devices only that of number 0, by which an overlay says that something is not there.
    pub(super) fn make_node(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (mode, device) = (body.u32()?, body.u32()?);
        body.skip_u64()?;
        let name = body.name()?;
        let parent = self.changeable(request.node)?;
        let kind = FileType::from_raw_mode(mode);
        match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {}
            FileType::CharacterDevice if device == 0 => {}
            _ => return Err(Errno::PERM),
        }
        let caller = self.caller(request);
        mknodat(&*parent, name, kind, Mode::from_raw_mode(mode & 0o7777), 0)?;
        drop(caller);
        self.inodes.look_up(&parent, name)?.tell(reply);
        Ok(())
    }

    pub(super) fn make_directory(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let mode = body.u32()?;
        body.skip_u32()?;
        let name = body.name()?;
        let parent = self.changeable(request.node)?;
        let caller = self.caller(request);
        mkdirat(&*parent, name, Mode::from_raw_mode(mode & 0o7777))?;
        drop(caller);
        self.inodes.look_up(&parent, name)?.tell(reply);
        Ok(())
    }

    pub(super) fn link(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let inode = self.changeable(body.u64()?)?;
        let name = body.name()?;
        let parent = self.changeable(request.node)?;
        // By its own name, since AT_EMPTY_PATH asks for a capability in the host's user namespace (open(2)).
        linkat(CWD, inode.own_name(), &*parent, name, AtFlags::SYMLINK_FOLLOW)?;
        self.inodes.look_up(&parent, name)?.tell(reply);
        Ok(())
    }

    pub(super) fn unlink(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        unlinkat(&*self.changeable(request.node)?, body.name()?, AtFlags::empty())
    }

    pub(super) fn remove_directory(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        unlinkat(&*self.changeable(request.node)?, body.name()?, AtFlags::REMOVEDIR)
    }

    pub(super) fn rename(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let parent = body.u64()?;
        self.move_name(request, parent, body, RenameFlags::empty())
    }

    pub(super) fn rename_with_flags(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let (parent, flags) = (body.u64()?, body.u32()?);
        body.skip_u32()?;
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.move_name(request, parent, body, flags)
    }

    fn move_name(
        &self,
        request: &Request<'_>,
        new_parent: u64,
        mut body: Body<'_>,
        flags: RenameFlags,
    ) -> Outcome {
        let (from, to) = (self.changeable(request.node)?, self.changeable(new_parent)?);
        renameat_with(&*from, body.name()?, &*to, body.name()?, flags)
    }

    /// `struct fuse_create_in`: makes a file and opens it.
    pub(super) fn create(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (flags, mode) = (body.u32()?, body.u32()?);
        body.skip_u32()?;
        let kills = body.u32()? & data::KILL_SUIDGID != 0;
        let name = body.name()?;
        let parent = self.changeable(request.node)?;
        let access = data::access(flags);
        let caller = self.caller(request);
        let made = openat(
            &*parent,
            name,
            access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode & 0o7777),
        );
        drop(caller);
        let (found, file) = match made {
            Ok(file) => (self.inodes.look_up_open(&parent, &file)?, file),
            // Somebody on the host was faster.
            Err(Errno::EXIST) if flags & OFlags::EXCL.bits() == 0 => {
                let found = self.inodes.look_up(&parent, name)?;
                let unprivileged = kills.then(|| self.unprivileged(request)).transpose()?;
                let file = found.inode.open(access).inspect_err(|_| {
                    self.inodes.forget(found.node, 1);
                })?;
                drop(unprivileged);
                (found, file)
            }
            Err(errno) => return Err(errno),
        };
        found.tell(reply);
        let flags = data::open_flags(&found.inode, access);
        reply.opened(self.handles.insert(file, found.node, found.inode), flags);
        Ok(())
    }

    /// `struct fuse_create_in`, too; where it has a name, this one has something that says nothing. A link may give it one.
    pub(super) fn create_without_name(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let (flags, mode) = (body.u32()?, body.u32()?);
        let parent = self.changeable(request.node)?;
        let access = data::access(flags);
        let caller = self.caller(request);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let made = openat(&*parent, c".", access | OFlags::TMPFILE | OFlags::CLOEXEC, mode);
        drop(caller);
        let file = made?;
        let found = self.inodes.look_up_open(&parent, &file)?;
        found.tell(reply);
        let flags = data::open_flags(&found.inode, access);
        reply.opened(self.handles.insert(file, found.node, found.inode), flags);
        Ok(())
    }
}
