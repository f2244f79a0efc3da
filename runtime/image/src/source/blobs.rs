//! The named parts of an image: files below a directory, or members of an archive.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::Error;
use super::archive::Archive;
use crate::digest::Digest;
use crate::limits::{Exceeded, Limits};
use crate::section::{Section, Source};

#[derive(Debug)]
pub(super) enum Blobs {
    Directory {
        layout: PathBuf,
        /// Another one, which may have blobs that this one has not.
        beside: Option<PathBuf>,
    },
    Archive(Archive),
}

impl Blobs {
    pub(super) fn in_directory(path: &Path) -> Self {
        Self::Directory { layout: path.to_owned(), beside: None }
    }

    pub(super) fn in_directories(path: &Path, beside: &Path) -> Self {
        Self::Directory { layout: path.to_owned(), beside: Some(beside.to_owned()) }
    }

    pub(super) fn in_archive(source: Source, limits: &Limits) -> Result<Self, Error> {
        Archive::open(source, limits).map(Self::Archive)
    }

    /// The part called `name`, which is relative to the image.
    pub(super) fn section(&self, name: &str) -> Result<Section, Error> {
        match self {
            Self::Archive(archive) => archive.section(name),
            Self::Directory { layout, beside } => {
                let path = layout.join(name);
                let is_elsewhere = name.starts_with("blobs/") && !path.exists();
                let beside = beside.as_ref().filter(|_| is_elsewhere).map(|beside| beside.join(name));
                let path = beside.unwrap_or(path);
                Source::open(&path).map(Section::whole).map_err(|source| Error::Open { path, source })
            }
        }
    }

    /// Its bytes, which are JSON of a limited size.
    pub(super) fn read(&self, name: &str, limits: &Limits) -> Result<Vec<u8>, Error> {
        let section = self.section(name)?;
        if section.bytes > limits.json_bytes {
            return Err(Exceeded {
                of: "bytes in an index, manifest or configuration",
                limit: limits.json_bytes,
            }
            .into());
        }
        let mut bytes = Vec::new();
        section
            .reader()
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Read { name: name.to_owned(), source })?;
        Ok(bytes)
    }

    /// The blob with that digest (OCI image spec, image-layout.md), which must have the size that its descriptor states.
    pub(super) fn blob(&self, digest: &Digest, bytes: u64) -> Result<Section, Error> {
        let name = format!("blobs/sha256/{}", digest.hex());
        let section = self.section(&name)?;
        if section.bytes != bytes {
            return Err(Error::Size { name, expected: bytes, actual: section.bytes });
        }
        Ok(section)
    }

    /// A blob of JSON, its digest verified.
    pub(super) fn read_blob(&self, digest: &Digest, bytes: u64, limits: &Limits) -> Result<Vec<u8>, Error> {
        self.blob(digest, bytes)?;
        let content = self.read(&format!("blobs/sha256/{}", digest.hex()), limits)?;
        let actual = Digest::of(&content);
        if actual == *digest { Ok(content) } else { Err(Error::Digest { name: digest.clone(), actual }) }
    }
}

pub(super) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { name: name.to_owned(), source })
}
