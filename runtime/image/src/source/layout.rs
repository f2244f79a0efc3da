//! OCI image layouts (image-layout.md, image-index.md, manifest.md), and Docker's media types for the same things.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::blobs::{Blobs, parse};
use super::{Error, Found, Manifest, assemble, is_called};
use crate::digest::Digest;
use crate::limits::{Exceeded, Limits};
use crate::platform::Platform;

pub(super) const INDEX: &str = "index.json";
/// An index of indexes of indexes: more is not seen in the wild.
const MAX_NESTING: usize = 3;

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Names of an image in its index: the specification's own, and the one that containerd and Docker add.
const NAME_ANNOTATIONS: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

pub(super) fn find(
    blobs: &Blobs,
    tag: Option<&str>,
    platform: &Platform,
    limits: &Limits,
) -> Result<Found, Error> {
    let index: ImageIndex = parse(INDEX, &blobs.read(INDEX, limits)?)?;
    resolve(blobs, choose(index.manifests(), tag, platform)?, platform, limits)
}

/// Those for other platforms are passed over, as long as one is for this.
pub(super) fn find_all(
    blobs: &Blobs,
    tag: Option<&str>,
    platform: &Platform,
    limits: &Limits,
) -> Result<Vec<(Vec<String>, Found)>, Error> {
    let index: ImageIndex = parse(INDEX, &blobs.read(INDEX, limits)?)?;
    let descriptors = named(index.manifests(), tag)?;
    let fitting = descriptors.iter().filter(|one| fits(one, platform));
    let found: Vec<_> = fitting
        .map(|one| {
            let names = names(one).map(str::to_owned).collect();
            Ok((names, resolve(blobs, one, platform, limits)?))
        })
        .collect::<Result<_, Error>>()?;
    if found.is_empty() { Err(no_platform(&descriptors, platform)) } else { Ok(found) }
}

/// From an index to the manifest for the platform, and to what that says.
pub(super) fn resolve(
    blobs: &Blobs,
    descriptor: &Descriptor,
    platform: &Platform,
    limits: &Limits,
) -> Result<Found, Error> {
    let mut descriptor = descriptor.clone();
    let mut first_index = None;
    for _ in 0..MAX_NESTING {
        let (digest, bytes) = (digest_of(&descriptor)?, descriptor.size());
        let json = blobs.read_blob(&digest, bytes, limits)?;
        let media_type = descriptor.media_type().to_string();
        match descriptor.media_type() {
            MediaType::ImageIndex => {}
            MediaType::Other(other) if other == DOCKER_INDEX => {}
            MediaType::ImageManifest => {
                let manifest = Manifest { digest, media_type, json, index: first_index };
                return from_manifest(blobs, manifest, platform, limits);
            }
            MediaType::Other(other) if other == DOCKER_MANIFEST => {
                let manifest = Manifest { digest, media_type, json, index: first_index };
                return from_manifest(blobs, manifest, platform, limits);
            }
            other => return Err(Error::MediaType(other.to_string())),
        }
        let index: ImageIndex = parse(&digest.to_string(), &json)?;
        descriptor = choose(index.manifests(), None, platform)?.clone();
        first_index.get_or_insert(digest);
    }
    Err(Error::Nesting)
}

fn from_manifest(blobs: &Blobs, raw: Manifest, platform: &Platform, limits: &Limits) -> Result<Found, Error> {
    let manifest: ImageManifest = parse(&raw.digest.to_string(), &raw.json)?;
    if manifest.layers().len() > limits.layers {
        return Err(Exceeded { of: "layers", limit: limits.layers as u64 }.into());
    }
    let id = digest_of(manifest.config())?;
    let config = blobs.read_blob(&id, manifest.config().size(), limits)?;
    let layers = manifest.layers().iter().map(|layer| {
        check_layer_type(layer.media_type())?;
        let digest = digest_of(layer)?;
        Ok((blobs.blob(&digest, layer.size())?, Some(digest)))
    });
    let found = assemble(id, config, layers.collect::<Result<_, Error>>()?, platform, limits)?;
    Ok(Found { manifest: Some(raw), ..found })
}

/// How a layer is compressed is read from its first bytes; here only what is no plain layer (encrypted ones, say) is refused.
fn check_layer_type(media_type: &MediaType) -> Result<(), Error> {
    match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => Ok(()),
        MediaType::Other(other) if DOCKER_LAYERS.contains(&other.as_str()) => Ok(()),
        other => Err(Error::MediaType(other.to_string())),
    }
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, Error> {
    Ok(descriptor.digest().to_string().parse()?)
}

/// Those that `tag` names, or all.
fn named<'a>(descriptors: &'a [Descriptor], tag: Option<&str>) -> Result<Vec<&'a Descriptor>, Error> {
    let named: Vec<_> = descriptors
        .iter()
        .filter(|one| tag.is_none_or(|tag| names(one).any(|name| is_called(name, tag))))
        .collect();
    if named.is_empty() {
        return Err(match tag {
            Some(tag) => {
                Error::Tag { wanted: tag.to_owned(), present: list(descriptors.iter().flat_map(names)) }
            }
            None => Error::Empty,
        });
    }
    Ok(named)
}

/// The one that `tag` names, for the platform.
fn choose<'a>(
    descriptors: &'a [Descriptor],
    tag: Option<&str>,
    platform: &Platform,
) -> Result<&'a Descriptor, Error> {
    let named = named(descriptors, tag)?;
    let fitting: Vec<_> = named.iter().copied().filter(|one| fits(one, platform)).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => Err(no_platform(&named, platform)),
        [first, rest @ ..] if rest.iter().all(|one| one.digest() == first.digest()) => Ok(first),
        // An index for one image states platforms, one with several images states names.
        [first, ..] if names(first).next().is_none() => Ok(first),
        several => Err(Error::Ambiguous(list(several.iter().copied().flat_map(names)))),
    }
}

fn no_platform(named: &[&Descriptor], platform: &Platform) -> Error {
    let present = list(named.iter().map(|one| platform_of(one)));
    Error::Platform { wanted: platform.to_string(), present }
}

fn names(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    let annotations = descriptor.annotations().as_ref();
    NAME_ANNOTATIONS.iter().filter_map(move |key| annotations?.get(*key)).map(String::as_str)
}

/// One without a platform may fit; its configuration decides.
fn fits(descriptor: &Descriptor, wanted: &Platform) -> bool {
    descriptor.platform().as_ref().is_none_or(|its| {
        let (os, architecture) = (its.os().to_string(), its.architecture().to_string());
        wanted.takes(&os, &architecture, its.variant().as_deref())
    })
}

fn platform_of(descriptor: &Descriptor) -> String {
    descriptor
        .platform()
        .as_ref()
        .map_or_else(|| "unknown".into(), |platform| format!("{}/{}", platform.os(), platform.architecture()))
}

fn list(items: impl Iterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<_> = items.map(|item| item.as_ref().to_owned()).collect();
    if items.is_empty() { "none with a name".into() } else { items.join(", ") }
}
