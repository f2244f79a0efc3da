//! Files in memory, and truncate(2), which have no safe wrappers here.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    ptr,
};

/// A file in memory, shared and writable. What is touched of it must be in the file at that time: beyond its end is SIGBUS.
pub(crate) struct Mapping {
    begin: *mut u8,
    len: usize,
}

impl Mapping {
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses a free place; nothing else is changed.
        let begin =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if begin == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { begin: begin.cast(), len })
    }

    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "beyond the mapping");
        let mut bytes = vec![0; len];
        // SAFETY: the offset is in the mapping, as just checked.
        let from = unsafe { self.begin.add(offset) };
        // SAFETY: both have `len` bytes, and a new vector overlaps nothing.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        bytes
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "beyond the mapping");
        // SAFETY: the offset is in the mapping, as just checked.
        let to = unsafe { self.begin.add(offset) };
        // SAFETY: the mapping is writable and has so many bytes there; no reference leads into it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Returns when what was written is the file's.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping is there as long as `self` is.
        let synced = unsafe { libc::msync(self.begin.cast(), self.len, libc::MS_SYNC) };
        if synced == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and nothing refers to it any more.
        unsafe { libc::munmap(self.begin.cast(), self.len) };
    }
}

/// truncate(2): without an open file.
pub(crate) fn truncate(path: &Path, len: i64) -> rustix::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| rustix::io::Errno::INVAL)?;
    // SAFETY: the path is a string that ends in NUL, and lives until the call returns.
    let done = unsafe { libc::truncate(path.as_ptr(), len) };
    let errno = || rustix::io::Errno::from_io_error(&io::Error::last_os_error());
    if done == 0 { Ok(()) } else { Err(errno().unwrap_or(rustix::io::Errno::IO)) }
}
