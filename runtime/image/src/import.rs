//! Turns the layers of one image into one EROFS image.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::erofs::{self, Data};
use crate::layer::{self, LayerData, Merge};
use crate::limits::{Budget, Limits};
use crate::source::Found;
use crate::store::Progress;
use crate::tree::{NodeKind, Origin, Tree};
use crate::user::Accounts;

/// `/etc/passwd` or `/etc/group`: larger ones are cut off.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("layer {diff_id}")]
    Layer {
        diff_id: Digest,
        #[source]
        source: layer::Error,
    },
    #[error("cannot make the file system image")]
    Erofs(#[from] erofs::Error),
    #[error("cannot read /etc/passwd and /etc/group")]
    Accounts(#[source] io::Error),
    #[error("{0} was changed while it was read")]
    Changed(PathBuf),
}

impl Error {
    /// The cause, if it lies with the place where the image is written, not with the image.
    pub(crate) fn into_write_error(self) -> Result<io::Error, Self> {
        match self {
            Self::Layer { source: layer::Error::Spool { source, .. }, .. } => Ok(source),
            Self::Erofs(erofs::Error::Write(source)) => Ok(source),
            other => Err(other),
        }
    }
}

/// What was written, beside the file system image itself.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) accounts: Accounts,
}

/// Merges the layers of `found` and writes the result to `file`. Spools go into `directory`.
pub(crate) fn import(
    found: &Found,
    limits: &Limits,
    directory: &Path,
    file: &File,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, Error> {
    let total = found.layers.iter().map(|layer| layer.section.bytes).sum();
    let mut done = 0;
    let mut merge = Merge {
        tree: Tree::new(limits),
        unpacked: Budget::new("bytes in its layers", limits.unpacked_bytes),
        limits,
        spool_directory: directory,
        progress: &mut |bytes| {
            done += bytes;
            progress(Progress::Reading { done, total });
        },
    };
    let mut data = Layers(Vec::new());
    for (number, layer) in (0..).zip(&found.layers) {
        let read = merge.add(number, layer);
        data.0.push(read.map_err(|source| Error::Layer { diff_id: layer.diff_id.clone(), source })?);
    }
    let mut tree = merge.tree;
    let written = write(&mut tree, &mut data, file, progress)?;
    // Layers stored uncompressed were verified in one reading and copied in another.
    for layer in &found.layers {
        let source = &layer.section.source;
        if !source.is_unchanged().unwrap_or(false) {
            return Err(Error::Changed(source.path().to_owned()));
        }
    }
    Ok(written)
}

/// Writes a finished tree.
pub(crate) fn write(
    tree: &mut Tree,
    data: &mut dyn Data,
    file: &File,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, Error> {
    let bytes =
        erofs::write(tree, data, file, &mut |done, total| progress(Progress::Writing { done, total }))?;
    let accounts = Accounts {
        passwd: read_text(tree, data, b"/etc/passwd").map_err(Error::Accounts)?,
        group: read_text(tree, data, b"/etc/group").map_err(Error::Accounts)?,
    };
    Ok(Written { bytes, accounts })
}

/// A file's content, nothing if it is not there.
fn read_text(tree: &mut Tree, data: &mut dyn Data, path: &[u8]) -> io::Result<String> {
    let Some(NodeKind::Regular(content)) = tree.lookup(path).map(|node| &node.kind) else {
        return Ok(String::new());
    };
    let mut bytes = vec![0; usize::try_from(content.size.min(MAX_ACCOUNTS_BYTES)).unwrap_or_default()];
    for piece in &content.pieces {
        let start = usize::try_from(piece.at).unwrap_or(usize::MAX).min(bytes.len());
        let end = usize::try_from(piece.at + piece.bytes).unwrap_or(usize::MAX).min(bytes.len());
        data.read_exact_at(content.origin, piece.offset, bytes.get_mut(start..end).unwrap_or_default())?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Layers(Vec<LayerData>);

impl Data for Layers {
    fn read_exact_at(&mut self, origin: Origin, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let layer = self.0.get(origin.0 as usize).ok_or(io::ErrorKind::NotFound)?;
        layer.read_exact_at(buffer, offset)
    }
}
