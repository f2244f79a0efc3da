//! What a reference leads to: the configuration and the layers of one image, found and checked, the layers not yet read.

mod archive;
mod blobs;
mod docker;
mod layout;

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;

use crate::config::ImageConfig;
use crate::digest::{Digest, ParseDigestError};
use crate::limits::{Exceeded, Limits};
use crate::platform::Platform;
use crate::reference::{Reference, Transport};
use crate::section::{Section, Source};
use crate::tar;
use blobs::Blobs;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the archive")]
    Archive(#[from] tar::Error),
    #[error("cannot read '{name}'")]
    Read {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("it has no '{0}'")]
    Missing(String),
    #[error("'{0}' is a link that leads nowhere")]
    Link(String),
    #[error("'{name}' has {actual} bytes, its descriptor says {expected}")]
    Size { name: String, expected: u64, actual: u64 },
    #[error("'{name}' does not have its digest: the digest of its content is {actual}")]
    Digest { name: Digest, actual: Digest },
    #[error(transparent)]
    BadDigest(#[from] ParseDigestError),
    #[error("'{name}' is malformed")]
    Json {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    #[error("its media type '{0}' is not supported")]
    MediaType(String),
    #[error("it has no image named '{wanted}' (it has: {present})")]
    Tag { wanted: String, present: String },
    #[error("it has several images ({0}): name one with :TAG")]
    Ambiguous(String),
    #[error("it has no image at all")]
    Empty,
    #[error("it has no image for {wanted} (it has: {present})")]
    Platform { wanted: String, present: String },
    #[error("its indexes are nested too deeply")]
    Nesting,
    #[error("it has {layers} layers, but its configuration lists {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
}

/// One layer, found but not read.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) section: Section,
    /// Of the stored bytes; a docker-archive states none.
    pub(crate) digest: Option<Digest>,
    /// Of the uncompressed tar archive.
    pub(crate) diff_id: Digest,
}

/// An image's manifest as it was found; a docker-archive has none.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) json: Vec<u8>,
    /// The index that led to it.
    pub(crate) index: Option<Digest>,
}

/// One image, found but not read.
#[derive(Debug)]
pub(crate) struct Found {
    /// The configuration's digest. It lists the layers' digests, so equal ids mean equal images.
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    /// What has that digest.
    pub(crate) config_json: Vec<u8>,
    pub(crate) manifest: Option<Manifest>,
    pub(crate) layers: Vec<Layer>,
}

/// Finds the image that `reference` names.
pub(crate) fn find(reference: &Reference, platform: &Platform, limits: &Limits) -> Result<Found, Error> {
    let blobs = blobs(reference, limits)?;
    match reference.transport() {
        Transport::OciLayout | Transport::OciArchive => {
            layout::find(&blobs, reference.tag(), platform, limits)
        }
        Transport::DockerArchive => docker::find(&blobs, reference.tag(), platform, limits),
    }
}

/// Finds all images that `reference` may mean, each with its names.
pub(crate) fn find_all(
    reference: &Reference,
    platform: &Platform,
    limits: &Limits,
) -> Result<Vec<(Vec<String>, Found)>, Error> {
    let blobs = blobs(reference, limits)?;
    match reference.transport() {
        Transport::OciLayout | Transport::OciArchive => {
            layout::find_all(&blobs, reference.tag(), platform, limits)
        }
        Transport::DockerArchive => docker::find_all(&blobs, reference.tag(), platform, limits),
    }
}

/// Finds the image of a layout whose blobs may be in another one beside it.
pub(crate) fn find_beside(
    layout: &Path,
    beside: &Path,
    platform: &Platform,
    limits: &Limits,
) -> Result<Found, Error> {
    layout::find(&Blobs::in_directories(layout, beside), None, platform, limits)
}

/// Finds the image that a descriptor in a layout's directory leads to.
pub(crate) fn find_described(
    directory: &Path,
    descriptor: &Descriptor,
    platform: &Platform,
    limits: &Limits,
) -> Result<Found, Error> {
    layout::resolve(&Blobs::in_directory(directory), descriptor, platform, limits)
}

/// What an archive is by its members.
pub(crate) fn archive(path: &Path, limits: &Limits) -> Option<Reference> {
    let blobs = Blobs::in_archive(Source::open(path).ok()?, limits).ok()?;
    let kinds =
        [(layout::INDEX, Transport::OciArchive), (docker::MANIFEST, Transport::DockerArchive)].into_iter();
    let mut present = kinds.filter(|(name, _)| blobs.section(name).is_ok());
    present.next().map(|(_, transport)| Reference::to(transport, path))
}

fn blobs(reference: &Reference, limits: &Limits) -> Result<Blobs, Error> {
    let path = reference.path();
    if reference.transport() == Transport::OciLayout {
        return Ok(Blobs::in_directory(path));
    }
    let archive = Source::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
    Blobs::in_archive(archive, limits)
}

/// The file whose state decides what a reference means: an archive itself, or a layout's index.
pub(crate) fn deciding_file(reference: &Reference) -> PathBuf {
    match reference.transport() {
        Transport::OciLayout => reference.path().join(layout::INDEX),
        Transport::OciArchive | Transport::DockerArchive => reference.path().to_owned(),
    }
}

/// Whether `name`, as in `docker.io/library/busybox:1.36`, is what a user calls `busybox:1.36` or `1.36`.
fn is_called(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with(['/', ':']))
}

/// Joins what was found (sections and digests of layers) with the configuration's own list.
fn assemble(
    id: Digest,
    config_json: Vec<u8>,
    layers: Vec<(Section, Option<Digest>)>,
    platform: &Platform,
    limits: &Limits,
) -> Result<Found, Error> {
    let (config, diff_ids) = ImageConfig::parse(&config_json)
        .map_err(|source| Error::Json { name: format!("configuration {id}"), source })?;
    if !platform.takes(&config.os, &config.architecture, config.variant.as_deref()) {
        let present = format!("{}/{}", config.os, config.architecture);
        return Err(Error::Platform { wanted: platform.to_string(), present });
    }
    if layers.len() > limits.layers {
        return Err(Exceeded { of: "layers", limit: limits.layers as u64 }.into());
    }
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    let layers = layers
        .into_iter()
        .zip(diff_ids)
        .map(|((section, digest), diff_id)| Ok(Layer { section, digest, diff_id: diff_id.parse()? }));
    Ok(Found { id, config, config_json, manifest: None, layers: layers.collect::<Result<_, Error>>()? })
}
