//! Decides where everything goes, before the first byte is written.

use super::Error;
use super::directory::Blocks;
use super::format::{
    BLOCK_BITS, BLOCK_BYTES, FIRST_INODE_OFFSET, HOLE, INODE_BYTES, Layout, SLOT_BYTES, encode_xattrs,
};
use crate::tree::{Content, Node, NodeId, NodeKind, Tree};

/// A sparse file's table of chunks has at most this many entries: 64 KiB.
const MAX_CHUNKS: u64 = 16_384;

/// One inode that is to be written.
pub(super) struct Planned {
    pub(super) node: NodeId,
    /// Of a directory: the one above it.
    pub(super) parent: NodeId,
    /// In the image; inodes are in ascending order.
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) xattr_bytes: u64,
    pub(super) layout: Layout,
    /// Of a chunked file: each chunk's block, or [`HOLE`].
    pub(super) chunks: Vec<u32>,
}

pub(super) struct Plan {
    pub(super) inodes: Vec<Planned>,
    /// By node: where its inode is, in slots; 0 for nodes that no name leads to.
    nids: Vec<u64>,
    /// By node: how many names it has.
    pub(super) links: Vec<u32>,
    pub(super) blocks: u32,
}

impl Plan {
    pub(super) fn new(tree: &Tree) -> Result<Self, Error> {
        let (mut inodes, links) = collect(tree);
        let mut nids = vec![0; tree.capacity()];
        let mut next = FIRST_INODE_OFFSET;
        for inode in &mut inodes {
            next = place_inode(inode, tree.node(inode.node), next);
            if let Some(nid) = nids.get_mut(inode.node.index()) {
                *nid = inode.offset / SLOT_BYTES;
            }
        }
        let mut blocks = Allocator::after(next)?;
        let is_file = |inode: &Planned| matches!(tree.node(inode.node).kind, NodeKind::Regular(_));
        for inode in inodes.iter_mut().filter(|inode| !is_file(inode)) {
            inode.layout = match inode.layout {
                Layout::Plain { .. } => {
                    Layout::Plain { block: blocks.take(inode.size.div_ceil(BLOCK_BYTES))? }
                }
                Layout::Inline { .. } => Layout::Inline { block: blocks.take(inode.size / BLOCK_BYTES)? },
                other => other,
            };
        }
        for inode in &mut inodes {
            if let NodeKind::Regular(content) = &tree.node(inode.node).kind {
                place_data(inode, content, &mut blocks)?;
            }
        }
        Ok(Self { inodes, nids, links, blocks: blocks.next })
    }

    pub(super) fn nid(&self, node: NodeId) -> u64 {
        self.nids.get(node.index()).copied().unwrap_or_default()
    }

    /// Bytes of files' data that are to be written.
    pub(super) fn data_bytes(&self, tree: &Tree) -> u64 {
        let contents = self.inodes.iter().filter_map(|inode| match &tree.node(inode.node).kind {
            NodeKind::Regular(content) => Some(content),
            _ => None,
        });
        contents.flat_map(|content| &content.pieces).map(|piece| piece.bytes).sum()
    }
}

