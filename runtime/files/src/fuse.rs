//! FUSE messages (linux/fuse.h): requests taken apart, replies put together. Integers are in the byte order of the machine, and of
//! its guests: little-endian.

use std::{ffi::CStr, time::Duration};

use rustix::{
    fs::{Statx, StatxTimestamp},
    io::Errno,
};

pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
}

const REQUEST_HEADER_LEN: usize = 40;
const REPLY_HEADER_LEN: usize = 16;

/// A request whose length is what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub opcode: u32,
    pub unique: u64,
    /// The inode it is about.
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    pub body: Body<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(REQUEST_HEADER_LEN)?;
        let mut header = Body(header);
        let len = header.u32().ok()?;
        let request = Self {
            opcode: header.u32().ok()?,
            unique: header.u64().ok()?,
            node: header.u64().ok()?,
            uid: header.u32().ok()?,
            gid: header.u32().ok()?,
            body: Body(body),
        };
        (len as usize == bytes.len()).then_some(request)
    }
}

/// What is left of a request. A field that is not there is EINVAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| Errno::INVAL)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Errno::INVAL)
    }

    /// Passes over a field of 4 bytes.
    pub(crate) fn skip_u32(&mut self) -> Result<(), Errno> {
        self.u32().map(drop)
    }

    pub(crate) fn skip_u64(&mut self) -> Result<(), Errno> {
        self.u64().map(drop)
    }

    /// A string that ends in NUL.
    pub(crate) fn string(&mut self) -> Result<&'a CStr, Errno> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.take(string.count_bytes() + 1)?;
        Ok(string)
    }

    /// One name in a directory: never a path, and never the way up.
    pub(crate) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(name),
        }
    }

    /// So many bytes.
    pub(crate) fn data(&mut self, len: u32) -> Result<&'a [u8], Errno> {
        self.take(len as usize)
    }
}

/// A reply on its way; its buffer serves again and again.
#[derive(Debug, Default)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
        self.0.resize(REPLY_HEADER_LEN, 0);
    }

    /// The whole message.
    pub(crate) fn succeed(&mut self, unique: u64) -> &[u8] {
        self.finish(unique, 0)
    }

    /// Drops what was put in and says why.
    pub(crate) fn fail(&mut self, unique: u64, errno: Errno) -> &[u8] {
        self.clear();
        self.finish(unique, -errno.raw_os_error())
    }

    /// The answer to something with a request's header that is no request.
    pub(crate) fn refuse(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        let mut header = Body(bytes.get(..REQUEST_HEADER_LEN)?);
        header.skip_u64().ok()?;
        let unique = header.u64().ok()?;
        Some(self.fail(unique, Errno::INVAL))
    }

    fn finish(&mut self, unique: u64, error: i32) -> &[u8] {
        // At most MAX_MESSAGE_LEN.
        let len = self.0.len() as u32;
        let header = len.to_le_bytes().into_iter().chain(error.to_le_bytes()).chain(unique.to_le_bytes());
        for (byte, value) in self.0.iter_mut().zip(header) {
            *byte = value;
        }
        &self.0
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn zeroes(&mut self, len: usize) {
        self.0.resize(self.0.len() + len, 0);
    }

    /// Bytes after the header.
    pub(crate) fn len(&self) -> usize {
        self.0.len() - REPLY_HEADER_LEN
    }

    /// Lets `fill` write at most `len` bytes at the end; it answers with how many it wrote.
    pub(crate) fn fill(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let begin = self.0.len();
        self.zeroes(len);
        let filled = fill(self.0.get_mut(begin..).unwrap_or_default())?;
        self.0.truncate(begin + filled.min(len));
        Ok(())
    }

    /// `struct fuse_entry_out`
    pub(crate) fn entry(&mut self, node: u64, ino: u64, attributes: &Statx, memory: Duration) {
        self.u64(node);
        // A number never comes to mean another inode.
        self.u64(0);
        self.u64(memory.as_secs());
        self.u64(memory.as_secs());
        self.u32(memory.subsec_nanos());
        self.u32(memory.subsec_nanos());
        self.attributes(ino, attributes);
    }

    /// The same for a name that is not there, which the guest may remember, too.
    pub(crate) fn no_entry(&mut self, memory: Duration) {
        self.zeroes(2 * 8);
        self.u64(memory.as_secs());
        self.u64(0);
        self.u32(memory.subsec_nanos());
        self.zeroes(ENTRY_LEN - (4 * 8 + 4));
    }

    /// `struct fuse_attr_out`
    pub(crate) fn attributes_alone(&mut self, ino: u64, attributes: &Statx, memory: Duration) {
        self.u64(memory.as_secs());
        self.u32(memory.subsec_nanos());
        self.u32(0);
        self.attributes(ino, attributes);
    }

    /// `struct fuse_attr`
    fn attributes(&mut self, ino: u64, from: &Statx) {
        let times = [from.stx_atime, from.stx_mtime, from.stx_ctime];
        self.u64(ino);
        self.u64(from.stx_size);
        self.u64(from.stx_blocks);
        times.iter().for_each(|time: &StatxTimestamp| self.u64(time.tv_sec as u64));
        times.iter().for_each(|time| self.u32(time.tv_nsec));
        self.u32(from.stx_mode.into());
        self.u32(from.stx_nlink);
        self.u32(from.stx_uid);
        self.u32(from.stx_gid);
        self.u32(device_number(from.stx_rdev_major, from.stx_rdev_minor));
        self.u32(from.stx_blksize);
        self.u32(0);
    }

    /// `struct fuse_open_out`
    pub(crate) fn opened(&mut self, handle: u64, flags: u32) {
        self.u64(handle);
        self.u32(flags);
        self.u32(0);
    }
}

/// Length of [`Reply::entry`], in bytes.
pub(crate) const ENTRY_LEN: usize = 128;

/// As the kernel packs one into 32 bits (linux/kdev_t.h, new_encode_dev).
fn device_number(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; REQUEST_HEADER_LEN];
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn name(bytes: &[u8]) -> Result<&CStr, Errno> {
        Body(bytes).name()
    }

    #[test]
    fn a_request_that_lies_about_its_length_is_none() {
        assert!(Request::parse(&message(42, b"ab")).is_some());
        for len in [0, 40, 41, 43, u32::MAX] {
            assert!(Request::parse(&message(len, b"ab")).is_none(), "{len}");
        }
        assert!(Request::parse(&[40, 0, 0, 0]).is_none());
    }

    #[test]
    fn a_name_is_one_step_down() {
        assert_eq!(name(b"a b\0rest"), Ok(c"a b"));
        assert_eq!(name(b"...\0"), Ok(c"..."));
        for bad in [&b""[..], b"\0", b".\0", b"..\0", b"a/b\0", b"/\0", b"../etc\0", b"without end"] {
            assert_eq!(name(bad), Err(Errno::INVAL), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        assert_eq!(Body(b"abc").u32(), Err(Errno::INVAL));
        assert_eq!(Body(b"abcdefg").u64(), Err(Errno::INVAL));
        assert_eq!(Body(b"abc").data(u32::MAX), Err(Errno::INVAL));
    }

    #[test]
    fn a_failure_takes_back_what_was_said_before() {
        let mut reply = Reply::default();
        reply.clear();
        reply.bytes(b"half an answer");
        let bytes = reply.fail(7, Errno::NOENT).to_vec();
        assert_eq!(
            bytes,
            [&16_u32.to_le_bytes()[..], &(-2_i32).to_le_bytes(), &7_u64.to_le_bytes()].concat()
        );
    }
}
