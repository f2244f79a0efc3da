//! Writes what was planned, from the image's start to its end.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use super::directory::Blocks;
use super::format::{
    BLOCK_BYTES, CHECKSUM_FIELD, FIRST_INODE_OFFSET, HOLE, INODE_BYTES, Inode, Layout, SUPERBLOCK_OFFSET,
    Superblock, checksum, encode_xattrs,
};
use super::plan::{Plan, Planned};
use super::{Data, Error};
use crate::tree::{Content, NodeId, NodeKind, Tree};

const BUFFER_BYTES: usize = 1 << 20;

/// Writes the image to `file`, which is empty; returns its size in bytes. `progress` gets the bytes of files' data written and
/// their total.
pub(crate) fn write(
    tree: &Tree,
    data: &mut dyn Data,
    file: &File,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, Error> {
    let plan = Plan::new(tree)?;
    let output = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut writer = Writer { tree, plan: &plan, output, offset: 0 };
    writer.write_metadata()?;
    writer.write_directories()?;
    let total = plan.data_bytes(tree);
    let mut copy = Copy { data, progress, done: 0, total, buffer: vec![0; BUFFER_BYTES] };
    for inode in &plan.inodes {
        if let NodeKind::Regular(content) = &tree.node(inode.node).kind {
            writer.write_content(inode, content, &mut copy)?;
        }
    }
    let size = u64::from(plan.blocks) * BLOCK_BYTES;
    writer.pad_to(size)?;
    writer.output.flush().map_err(Error::Write)?;
    drop(writer);
    seal(file).map_err(Error::Write)?;
    Ok(size)
}

/// Puts the checksum of the first block into the superblock.
fn seal(file: &File) -> std::io::Result<()> {
    let mut first_block = [0; BLOCK_BYTES as usize];
    file.read_exact_at(&mut first_block, 0)?;
    file.write_all_at(&checksum(&first_block).to_le_bytes(), CHECKSUM_FIELD.start)
}

struct Writer<'a> {
    tree: &'a Tree,
    plan: &'a Plan,
    output: BufWriter<&'a File>,
    offset: u64,
}

