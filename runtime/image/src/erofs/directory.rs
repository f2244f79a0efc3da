//! Directories: blocks of fixed-size entries followed by their names, sorted over all blocks, `.` and `..` among them.

use super::format::BLOCK_BYTES;
use crate::tree::{Directory, Node, NodeId, NodeKind, Tree};

/// `struct erofs_dirent`.
const ENTRY_BYTES: usize = 12;

struct Entry<'a> {
    name: &'a [u8],
    node: NodeId,
}

/// The names of a directory in the order of the format, cut into blocks.
pub(super) struct Blocks<'a>(Vec<Vec<Entry<'a>>>);

impl<'a> Blocks<'a> {
    pub(super) fn new(directory: &'a Directory, own: NodeId, parent: NodeId) -> Self {
        let dots = [Entry { name: b".", node: own }, Entry { name: b"..", node: parent }];
        let links = directory.links.iter().map(|(name, link)| Entry { name, node: link.node });
        let mut entries: Vec<_> = dots.into_iter().chain(links).collect();
        entries.sort_by_key(|entry| entry.name);
        let mut blocks = Vec::new();
        let mut block = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let more = ENTRY_BYTES + entry.name.len();
            if bytes + more > BLOCK_BYTES as usize {
                blocks.push(std::mem::take(&mut block));
                bytes = 0;
            }
            bytes += more;
            block.push(entry);
        }
        blocks.push(block);
        Self(blocks)
    }

    /// All blocks but the last are full ones.
    pub(super) fn size(&self) -> u64 {
        let last: usize =
            self.0.last().into_iter().flatten().map(|entry| ENTRY_BYTES + entry.name.len()).sum();
        (self.0.len() as u64 - 1) * BLOCK_BYTES + last as u64
    }

    /// `nid` gives the place of a node's inode.
    pub(super) fn encode(&self, tree: &Tree, nid: impl Fn(NodeId) -> u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in &self.0 {
            bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
            let mut name_offset = block.len() * ENTRY_BYTES;
            for entry in block {
                bytes.extend(nid(entry.node).to_le_bytes());
                bytes.extend(u16::try_from(name_offset).unwrap_or_default().to_le_bytes());
                bytes.extend([file_type(tree.node(entry.node)), 0]);
                name_offset += entry.name.len();
            }
            block.iter().for_each(|entry| bytes.extend(entry.name));
        }
        bytes
    }
}

/// `FT_*` of Linux' `fs_types.h`.
fn file_type(node: &Node) -> u8 {
    match node.kind {
        NodeKind::Regular(_) => 1,
        NodeKind::Directory(_) => 2,
        NodeKind::CharDevice(_) => 3,
        NodeKind::BlockDevice(_) => 4,
        NodeKind::Fifo => 5,
        NodeKind::Socket => 6,
        NodeKind::Symlink(_) => 7,
    }
}
