//! What an image may cost at most. Every limit is checked before the cost arises, and its error names it.

/// Upper bounds for one image. The defaults leave room for the largest public images (tens of GiB, half a million files).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of all layers after decompression: what a compression bomb can make us read and spool.
    pub unpacked_bytes: u64,
    /// Files, folders and links of all layers together, also those that later layers replace.
    pub entries: u64,
    /// Host memory for names, extended attributes and the places of files' data.
    pub metadata_bytes: u64,
    /// One entry's path; the kernel's own limit for a path is 4096 bytes.
    pub path_bytes: usize,
    /// Folders above an entry.
    pub depth: usize,
    /// Segments of one sparse file.
    pub sparse_segments: u64,
    /// One index, manifest or configuration; registries take manifests of at most 4 MiB.
    pub json_bytes: u64,
    /// Layers of one image; overlayfs-based engines stop at 128.
    pub layers: usize,
    /// Members of an archive that holds an image.
    pub archive_members: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked_bytes: 64 << 30,
            entries: 2_000_000,
            metadata_bytes: 1 << 30,
            path_bytes: 4096,
            depth: 1024,
            sparse_segments: 1_000_000,
            json_bytes: 4 << 20,
            layers: 512,
            archive_members: 100_000,
        }
    }
}

/// A limit was met.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("more than {limit} {of} (a limit of this program for one image)")]
pub struct Exceeded {
    /// What is limited, in the plural, with its unit.
    pub of: &'static str,
    pub limit: u64,
}

/// What is left of one limit.
#[derive(Debug)]
pub(crate) struct Budget {
    of: &'static str,
    limit: u64,
    left: u64,
}

impl Budget {
    pub(crate) fn new(of: &'static str, limit: u64) -> Self {
        Self { of, limit, left: limit }
    }

    pub(crate) fn spend(&mut self, amount: u64) -> Result<(), Exceeded> {
        match self.left.checked_sub(amount) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Exceeded { of: self.of, limit: self.limit }),
        }
    }
}
