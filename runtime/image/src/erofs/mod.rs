//! Writes a [`Tree`] as an EROFS image: uncompressed, 4 KiB blocks, every file's data at a block boundary (so that it can be
//! mapped, DAX included), holes kept.
//!
//! Why not `mkfs.erofs`: Debian 12's (1.5) reads directories only. Unpacking a hostile layer onto the host's file system, as root
//! for its owners and device nodes, is what this program must not do; and 1.8 of Debian 13, which reads tar streams, takes one
//! stream, so that whiteouts over several layers would still be merged here and written as a tar once more. The uncompressed
//! format is small, and both Debians' `fsck.erofs` and kernels judge the result in the tests.
//!
//! Layout: superblock and inodes (with what they hold inline) in one area, then blocks of directories, then files' data in the
//! order of the tree. Equal trees give equal bytes.
//! Format: Linux, `fs/erofs/erofs_fs.h` and Documentation/filesystems/erofs.rst.

mod directory;
mod format;
mod plan;
mod write;

use std::io;

pub(crate) use format::{BLOCK_BYTES, superblock_is_whole};
pub(crate) use write::write;

use crate::tree::Origin;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the image would be larger than 16 TiB, the most that EROFS holds")]
    TooLarge,
    #[error("cannot read a file's data")]
    Read(#[source] io::Error),
    #[error("cannot write")]
    Write(#[source] io::Error),
}

/// Where files' data comes from.
pub(crate) trait Data {
    /// Fills `buffer` from `origin` at `offset`.
    fn read_exact_at(&mut self, origin: Origin, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

#[cfg(test)]
mod tests;
