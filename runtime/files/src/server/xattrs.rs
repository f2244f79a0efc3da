//! Extended attributes: those of users, and file capabilities. Access control lists are not among them: only the guest's kernel
//! could enforce them, and it does not know those that the host has. `trusted.` is for the host's own administrator.

use std::ffi::CStr;

use rustix::{
    fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr},
    io::Errno,
};

use super::{Outcome, Server};
use crate::fuse::{Reply, Request};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX (linux/limits.h), in bytes.
const MAX_LEN: u32 = 64 * 1024;

fn is_served(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability"
}

fn served(name: &CStr) -> Result<&CStr, Errno> {
    if is_served(name.to_bytes()) { Ok(name) } else { Err(Errno::OPNOTSUPP) }
}

impl Server {
    /// `struct fuse_getxattr_in`; asked for 0 bytes, it tells how many there are.
    pub(super) fn get_xattr(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let room = body.u32()?;
        body.skip_u32()?;
        let name = served(body.string()?)?;
        let inode = self.inodes.get(request.node)?;
        let mut value = vec![0; MAX_LEN as usize];
        let len = getxattr(inode.own_name(), name, &mut value)?;
        tell(value.get(..len).unwrap_or_default(), room, reply)
    }

    pub(super) fn list_xattrs(&self, request: &Request<'_>, reply: &mut Reply) -> Outcome {
        let mut body = request.body;
        let room = body.u32()?;
        let inode = self.inodes.get(request.node)?;
        let mut names = vec![0; MAX_LEN as usize];
        let len = listxattr(inode.own_name(), &mut names)?;
        let names = names.get(..len).unwrap_or_default();
        let told: Vec<u8> = names
            .split_inclusive(|&byte| byte == 0)
            .filter(|name| is_served(name.strip_suffix(b"\0").unwrap_or_default()))
            .flatten()
            .copied()
            .collect();
        tell(&told, room, reply)
    }

    /// `struct fuse_setxattr_in` in its short form.
    pub(super) fn set_xattr(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let (len, flags) = (body.u32()?, body.u32()?);
        let name = served(body.string()?)?;
        let value = body.data(len)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        setxattr(self.changeable(request.node)?.own_name(), name, value, flags)
    }

    pub(super) fn remove_xattr(&self, request: &Request<'_>) -> Outcome {
        let mut body = request.body;
        let name = served(body.string()?)?;
        removexattr(self.changeable(request.node)?.own_name(), name)
    }
}

fn tell(bytes: &[u8], room: u32, reply: &mut Reply) -> Outcome {
    if room == 0 {
        // At most MAX_LEN.
        reply.u32(bytes.len() as u32);
        reply.u32(0);
    } else if bytes.len() > room as usize {
        return Err(Errno::RANGE);
    } else {
        reply.bytes(bytes);
    }
    Ok(())
}
