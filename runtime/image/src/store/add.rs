//! Images come into the store: from archives and layouts, and from where a pull has laid them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::OciSpecError;
use oci_spec::image::{DescriptorBuilder, ImageManifestBuilder, MediaType};

use super::content::{self, Content, Taking};
use super::library::Listed;
use super::lock::Lock;
use super::{Error, Image, Progress, Store};
use crate::digest::Digest;
use crate::layer::Decoder;
use crate::limits::Exceeded;
use crate::name::Name;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::source::{self, Found, Manifest};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What is to come into the store.
#[derive(Clone, Copy, Debug)]
pub struct Addition<'a> {
    pub reference: &'a Reference,
    pub platform: &'a Platform,
    /// In place of the names that images bring.
    pub name: Option<&'a Name>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Content(#[from] content::Error),
    #[error("describe the image")]
    Describe(#[from] OciSpecError),
}

impl Store {
    /// Adds all images that a reference may mean.
    ///
    /// # Errors
    /// [`Error::Image`] and [`Error::Store`]
    pub fn add(
        &self,
        &Addition { reference, platform, name }: &Addition<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Listed>, Error> {
        let failed = |source| Error::Image { reference: reference.to_string(), source };
        let _shared = Lock::shared(&self.content_lock()).map_err(|source| self.error(source))?;
        let found =
            source::find_all(reference, platform, &self.limits).map_err(|error| failed(error.into()))?;
        let total = found.iter().map(|(_, found)| stored_bytes(found)).sum();
        let mut transfer = Transfer { how: Taking::Copy, done: 0, total, progress };
        let mut added = Vec::new();
        for (names, found) in found {
            let names = match name {
                Some(name) => vec![Some(name.clone())],
                None => names_of(&names),
            };
            added.extend(self.take(&found, names, &mut transfer, &failed)?);
        }
        Ok(added)
    }

    /// Takes an image in under each of these names. The lock of the content is held.
    pub(super) fn take(
        &self,
        found: &Found,
        names: Vec<Option<Name>>,
        transfer: &mut Transfer<'_>,
        failed: &dyn Fn(Cause) -> Error,
    ) -> Result<Vec<Listed>, Error> {
        let manifest = self.keep(found, transfer).map_err(|failure| match failure {
            Failure::Content(content::Error::Write(source)) => self.error(source),
            other => failed(other.into()),
        })?;
        let added = whole_seconds(SystemTime::now());
        let listed = names.into_iter().map(|name| {
            let listed = Listed {
                name,
                id: found.id.clone(),
                manifest: manifest.digest.clone(),
                index: manifest.index.clone(),
                bytes: stored_bytes(found),
                added,
            };
            self.enter(&listed, &manifest.media_type, manifest.json.len() as u64)?;
            Ok(listed)
        });
        listed.collect()
    }

    /// What an archive is by its members: of those that are both, the layout. A compressed one, or one from a pipe, has to be
    /// [spooled](Self::spool) first; it is none, as is what has no images.
    pub fn archive(&self, path: &Path) -> Option<Reference> {
        source::archive(path, &self.limits)
    }

    /// Unpacks an archive into a file without a name.
    ///
    /// # Errors
    /// [`Error::Spool`], for reading and writing alike.
    pub fn spool(&self, archive: impl Read) -> Result<File, Error> {
        let spooled = || {
            let mut file = tempfile::tempfile_in(&self.directory)?;
            let limit = self.limits.unpacked_bytes;
            let bytes = io::copy(&mut Decoder::new(archive)?.take(limit + 1), &mut file)?;
            if bytes > limit {
                return Err(io::Error::other(Exceeded { of: "bytes in an archive", limit }));
            }
            Ok(file)
        };
        spooled().map_err(Error::Spool)
    }

    /// The root file system of an image in the store, made now if need be.
    ///
    /// # Errors
    /// [`Error::Image`] and [`Error::Store`]
    pub fn open_image(&self, image: &Listed, progress: &mut dyn FnMut(Progress)) -> Result<Image, Error> {
        let entry = self.entry(&image.id);
        if let Some(image) = entry.open() {
            return Ok(image);
        }
        let name = image.name.as_ref().map_or_else(|| image.id.to_string(), Name::to_string);
        let failed = |source| Error::Image { reference: name.clone(), source };
        let _shared = Lock::shared(&self.content_lock()).map_err(|source| self.error(source))?;
        let descriptor = self.descriptor(image)?.ok_or_else(|| Error::NotThere(name.clone()))?;
        let platform = Platform::of_this_machine();
        let found = source::find_described(&self.directory, &descriptor, &platform, &self.limits);
        let found = found.map_err(|error| failed(error.into()))?;
        self.make(&entry, &found, &failed, progress)
    }

    /// The root file system of an image by its configuration's digest: that of an archive, as long as it is kept, or of a name.
    ///
    /// # Errors
    /// [`Error::Image`] and [`Error::Store`]
    pub fn image(&self, id: &Digest, progress: &mut dyn FnMut(Progress)) -> Result<Option<Image>, Error> {
        if let Some(image) = self.entry(id).open() {
            return Ok(Some(image));
        }
        let listed = self.list()?.into_iter().find(|one| one.id == *id);
        listed.map(|listed| self.open_image(&listed, progress)).transpose()
    }

    /// Puts the blobs of an image into the store.
    fn keep(&self, found: &Found, transfer: &mut Transfer<'_>) -> Result<Manifest, Failure> {
        let content = self.content();
        content.create().map_err(content::Error::Write)?;
        content.put(&found.config_json)?;
        transfer.advance(found.config_json.len() as u64);
        let layers: Vec<(Digest, u64)> = found
            .layers
            .iter()
            .map(|layer| {
                let how = transfer.how;
                let mut taken = |bytes| transfer.advance(bytes);
                let digest = content.take(&layer.section, layer.digest.as_ref(), how, &mut taken)?;
                Ok((digest, layer.section.bytes))
            })
            .collect::<Result<_, content::Error>>()?;
        match &found.manifest {
            Some(manifest) => {
                content.put(&manifest.json)?;
                Ok(manifest.clone())
            }
            None => describe(&content, found, &layers),
        }
    }
}

/// Content on its way into the store, and who is told of it. Bytes.
pub(super) struct Transfer<'a> {
    pub how: Taking,
    pub done: u64,
    pub total: u64,
    pub progress: &'a mut dyn FnMut(Progress),
}