impl Writer<'_> {
    fn write_metadata(&mut self) -> Result<(), Error> {
        let root = u16::try_from(self.plan.nid(NodeId::ROOT)).map_err(|_| Error::TooLarge)?;
        let superblock = Superblock { root, inodes: self.plan.inodes.len() as u64, blocks: self.plan.blocks };
        self.pad_to(SUPERBLOCK_OFFSET)?;
        self.write(&superblock.encode())?;
        debug_assert_eq!(self.offset, FIRST_INODE_OFFSET);
        let plan = self.plan;
        for (index, inode) in plan.inodes.iter().enumerate() {
            self.pad_to(inode.offset)?;
            self.write_inode(inode, index)?;
        }
        Ok(())
    }

    fn write_inode(&mut self, planned: &Planned, index: usize) -> Result<(), Error> {
        let tree = self.tree;
        let node = tree.node(planned.node);
        let attributes = &node.attributes;
        let inode = Inode {
            mode: attributes.mode | type_bits(&node.kind),
            size: planned.size,
            layout: planned.layout,
            number: u32::try_from(index + 1).unwrap_or_default(),
            uid: attributes.uid,
            gid: attributes.gid,
            mtime_seconds: attributes.mtime_seconds,
            mtime_nanoseconds: attributes.mtime_nanoseconds,
            links: self.plan.links.get(planned.node.index()).copied().unwrap_or_default(),
            xattr_bytes: planned.xattr_bytes,
        };
        let mut bytes = inode.encode();
        debug_assert_eq!(bytes.len() as u64, INODE_BYTES);
        bytes.extend(encode_xattrs(&attributes.xattrs));
        for block in &planned.chunks {
            bytes.extend(block.to_le_bytes());
        }
        if matches!(planned.layout, Layout::Inline { .. }) {
            let content = self.inode_content(planned);
            let whole_blocks = content.len() - content.len() % BLOCK_BYTES as usize;
            bytes.extend(content.get(whole_blocks..).unwrap_or_default());
        }
        self.write(&bytes)
    }

    /// The blocks of directories, and of symbolic links that are too long to lie beside their inode.
    fn write_directories(&mut self) -> Result<(), Error> {
        let plan = self.plan;
        for inode in &plan.inodes {
            let (block, is_inline) = match inode.layout {
                Layout::Plain { block } => (block, false),
                Layout::Inline { block } => (block, true),
                Layout::Chunked { .. } | Layout::Device(_) => continue,
            };
            let mut content = self.inode_content(inode);
            if is_inline {
                content.truncate(content.len() - content.len() % BLOCK_BYTES as usize);
            }
            if !content.is_empty() {
                self.pad_to(u64::from(block) * BLOCK_BYTES)?;
                self.write(&content)?;
            }
        }
        Ok(())
    }

    /// The data of directories and symbolic links.
    fn inode_content(&self, inode: &Planned) -> Vec<u8> {
        match &self.tree.node(inode.node).kind {
            NodeKind::Directory(directory) => {
                Blocks::new(directory, inode.node, inode.parent).encode(self.tree, |node| self.plan.nid(node))
            }
            NodeKind::Symlink(target) => target.to_vec(),
            _ => Vec::new(),
        }
    }

    fn write_content(
        &mut self,
        inode: &Planned,
        content: &Content,
        copy: &mut Copy<'_>,
    ) -> Result<(), Error> {
        match inode.layout {
            Layout::Chunked { bits } => {
                let chunk_bytes = BLOCK_BYTES << bits;
                for (index, block) in inode.chunks.iter().enumerate().filter(|(_, block)| **block != HOLE) {
                    let start = index as u64 * chunk_bytes;
                    let end = (start + chunk_bytes).min(content.size);
                    self.pad_to(u64::from(*block) * BLOCK_BYTES)?;
                    self.write_range(content, start..end, copy)?;
                }
                Ok(())
            }
            Layout::Plain { block } if content.size > 0 => {
                self.pad_to(u64::from(block) * BLOCK_BYTES)?;
                self.write_range(content, 0..content.size, copy)
            }
            _ => Ok(()),
        }
    }

    fn write_range(
        &mut self,
        content: &Content,
        range: std::ops::Range<u64>,
        copy: &mut Copy<'_>,
    ) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let length = usize::try_from(range.end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let bytes = copy.read(content, at, length)?;
            self.output.write_all(bytes).map_err(Error::Write)?;
            self.offset += length as u64;
            at += length as u64;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.write_all(bytes).map_err(Error::Write)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> Result<(), Error> {
        const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
        debug_assert!(self.offset <= offset);
        while self.offset < offset {
            let length = usize::try_from(offset - self.offset).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.write(ZEROS.get(..length).unwrap_or_default())?;
        }
        Ok(())
    }
}

struct Copy<'a> {
    data: &'a mut dyn Data,
    progress: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    /// `length` bytes of a file, at most [`BUFFER_BYTES`].
    fn read(&mut self, content: &Content, at: u64, length: usize) -> Result<&[u8], Error> {
        let end = at + length as u64;
        let buffer = self.buffer.get_mut(..length).unwrap_or_default();
        buffer.fill(0);
        let first = content.pieces.partition_point(|piece| piece.at + piece.bytes <= at);
        for piece in content.pieces.iter().skip(first).take_while(|piece| piece.at < end) {
            let from = piece.at.max(at);
            let to = (piece.at + piece.bytes).min(end);
            let place =
                usize::try_from(from - at).unwrap_or_default()..usize::try_from(to - at).unwrap_or_default();
            let part = buffer.get_mut(place).unwrap_or_default();
            self.data
                .read_exact_at(content.origin, piece.offset + (from - piece.at), part)
                .map_err(Error::Read)?;
            self.done += to - from;
        }
        (self.progress)(self.done, self.total);
        Ok(buffer)
    }
}

/// `S_IFMT` of inode(7).
fn type_bits(kind: &NodeKind) -> u16 {
    match kind {
        NodeKind::Fifo => 0o010_000,
        NodeKind::CharDevice(_) => 0o020_000,
        NodeKind::Directory(_) => 0o040_000,
        NodeKind::BlockDevice(_) => 0o060_000,
        NodeKind::Regular(_) => 0o100_000,
        NodeKind::Symlink(_) => 0o120_000,
        NodeKind::Socket => 0o140_000,
    }
}
