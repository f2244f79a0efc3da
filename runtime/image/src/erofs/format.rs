//! The records of the format (Linux, `fs/erofs/erofs_fs.h`), all little endian.

use std::collections::BTreeMap;

use crate::tree::Device;

pub(crate) const BLOCK_BYTES: u64 = 4096;
pub(super) const BLOCK_BITS: u8 = 12;

/// `EROFS_SUPER_OFFSET`.
pub(super) const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM` and `_MTIME` (an inode's time is its mtime).
const FEATURE_COMPAT: u32 = 0x1 | 0x2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const FEATURE_INCOMPAT: u32 = 0x4;

/// `erofs_inode_extended`: 32-bit owners and a time of its own.
pub(super) const INODE_BYTES: u64 = 64;
/// A node id counts slots of this size from the image's start.
pub(super) const SLOT_BYTES: u64 = 32;
/// The root's id must fit 16 bits; it is the first inode, right after the superblock.
pub(super) const FIRST_INODE_OFFSET: u64 = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64;

/// A chunk that is a hole (`EROFS_NULL_ADDR`).
pub(super) const HOLE: u32 = u32::MAX;

const XATTR_HEADER_BYTES: u64 = 12;

pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
}

impl Superblock {
    /// `struct erofs_super_block`, its checksum still zero.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SUPERBLOCK_BYTES);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(FEATURE_COMPAT.to_le_bytes());
        bytes.extend([BLOCK_BITS, 0]);
        bytes.extend(self.root.to_le_bytes());
        bytes.extend(self.inodes.to_le_bytes());
        // No build time: equal trees give equal images.
        bytes.extend([0; 12]);
        bytes.extend(self.blocks.to_le_bytes());
        // Inodes count from block 0; no shared extended attributes; no UUID and name.
        bytes.extend([0; 4 + 4 + 16 + 16]);
        bytes.extend(FEATURE_INCOMPAT.to_le_bytes());
        bytes.resize(SUPERBLOCK_BYTES, 0);
        bytes
    }
}

/// The checksum of the image's first block: CRC-32C of all from the superblock on, its own field read as zero, not inverted.
pub(super) fn checksum(first_block: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in first_block.iter().enumerate().skip(SUPERBLOCK_OFFSET as usize) {
        let is_own_field = CHECKSUM_FIELD.contains(&(at as u64));
        crc ^= u32::from(if is_own_field { 0 } else { *byte });
        for _ in 0..8 {
            // The reversed polynomial of Castagnoli.
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

/// Where the checksum stands in the image.
pub(super) const CHECKSUM_FIELD: std::ops::Range<u64> = SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8;

/// Whether this is the first block of an image of ours, undamaged.
pub(crate) fn superblock_is_whole(first_block: &[u8]) -> bool {
    let field = |at: u64| {
        let at = at as usize;
        first_block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    };
    field(SUPERBLOCK_OFFSET) == Some(MAGIC) && field(CHECKSUM_FIELD.start) == Some(checksum(first_block))
}

/// How an inode's data is stored (`EROFS_INODE_*`), with the inode's `i_u`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All in blocks, from this one on.
    Plain { block: u32 },
    /// Whole blocks from this one on, the rest right after the inode.
    Inline { block: u32 },
    /// A table of chunks of `2^bits` blocks after the inode.
    Chunked { bits: u8 },
    /// A device number instead of data.
    Device(Device),
}

pub(super) struct Inode {
    /// With the file type bits of `st_mode`.
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) layout: Layout,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_seconds: i64,
    pub(super) mtime_nanoseconds: u32,
    pub(super) links: u32,
    pub(super) xattr_bytes: u64,
}

impl Inode {
    /// `struct erofs_inode_extended`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (layout, union) = match self.layout {
            Layout::Plain { block } => (0, block),
            Layout::Inline { block } => (2, block),
            Layout::Chunked { bits } => (4, u32::from(bits)),
            Layout::Device(device) => (0, encode_device(device)),
        };
        // i_xattr_icount counts 4-byte units beyond the header's first 12, plus one.
        let xattr_count = match self.xattr_bytes.checked_sub(XATTR_HEADER_BYTES) {
            Some(beyond) => u16::try_from(beyond / 4 + 1).unwrap_or_default(),
            None => 0,
        };
        let mut bytes = Vec::with_capacity(INODE_BYTES as usize);
        // Bit 0: the extended version.
        bytes.extend((1_u16 | (layout << 1)).to_le_bytes());
        bytes.extend(xattr_count.to_le_bytes());
        bytes.extend(self.mode.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(union.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.uid.to_le_bytes());
        bytes.extend(self.gid.to_le_bytes());
        bytes.extend(self.mtime_seconds.to_le_bytes());
        bytes.extend(self.mtime_nanoseconds.to_le_bytes());
        bytes.extend(self.links.to_le_bytes());
        bytes.resize(INODE_BYTES as usize, 0);
        bytes
    }
}

/// The kernel's `new_encode_dev`.
fn encode_device(device: Device) -> u32 {
    (device.minor & 0xff) | ((device.major & 0xfff) << 8) | ((device.minor & !0xff) << 12)
}

/// Prefixes of extended attributes' names, with their numbers (`EROFS_XATTR_INDEX_*`).
const XATTR_PREFIXES: [(&[u8], u8); 4] =
    [(b"user.", 1), (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"security.", 6)];

/// `struct erofs_xattr_ibody_header` and the entries after it; empty without attributes.
pub(super) fn encode_xattrs(xattrs: &BTreeMap<Box<[u8]>, Box<[u8]>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in xattrs {
        let known =
            XATTR_PREFIXES.iter().find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)));
        // The tree holds none with other prefixes, and none whose lengths do not fit.
        let Some((index, suffix)) = known else { continue };
        if bytes.is_empty() {
            bytes.resize(XATTR_HEADER_BYTES as usize, 0);
        }
        bytes.extend([u8::try_from(suffix.len()).unwrap_or_default(), index]);
        bytes.extend(u16::try_from(value.len()).unwrap_or_default().to_le_bytes());
        bytes.extend(suffix);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}
