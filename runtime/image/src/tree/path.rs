//! Paths within the tree. A path never leaves it: `..` in an entry's name is refused, and symbolic links that earlier entries
//! put in the way are followed inside the tree alone, with `/` and `..` ending at its root, as a chroot would.

use std::collections::VecDeque;

use super::{Attributes, Directory, Link, Node, NodeId, NodeKind, Tree};
use crate::limits::Exceeded;

/// Linux gives up after 40 links (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// EROFS and every other file system of Linux: NAME_MAX.
const MAX_NAME_BYTES: usize = 255;

/// Why an entry of a layer is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Problem {
    #[error("its path leads out of the image ('..')")]
    Traversal,
    #[error("its path holds a NUL byte")]
    Nul,
    #[error("its path is empty")]
    Empty,
    #[error("its path is longer than {0} bytes")]
    PathTooLong(usize),
    #[error("its path has a name longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    #[error("its path is deeper than {0} folders")]
    TooDeep(usize),
    #[error("a part of its path is no folder")]
    NotADirectory,
    #[error("its path has too many symbolic links")]
    TooManyLinks,
    #[error("it is no folder, but the image's root is one")]
    RootNotADirectory,
    #[error("it is a hard link to '{0}', which does not exist")]
    NoLinkTarget(String),
    #[error("it is a hard link to the folder '{0}'")]
    LinkToDirectory(String),
    #[error("its link's target is empty, has a NUL byte or is longer than 4095 bytes")]
    BadSymlink,
    #[error("it is no whiteout that the image specification knows")]
    BadWhiteout,
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

/// The names of `path`, without empty ones and `.`; none of them is `..`.
pub(super) fn components(path: &[u8], max_path_bytes: usize) -> Result<Vec<&[u8]>, Problem> {
    if path.is_empty() {
        return Err(Problem::Empty);
    }
    if path.len() > max_path_bytes {
        return Err(Problem::PathTooLong(max_path_bytes));
    }
    if path.contains(&0) {
        return Err(Problem::Nul);
    }
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Problem::Traversal),
            _ if name.len() > MAX_NAME_BYTES => return Err(Problem::NameTooLong),
            _ => names.push(name),
        }
    }
    Ok(names)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make the folders that are missing, and mark all of the path as touched by this layer.
    Create { layer: u32 },
    /// Then there is no such folder.
    Accept,
}

impl Tree {
    /// The folder at `names`, following symbolic links; `None` only with [`Missing::Accept`].
    pub(super) fn resolve(&mut self, names: &[&[u8]], missing: Missing) -> Result<Option<NodeId>, Problem> {
        let mut left: VecDeque<Box<[u8]>> = names.iter().map(|name| (*name).into()).collect();
        let mut above = Vec::new();
        let mut here = NodeId::ROOT;
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    here = above.pop().unwrap_or(NodeId::ROOT);
                    continue;
                }
                _ => {}
            }
            let Some(link) = self.link(here, &name) else {
                let Missing::Create { layer } = missing else { return Ok(None) };
                above.push(here);
                here = self.create_directory(here, &name, layer)?;
                self.check_depth(above.len())?;
                continue;
            };
            match &self.node(link.node).kind {
                NodeKind::Directory(_) => {
                    if let Missing::Create { layer } = missing {
                        self.touch(here, &name, layer);
                    }
                    above.push(here);
                    here = link.node;
                    self.check_depth(above.len())?;
                }
                NodeKind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Problem::TooManyLinks);
                    }
                    if target.first() == Some(&b'/') {
                        above.clear();
                        here = NodeId::ROOT;
                    }
                    for part in target.rsplit(|byte| *byte == b'/') {
                        left.push_front(part.into());
                    }
                }
                _ => return Err(Problem::NotADirectory),
            }
        }
        Ok(Some(here))
    }

    /// The node at `path`, with every symbolic link followed inside the tree.
    pub(crate) fn lookup(&mut self, path: &[u8]) -> Option<&Node> {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut names: Vec<Box<[u8]>> = names.into_iter().map(Into::into).collect();
        for _ in 0..MAX_LINKS {
            let (last, parents) = names.split_last()?;
            let parents: Vec<&[u8]> = parents.iter().map(|name| &**name).collect();
            let directory = self.resolve(&parents, Missing::Accept).ok()??;
            let link = self.link(directory, last)?;
            let NodeKind::Symlink(target) = &self.node(link.node).kind else {
                return Some(self.node(link.node));
            };
            let target = target.clone();
            names.pop();
            if target.first() == Some(&b'/') {
                names.clear();
            }
            names.extend(target.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(Into::into));
        }
        None
    }

    fn create_directory(&mut self, parent: NodeId, name: &[u8], layer: u32) -> Result<NodeId, Exceeded> {
        let directory = Directory { clean_since: layer, ..Directory::default() };
        let node =
            self.add(Node { attributes: Attributes::implied(), kind: NodeKind::Directory(directory) })?;
        self.set_link(parent, name, Link { node, layer })?;
        Ok(node)
    }

    fn touch(&mut self, directory: NodeId, name: &[u8], layer: u32) {
        if let Some(link) = self.directory_mut(directory).and_then(|directory| directory.links.get_mut(name))
        {
            link.layer = layer;
        }
    }

    fn check_depth(&self, depth: usize) -> Result<(), Problem> {
        if depth > self.max_depth { Err(Problem::TooDeep(self.max_depth)) } else { Ok(()) }
    }
}
