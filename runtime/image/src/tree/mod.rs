//! The merged tree of an image, in memory: names and attributes, and where the files' data lies. No host file is touched.
//!
//! Nodes live in one arena and directories hold links to them, so that a hard link is a second link to one node.

mod attributes;
mod merge;
mod path;

use std::collections::BTreeMap;

pub(crate) use attributes::{Attributes, keeps_xattr};
pub(crate) use merge::{Change, Entry};
pub(crate) use path::Problem;

use crate::limits::{Budget, Exceeded, Limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A regular file's data: bytes that no piece covers are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) origin: Origin,
    /// In the order of `at`, without overlap, within `size`.
    pub(crate) pieces: Vec<Piece>,
}

/// Which of the image's data sources a file's pieces lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin(pub(crate) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Offset in the file.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    /// Offset in the origin.
    pub(crate) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) kind: NodeKind,
}

#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory(Directory),
    Regular(Content),
    Symlink(Box<[u8]>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
    Socket,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) links: BTreeMap<Box<[u8]>, Link>,
    /// Nothing in here is older than this layer; spares a second search for the same whiteout.
    clean_since: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    /// The layer that last made or touched it: a whiteout hides only what is older than its own layer.
    layer: u32,
}

pub(crate) struct Tree {
    nodes: Vec<Node>,
    entries: Budget,
    metadata: Budget,
    max_path_bytes: usize,
    max_depth: usize,
}

impl Tree {
    /// An empty root folder.
    pub(crate) fn new(limits: &Limits) -> Self {
        let root =
            Node { attributes: Attributes::implied(), kind: NodeKind::Directory(Directory::default()) };
        Self {
            nodes: vec![root],
            entries: Budget::new("files, folders and links", limits.entries.min(u32::MAX.into())),
            metadata: Budget::new("bytes of names and attributes", limits.metadata_bytes),
            max_path_bytes: limits.path_bytes,
            max_depth: limits.depth,
        }
    }

    /// One more than the highest index of a node, replaced ones included.
    pub(crate) fn capacity(&self) -> usize {
        self.nodes.len()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "ids are made by this arena alone, and nodes are never removed"
    )]
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "ids are made by this arena alone, and nodes are never removed"
    )]
    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.node_mut(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn link(&self, directory: NodeId, name: &[u8]) -> Option<Link> {
        self.directory(directory)?.links.get(name).copied()
    }

    fn add(&mut self, node: Node) -> Result<NodeId, Exceeded> {
        self.entries.spend(1)?;
        self.metadata.spend(memory_of(&node))?;
        // The limit of entries is at most u32::MAX, so the index fits.
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        Ok(id)
    }

    /// Puts `node` into `directory`, in the place of whatever had that name.
    fn set_link(&mut self, directory: NodeId, name: &[u8], link: Link) -> Result<(), Exceeded> {
        self.metadata.spend(name.len() as u64 + 64)?;
        if let Some(directory) = self.directory_mut(directory) {
            directory.links.insert(name.into(), link);
        }
        Ok(())
    }
}

fn memory_of(node: &Node) -> u64 {
    let xattrs: usize =
        node.attributes.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
    let own = match &node.kind {
        NodeKind::Regular(content) => content.pieces.len() * size_of::<Piece>(),
        NodeKind::Symlink(target) => target.len(),
        _ => 0,
    };
    (size_of::<Node>() + xattrs + own) as u64
}

#[cfg(test)]
mod tests;