/// Every node that a name leads to, once, parents first and siblings by name; and how many names each has.
fn collect(tree: &Tree) -> (Vec<Planned>, Vec<u32>) {
    let mut links = vec![0_u32; tree.capacity()];
    let mut inodes = Vec::new();
    let mut left = vec![(NodeId::ROOT, NodeId::ROOT)];
    while let Some((id, parent)) = left.pop() {
        let Some(count) = links.get_mut(id.index()) else { continue };
        *count += 1;
        if *count > 1 {
            continue;
        }
        let node = tree.node(id);
        if let NodeKind::Directory(directory) = &node.kind {
            left.extend(directory.links.values().rev().map(|link| (link.node, id)));
            let is_directory = |child: NodeId| matches!(tree.node(child).kind, NodeKind::Directory(_));
            let subdirectories = directory.links.values().filter(|link| is_directory(link.node)).count();
            // Its own `.`, and `..` of each folder in it.
            *count += 1 + u32::try_from(subdirectories).unwrap_or(u32::MAX - 2);
        }
        let size = match &node.kind {
            NodeKind::Directory(directory) => Blocks::new(directory, id, parent).size(),
            NodeKind::Regular(content) => content.size,
            NodeKind::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        inodes.push(Planned {
            node: id,
            parent,
            offset: 0,
            size,
            xattr_bytes: encode_xattrs(&node.attributes.xattrs).len() as u64,
            layout: Layout::Plain { block: 0 },
            chunks: Vec::new(),
        });
    }
    (inodes, links)
}

/// Gives the inode its offset and kind of layout (blocks come later); returns where the next one may begin.
fn place_inode(inode: &mut Planned, node: &Node, next: u64) -> u64 {
    let fixed = INODE_BYTES + inode.xattr_bytes;
    let mut bytes = fixed;
    // What may not lie across a boundary of blocks.
    let mut together = INODE_BYTES;
    match &node.kind {
        NodeKind::Directory(_) | NodeKind::Symlink(_) => {
            let tail = inode.size % BLOCK_BYTES;
            if tail > 0 && fixed + tail <= BLOCK_BYTES {
                inode.layout = Layout::Inline { block: 0 };
                bytes += tail;
                together = bytes;
            }
        }
        NodeKind::Regular(content) => {
            if let Some((bits, chunks)) = chunks_of(content) {
                inode.layout = Layout::Chunked { bits };
                inode.chunks = chunks;
                bytes += inode.chunks.len() as u64 * 4;
            }
        }
        NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => {
            inode.layout = Layout::Device(*device)
        }
        NodeKind::Fifo | NodeKind::Socket => {}
    }
    inode.offset = next.next_multiple_of(SLOT_BYTES);
    if inode.offset % BLOCK_BYTES + together > BLOCK_BYTES {
        inode.offset = inode.offset.next_multiple_of(BLOCK_BYTES);
    }
    inode.offset + bytes
}

/// A file with a whole chunk of zeros: the chunks' size as a power of two of blocks, and for each chunk [`HOLE`] or 0.
fn chunks_of(content: &Content) -> Option<(u8, Vec<u32>)> {
    let mut bits = 0;
    while content.size.div_ceil(BLOCK_BYTES << bits) > MAX_CHUNKS {
        bits += 1;
    }
    let chunk_bits = u32::from(BLOCK_BITS) + u32::from(bits);
    let count = content.size.div_ceil(1 << chunk_bits);
    let mut chunks = vec![HOLE; usize::try_from(count).unwrap_or_default()];
    for piece in content.pieces.iter().filter(|piece| piece.bytes > 0) {
        let first = usize::try_from(piece.at >> chunk_bits).unwrap_or(usize::MAX);
        let last = usize::try_from((piece.at + piece.bytes - 1) >> chunk_bits).unwrap_or(usize::MAX);
        chunks.get_mut(first..=last).into_iter().flatten().for_each(|chunk| *chunk = 0);
    }
    chunks.contains(&HOLE).then_some((bits, chunks))
}

fn place_data(inode: &mut Planned, content: &Content, blocks: &mut Allocator) -> Result<(), Error> {
    let Layout::Chunked { bits } = inode.layout else {
        inode.layout = Layout::Plain { block: blocks.take(content.size.div_ceil(BLOCK_BYTES))? };
        return Ok(());
    };
    let chunk_bytes = BLOCK_BYTES << bits;
    for (index, chunk) in inode.chunks.iter_mut().enumerate().filter(|(_, chunk)| **chunk != HOLE) {
        let left = content.size - index as u64 * chunk_bytes;
        *chunk = blocks.take(left.min(chunk_bytes).div_ceil(BLOCK_BYTES))?;
    }
    Ok(())
}

struct Allocator {
    next: u32,
}

impl Allocator {
    fn after(offset: u64) -> Result<Self, Error> {
        Ok(Self { next: u32::try_from(offset.div_ceil(BLOCK_BYTES)).map_err(|_| Error::TooLarge)? })
    }

    /// The first of `count` blocks in a row.
    fn take(&mut self, count: u64) -> Result<u32, Error> {
        let first = self.next;
        let next = u32::try_from(count).ok().and_then(|count| first.checked_add(count));
        // The highest number stands for a hole.
        self.next = next.filter(|next| *next != HOLE).ok_or(Error::TooLarge)?;
        Ok(first)
    }
}
