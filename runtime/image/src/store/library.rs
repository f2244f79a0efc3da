//! Images by name. The store is an OCI image layout (image-layout.md): `index.json` has the names, `blobs` what they lead to.
//!
//! Two locks, always taken in this order: `content.lock` is shared by those who add blobs or need them, and held alone by who takes
//! some away, who does not wait for it: what is left then, the next one takes. `names.lock` is held alone while `index.json` changes.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::content::Content;
use super::lock::Lock;
use super::{Error, Store, entry};
use crate::digest::Digest;
use crate::name::Name;

pub(super) const INDEX: &str = "index.json";
/// What every layout has (image-layout.md).
pub(super) const LAYOUT: (&str, &str) = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);

/// The specification's annotation for names.
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";
/// Ours: the configuration's digest, that of the index which led to the manifest, the sizes' sum, seconds since 1970.
const ID: &str = "securectr.id";
const LED_BY: &str = "securectr.index";
const BYTES: &str = "securectr.bytes";
const ADDED: &str = "securectr.added";

/// The shortest beginning of an id that is taken for one.
const LEAST_ID_LEN: usize = 4;

/// An image in the store by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// None when the name has become another image's.
    pub name: Option<Name>,
    /// The configuration's digest.
    pub id: Digest,
    pub manifest: Digest,
    /// The index from which the manifest was chosen.
    pub index: Option<Digest>,
    /// Of configuration and layers, as they are stored.
    pub bytes: u64,
    pub added: SystemTime,
}

/// What was taken away.
#[derive(Debug, Default)]
pub struct Removed {
    pub untagged: Vec<Name>,
    /// Images that have no name any more.
    pub deleted: Vec<Digest>,
    pub freed_bytes: u64,
}

