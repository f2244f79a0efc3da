//! Layers put on top of each other (OCI image spec, layer.md): additions, replacements, whiteouts.

use super::path::{Missing, Problem, components};
use super::{Attributes, Content, Device, Directory, Link, Node, NodeId, NodeKind, Tree};

const WHITEOUT: &[u8] = b".wh.";
/// Hides all that lower layers put into the folder that it stands in.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of aufs (`.wh..wh.aufs`, `.wh..wh.plnk`), which is no part of an image; engines leave it out too.
const AUFS: &[u8] = b".wh..wh.";
/// Linux' PATH_MAX with its closing NUL byte left off.
const MAX_SYMLINK_BYTES: usize = 4095;

/// One entry of a layer. Names are as the layer has them, unchecked.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) change: Change,
}

#[derive(Debug)]
pub(crate) enum Change {
    Directory(Attributes),
    Regular(Attributes, Content),
    Symlink(Attributes, Vec<u8>),
    CharDevice(Attributes, Device),
    BlockDevice(Attributes, Device),
    Fifo(Attributes),
    Socket(Attributes),
    /// The path, within the tree, of what is to get a second name.
    HardLink(Vec<u8>),
}

impl Tree {
    /// Merges one entry of layer number `layer`; layers come in ascending order.
    pub(crate) fn apply(&mut self, layer: u32, entry: Entry) -> Result<(), Problem> {
        let names = components(&entry.path, self.max_path_bytes)?;
        match names.split_last() {
            Some((name, parents)) if name.starts_with(WHITEOUT) => self.white_out(layer, name, parents),
            _ => self.insert(layer, entry),
        }
    }

    /// Adds one entry, whose name means nothing but itself.
    pub(crate) fn insert(&mut self, layer: u32, entry: Entry) -> Result<(), Problem> {
        let names = components(&entry.path, self.max_path_bytes)?;
        if names.len() > self.max_depth {
            return Err(Problem::TooDeep(self.max_depth));
        }
        let Some((name, parents)) = names.split_last() else {
            return self.apply_to_root(entry.change);
        };
        let Some(parent) = self.resolve(parents, Missing::Create { layer })? else {
            return Err(Problem::NotADirectory);
        };
        let (attributes, kind) = match entry.change {
            Change::HardLink(target) => {
                let node = self.link_target(&target)?;
                return Ok(self.set_link(parent, name, Link { node, layer })?);
            }
            Change::Directory(attributes) => {
                if let Some(link) = self.link(parent, name) {
                    if self.directory(link.node).is_some() {
                        self.replace_attributes(link.node, attributes)?;
                        return Ok(self.set_link(parent, name, Link { layer, ..link })?);
                    }
                }
                (attributes, NodeKind::Directory(Directory { clean_since: layer, ..Directory::default() }))
            }
            Change::Regular(attributes, content) => (attributes, NodeKind::Regular(content)),
            Change::Symlink(attributes, target) => {
                if target.is_empty() || target.len() > MAX_SYMLINK_BYTES || target.contains(&0) {
                    return Err(Problem::BadSymlink);
                }
                (attributes, NodeKind::Symlink(target.into()))
            }
            Change::CharDevice(attributes, device) => (attributes, NodeKind::CharDevice(device)),
            Change::BlockDevice(attributes, device) => (attributes, NodeKind::BlockDevice(device)),
            Change::Fifo(attributes) => (attributes, NodeKind::Fifo),
            Change::Socket(attributes) => (attributes, NodeKind::Socket),
        };
        let node = self.add(Node { attributes, kind })?;
        Ok(self.set_link(parent, name, Link { node, layer })?)
    }

    fn apply_to_root(&mut self, change: Change) -> Result<(), Problem> {
        match change {
            Change::Directory(attributes) => self.replace_attributes(NodeId::ROOT, attributes),
            _ => Err(Problem::RootNotADirectory),
        }
    }

    fn replace_attributes(&mut self, id: NodeId, attributes: Attributes) -> Result<(), Problem> {
        // Spent like a new entry: a layer can repeat a folder as often as it likes.
        self.entries.spend(1)?;
        self.metadata.spend(
            attributes.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() as u64,
        )?;
        self.node_mut(id).attributes = attributes;
        Ok(())
    }

    fn link_target(&mut self, target: &[u8]) -> Result<NodeId, Problem> {
        let shown = || String::from_utf8_lossy(target).into_owned();
        let names = components(target, self.max_path_bytes)?;
        let Some((name, parents)) = names.split_last() else { return Err(Problem::LinkToDirectory(shown())) };
        let link = match self.resolve(parents, Missing::Accept)? {
            Some(parent) => self.link(parent, name),
            None => None,
        };
        match link {
            Some(link) if self.directory(link.node).is_some() => Err(Problem::LinkToDirectory(shown())),
            Some(link) => Ok(link.node),
            None => Err(Problem::NoLinkTarget(shown())),
        }
    }

    fn white_out(&mut self, layer: u32, marker: &[u8], parents: &[&[u8]]) -> Result<(), Problem> {
        let Some(parent) = self.resolve(parents, Missing::Accept)? else { return Ok(()) };
        if marker == OPAQUE {
            self.remove_older(parent, layer);
            return Ok(());
        }
        if marker.starts_with(AUFS) {
            return Ok(());
        }
        // `.wh..` and `.wh...` would name the folder itself and the one above it.
        let name = marker.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(name, b"" | b"." | b"..") {
            return Err(Problem::BadWhiteout);
        }
        let Some(link) = self.link(parent, name) else { return Ok(()) };
        if link.layer < layer {
            if let Some(directory) = self.directory_mut(parent) {
                directory.links.remove(name);
            }
        } else {
            self.remove_older(link.node, layer);
        }
        Ok(())
    }

    /// Empties a folder, and those in it that stay, of all that is older than `layer`. No-op for anything but a folder.
    fn remove_older(&mut self, top: NodeId, layer: u32) {
        let mut left = vec![top];
        while let Some(id) = left.pop() {
            let Some(directory) = self.directory_mut(id) else { continue };
            if directory.clean_since >= layer {
                continue;
            }
            directory.clean_since = layer;
            directory.links.retain(|_, link| link.layer >= layer);
            left.extend(directory.links.values().map(|link| link.node));
        }
    }
}
