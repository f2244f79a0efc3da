//! Images leave the store: as an archive that is an OCI layout and a docker-archive at once, and as what they say of themselves.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};

use oci_spec::image::{Descriptor, ImageIndexBuilder, ImageManifest};
use serde_json::{Value, json};
use tar::{Builder, Header};

use super::library::{INDEX, LAYOUT, Listed, NAME};
use super::lock::Lock;
use super::{Error, Store};
use crate::digest::Digest;

/// containerd's and Docker's annotation for whole names; the specification's then has the tag.
const WHOLE_NAME: &str = "io.containerd.image.name";

/// What an image says of itself, as JSON.
#[derive(Debug)]
pub struct Description {
    pub config: Value,
    pub manifest: Value,
}

impl Store {
    /// # Errors
    /// [`Error::Store`]
    pub fn describe(&self, image: &Listed) -> Result<Description, Error> {
        let read = |digest: &Digest| io::Result::Ok(serde_json::from_slice(&self.content().read(digest)?)?);
        let described = || Ok(Description { config: read(&image.id)?, manifest: read(&image.manifest)? });
        described().map_err(|source| self.error(source))
    }

    /// Writes images as an archive, each blob once; `written` is told of each piece of them.
    ///
    /// # Errors
    /// [`Error::Save`], for reading and writing alike.
    pub fn save(&self, images: &[Listed], to: impl Write, written: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let _shared = Lock::shared(&self.content_lock()).map_err(|source| self.error(source))?;
        self.write_archive(images, to, written).map_err(Error::Save)
    }

    fn write_archive(
        &self,
        images: &[Listed],
        to: impl Write,
        written: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let content = self.content();
        let mut archive = Archive { tar: Builder::new(to), written };
        archive.add_bytes(LAYOUT.0, LAYOUT.1.as_bytes())?;
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let mut docker = Vec::new();
        for image in images {
            let json = content.read(&image.manifest)?;
            let manifest: ImageManifest = serde_json::from_slice(&json)?;
            let all = manifest.layers().iter().chain([manifest.config()]);
            blobs.extend(all.map(|blob| (hex(blob), blob.size())));
            blobs.insert(image.manifest.hex().to_owned(), json.len() as u64);
            docker.push(docker_entry(image, &manifest));
            let descriptor = self.descriptor(image).map_err(io::Error::other)?;
            descriptors.extend(descriptor.map(|descriptor| named(descriptor, image)));
        }
        for (hex, bytes) in &blobs {
            let file = File::open(content.path().join(hex))?;
            archive.add(&format!("blobs/sha256/{hex}"), *bytes, file)?;
        }
        let index = ImageIndexBuilder::default().schema_version(2_u32).manifests(descriptors).build();
        let index = index.map_err(io::Error::other)?;
        // By way of a Value, whose members are sorted.
        archive.add_bytes(INDEX, &serde_json::to_vec(&serde_json::to_value(&index)?)?)?;
        archive.add_bytes("manifest.json", &serde_json::to_vec(&docker)?)?;
        archive.tar.into_inner()?.flush()
    }
}

struct Archive<'a, W: Write> {
    tar: Builder<W>,
    written: &'a mut dyn FnMut(u64),
}

impl<W: Write> Archive<'_, W> {
    fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.add(name, bytes.len() as u64, bytes)
    }

    /// Always the same bytes for the same images: no times, no owners.
    fn add(&mut self, name: &str, bytes: u64, content: impl io::Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        let counted = Counted { content, count: self.written };
        self.tar.append_data(&mut header, name, counted)
    }
}

struct Counted<'a, R> {
    content: R,
    count: &'a mut dyn FnMut(u64),
}

impl<R: io::Read> io::Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.content.read(buffer)?;
        (self.count)(len as u64);
        Ok(len)
    }
}

fn hex(descriptor: &Descriptor) -> String {
    descriptor.digest().digest().to_owned()
}

/// As in what `docker save` writes.
fn docker_entry(image: &Listed, manifest: &ImageManifest) -> Value {
    let path = |blob: &Descriptor| format!("blobs/sha256/{}", hex(blob));
    let tags: Vec<_> = image
        .name
        .iter()
        .filter_map(|name| Some(format!("{}:{}", name.familiar_repository(), name.tag()?)))
        .collect();
    json!({
        "Config": path(manifest.config()),
        "RepoTags": tags,
        "Layers": manifest.layers().iter().map(path).collect::<Vec<_>>(),
    })
}

/// With names that others understand, in place of the store's own annotations.
fn named(mut descriptor: Descriptor, image: &Listed) -> Descriptor {
    let mut annotations = HashMap::new();
    if let Some(name) = &image.name {
        annotations.insert(WHOLE_NAME.to_owned(), name.to_string());
        annotations.extend(name.tag().map(|tag| (NAME.to_owned(), tag.to_owned())));
    }
    descriptor.set_annotations(Some(annotations));
    descriptor
}