impl Transfer<'_> {
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(Progress::Copying { done: self.done, total: self.total });
    }
}

/// A manifest for an image that came without one; how its layers are compressed is read from them.
fn describe(content: &Content, found: &Found, layers: &[(Digest, u64)]) -> Result<Manifest, Failure> {
    let descriptor = |media_type: MediaType, digest: &Digest, bytes: u64| {
        let digest: oci_spec::image::Digest = digest.to_string().parse()?;
        DescriptorBuilder::default().media_type(media_type).digest(digest).size(bytes).build()
    };
    let config = descriptor(MediaType::ImageConfig, &found.id, found.config_json.len() as u64)?;
    let layers = layers.iter().map(|(digest, bytes)| descriptor(MediaType::ImageLayer, digest, *bytes));
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers.collect::<Result<Vec<_>, OciSpecError>>()?)
        .build()?;
    let json = manifest.to_string()?.into_bytes();
    let digest = content.put(&json)?;
    Ok(Manifest { digest, media_type: MediaType::ImageManifest.to_string(), json, index: None })
}

/// As the index keeps it.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

pub(super) fn stored_bytes(found: &Found) -> u64 {
    found.config_json.len() as u64 + found.layers.iter().map(|layer| layer.section.bytes).sum::<u64>()
}

/// A tag alone says nothing of a repository, and is no name here.
fn names_of(names: &[String]) -> Vec<Option<Name>> {
    let whole = names.iter().filter(|name| name.contains(['/', ':', '@']));
    let mut names: Vec<Name> = whole.filter_map(|name| name.parse().ok()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
}