impl Store {
    /// All images, the latest first.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut listed: Vec<_> = self.index()?.manifests().iter().filter_map(listed).collect();
        listed.sort_by(|a, b| b.added.cmp(&a.added).then_with(|| a.name.cmp(&b.name)));
        Ok(listed)
    }

    /// The image that somebody calls so: by a name, by the digest of what was pulled, or by the beginning of its id.
    ///
    /// # Errors
    /// [`Error::Store`], and [`Error::Ambiguous`] for the beginning of several ids.
    pub fn find(&self, wanted: &str) -> Result<Option<Listed>, Error> {
        let all = self.list()?;
        if let Ok(name) = wanted.parse::<Name>() {
            if let Some(found) = all.iter().find(|one| is_called(one, &name)) {
                return Ok(Some(found.clone()));
            }
        }
        let start = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let is_id = start.len() >= LEAST_ID_LEN && start.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = all.into_iter().filter(|one| is_id && one.id.hex().starts_with(start));
        let first = found.next();
        if found.any(|other| Some(&other.id) != first.as_ref().map(|first| &first.id)) {
            return Err(Error::Ambiguous(wanted.to_owned()));
        }
        Ok(first)
    }

    /// Gives an image one more name, which is taken from whoever has it.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub fn tag(&self, image: &Listed, name: &Name) -> Result<(), Error> {
        self.change(|index| {
            let named = Listed { name: Some(name.clone()), ..image.clone() };
            let source = index.iter().find(|one| digest_of(one).as_ref() == Some(&image.manifest)).cloned();
            if let Some(source) = source {
                insert(index, &named, source);
            }
        })
    }

    /// Takes a name from an image; without a name, all names. An image without any is taken away.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub fn remove(&self, image: &Listed, name: Option<&Name>) -> Result<Removed, Error> {
        let mut removed = self.take_away(|one| match name {
            Some(name) => one.name.as_ref() == Some(name),
            None => one.id == image.id,
        })?;
        removed.freed_bytes += self.forget(|id| removed.deleted.contains(id))?;
        Ok(removed)
    }

    /// Takes away images without a name, all that `is_going` says so of, and what was kept of archives and
    /// of pulls that did not come to their end. What `is_used` says so of stays, by its id.
    ///
    /// # Errors
    /// [`Error::Store`]
    pub fn prune(
        &self,
        is_going: impl Fn(&Listed) -> bool,
        is_used: impl Fn(&Digest) -> bool,
    ) -> Result<Removed, Error> {
        // First, for the rest needs some room on the disk.
        self.sweep_pulls(true).map_err(|source| self.error(source))?;
        let mut removed = self.take_away(|one| !is_used(&one.id) && (one.name.is_none() || is_going(one)))?;
        let kept: BTreeSet<_> = self.list()?.into_iter().map(|one| one.id).collect();
        removed.freed_bytes += self.forget(|id| !kept.contains(id) && !is_used(id))?;
        Ok(removed)
    }

    /// Removes root file systems that were made of images.
    fn forget(&self, is_going: impl Fn(&Digest) -> bool) -> Result<u64, Error> {
        entry::remove(&self.images(), is_going).map_err(|source| self.error(source))
    }

    fn take_away(&self, is_going: impl Fn(&Listed) -> bool) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let mut staying = BTreeSet::new();
        self.change(|index| {
            index.retain(|descriptor| {
                let Some(one) = listed(descriptor) else { return false };
                if is_going(&one) {
                    removed.untagged.extend(one.name);
                    removed.deleted.push(one.id);
                    return false;
                }
                staying.insert(one.id);
                true
            });
        })?;
        removed.deleted.retain(|id| !staying.contains(id));
        removed.deleted.sort_unstable();
        removed.deleted.dedup();
        removed.freed_bytes = self.sweep().map_err(|source| self.error(source))?;
        Ok(removed)
    }

    /// Takes away what no name leads to, if nobody adds anything just now.
    fn sweep(&self) -> io::Result<u64> {
        let Some(_alone) = Lock::try_alone(&self.content_lock())? else { return Ok(0) };
        let content = self.content();
        let mut kept = BTreeSet::new();
        for descriptor in self.read_index()?.manifests() {
            let Some(one) = listed(descriptor) else { continue };
            let manifest: ImageManifest = serde_json::from_slice(&content.read(&one.manifest)?)?;
            kept.extend(manifest.layers().iter().filter_map(digest_of));
            kept.extend([one.manifest, one.id]);
        }
        content.sweep(&kept)
    }

    /// Notes an image whose blobs are there.
    pub(super) fn enter(&self, image: &Listed, media_type: &str, manifest_bytes: u64) -> Result<(), Error> {
        let digest: oci_spec::image::Digest = match image.manifest.to_string().parse() {
            Ok(digest) => digest,
            Err(_) => return Err(self.error(io::ErrorKind::InvalidData.into())),
        };
        let descriptor = Descriptor::new(MediaType::from(media_type), manifest_bytes, digest);
        self.change(|index| insert(index, image, descriptor))
    }

    pub(super) fn descriptor(&self, image: &Listed) -> Result<Option<Descriptor>, Error> {
        let index = self.index()?;
        let it = index.manifests().iter().find(|one| digest_of(one).as_ref() == Some(&image.manifest));
        Ok(it.cloned())
    }

    fn index(&self) -> Result<ImageIndex, Error> {
        self.read_index().map_err(|source| self.error(source))
    }

    fn read_index(&self) -> io::Result<ImageIndex> {
        match fs::read(self.directory.join(INDEX)) {
            Ok(json) => Ok(serde_json::from_slice(&json)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(serde_json::from_str(r#"{"schemaVersion":2,"manifests":[]}"#)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Whole or not at all.
    fn change(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), Error> {
        let changed = || {
            let _alone = Lock::alone(&self.directory.join("names.lock"), &mut || {})?;
            let mut index = self.read_index()?;
            let mut descriptors = index.manifests().clone();
            change(&mut descriptors);
            if descriptors == *index.manifests() {
                return Ok(());
            }
            index.set_manifests(descriptors);
            write_whole(self, LAYOUT.0, LAYOUT.1.as_bytes())?;
            write_whole(self, INDEX, &serde_json::to_vec(&index)?)
        };
        changed().map_err(|source| self.error(source))
    }

    pub(super) fn content(&self) -> Content {
        Content::of(&self.directory)
    }

    pub(super) fn content_lock(&self) -> std::path::PathBuf {
        self.directory.join("content.lock")
    }
}

fn write_whole(store: &Store, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = store.directory.join(name);
    if fs::read(&path).is_ok_and(|now| now == bytes) {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::new_in(&store.directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Whether somebody who says `name` means this one: by its name, or in its repository by a digest.
fn is_called(one: &Listed, name: &Name) -> bool {
    let Some(its) = &one.name else { return false };
    match name.digest() {
        None => its == name,
        Some(digest) => {
            let is_it = *digest == one.manifest || Some(digest) == one.index.as_ref();
            is_it && (its.host(), its.path()) == (name.host(), name.path())
        }
    }
}

fn digest_of(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.digest().to_string().parse().ok()
}

/// An entry of the index; one that is none of ours is passed over.
fn listed(descriptor: &Descriptor) -> Option<Listed> {
    let annotations = descriptor.annotations().as_ref()?;
    let number = |key| annotations.get(key)?.parse::<u64>().ok();
    Some(Listed {
        name: annotations.get(NAME).and_then(|name| name.parse().ok()),
        id: annotations.get(ID)?.parse().ok()?,
        manifest: digest_of(descriptor)?,
        index: annotations.get(LED_BY).and_then(|digest| digest.parse().ok()),
        bytes: number(BYTES)?,
        added: UNIX_EPOCH + Duration::from_secs(number(ADDED)?),
    })
}

/// A name means one image: who had it before stays, without it, unless it is known by another.
fn insert(index: &mut Vec<Descriptor>, image: &Listed, mut descriptor: Descriptor) {
    let mut nameless = Vec::new();
    index.retain(|other| {
        let Some(one) = listed(other) else { return false };
        let is_same = one.name.is_none() && one.manifest == image.manifest;
        let is_replaced = one.name.is_some() && one.name == image.name;
        if is_replaced && one.manifest != image.manifest {
            nameless.push((Listed { name: None, ..one }, other.clone()));
        }
        !is_same && !is_replaced
    });
    for (one, mut other) in nameless {
        if !index.iter().filter_map(listed).any(|known| known.id == one.id) {
            other.set_annotations(Some(annotations(&one)));
            index.push(other);
        }
    }
    descriptor.set_annotations(Some(annotations(image)));
    index.push(descriptor);
}

fn annotations(image: &Listed) -> HashMap<String, String> {
    let added = image.added.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let fixed = [(ID, image.id.to_string()), (BYTES, image.bytes.to_string()), (ADDED, added.to_string())];
    let name = image.name.as_ref().map(|name| (NAME, name.to_string()));
    let index = image.index.as_ref().map(|index| (LED_BY, index.to_string()));
    fixed.into_iter().chain(name).chain(index).map(|(key, value)| (key.to_owned(), value)).collect()
}
