//! From a name to the manifest of one image, through indexes.

use std::collections::HashSet;

use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageManifest, MediaType};
use securectr_registry::Request;
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};
use thiserror::Error;

use crate::{
    blobs::{DigestError, Part, digest_of},
    error::quote,
    host::{Host, HostError},
    name::{Name, What},
    platform,
};

/// An index of indexes of indexes: more is not seen in the wild.
const MAX_NESTING: usize = 3;

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYERS: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What a name has led to. All digests are SHA-256, and nothing exceeds the request's limits.
#[derive(Debug)]
pub(crate) struct Image {
    /// Verbatim.
    pub(crate) manifest: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    /// The index that the name stands for.
    pub(crate) index: Option<Digest>,
    pub(crate) config: Part,
    /// From the lowest on, each once.
    pub(crate) layers: Vec<Part>,
}

#[derive(Debug, Error)]
pub(crate) enum ResolveError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("a manifest is not what its digest says: {wanted} was asked for, {got} came")]
    WrongManifest { wanted: Digest, got: Digest },
    #[error("the manifest {digest} has {got} bytes, where its index says {wanted}")]
    WrongSize { digest: Digest, wanted: u64, got: u64 },
    #[error("understand the manifest {digest}")]
    Json { digest: Digest, source: serde_json::Error },
    #[error(
        "the image is in the old format of schema version 1, which is not supported: have it pushed anew"
    )]
    Schema1,
    #[error("a manifest has no media type that is understood ({})", quote(.0))]
    MediaType(String),
    #[error("a manifest says that it is {media_type}, and has fields of something else")]
    Ambiguous { media_type: String },
    #[error("it is no image of a container: its configuration is {}", quote(.0))]
    NoImage(String),
    #[error("a layer is of a kind that is not understood: {}", quote(.0))]
    Layer(String),
    #[error("an index is in an index in an index, and so on: more than {MAX_NESTING}")]
    Nesting,
    #[error("the image is not there for {wanted}, only for {}", quote(.there))]
    Platform { wanted: String, there: String },
    #[error("{digest} is said to have {one} bytes, and {other} bytes")]
    TwoSizes { digest: Digest, one: u64, other: u64 },
    #[error("more than {limit} {of} (a limit for one image)")]
    TooMuch { of: &'static str, limit: u64 },
}

pub(crate) async fn image(
    host: &Host,
    address: &str,
    name: &Name,
    request: &Request,
) -> Result<Image, ResolveError> {
    let mut reference = name.at(address);
    let mut stated = None;
    let mut index = None;
    for _ in 0..=MAX_NESTING {
        let bytes = host.manifest(&reference).await?;
        let wanted = match (&stated, name.what()) {
            (Some(descriptor), _) => Some(Descriptor::digest(descriptor)),
            (None, What::Digest(digest)) => Some(digest),
            (None, What::Tag(_)) => None,
        };
        let digest = check(&bytes, wanted, stated.as_ref(), request.limits.json_bytes)?;
        match kind_of(&bytes, &digest, stated.as_ref())? {
            (Kind::Manifest, media_type) => {
                return Ok(Image { index, ..from_manifest(bytes, digest, media_type, request)? });
            }
            (Kind::Index, _) => {
                let entries: ImageIndex = parse(&bytes, &digest)?;
                let chosen = choose(entries, request)?;
                reference = reference.clone_with_digest(Part::of(&chosen)?.digest.to_string());
                stated = Some(chosen);
                index.get_or_insert(digest);
            }
        }
    }
    Err(ResolveError::Nesting)
}

/// The digest of what came, which is what was asked for.
fn check(
    bytes: &[u8],
    wanted: Option<&Digest>,
    stated: Option<&Descriptor>,
    limit: u64,
) -> Result<Digest, ResolveError> {
    let got = bytes.len() as u64;
    if got > limit {
        return Err(ResolveError::TooMuch { of: "bytes of a manifest", limit });
    }
    let digest = digest_of(bytes)?;
    if let Some(wanted) = wanted.filter(|wanted| **wanted != digest) {
        return Err(ResolveError::WrongManifest { wanted: wanted.clone(), got: digest });
    }
    match stated.map(Descriptor::size) {
        Some(wanted) if wanted != got => Err(ResolveError::WrongSize { digest, wanted, got }),
        _ => Ok(digest),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
}

/// What tells manifests and indexes apart.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// In OCI's formats the media type may be left out; then the index that led here says it, or the fields do. A document that could be
/// read as either is refused: whoever else looks at this digest may have read the other.
fn kind_of(
    bytes: &[u8],
    digest: &Digest,
    stated: Option<&Descriptor>,
) -> Result<(Kind, MediaType), ResolveError> {
    let outline: Outline = parse(bytes, digest)?;
    let stated = || stated.map(|descriptor| descriptor.media_type().to_string());
    let media_type = outline.media_type.clone().or_else(stated);
    let looks_like_index = outline.manifests.is_some();
    let looks_like_manifest = outline.config.is_some() || outline.layers.is_some();
    if outline.schema_version == Some(1) || media_type.as_deref().is_some_and(is_schema1) {
        return Err(ResolveError::Schema1);
    }
    let (kind, media_type) = match media_type.as_deref().map(MediaType::from) {
        Some(MediaType::ImageManifest) => (Kind::Manifest, MediaType::ImageManifest),
        Some(MediaType::ImageIndex) => (Kind::Index, MediaType::ImageIndex),
        Some(MediaType::Other(other)) if other == DOCKER_MANIFEST => {
            (Kind::Manifest, MediaType::Other(other))
        }
        Some(MediaType::Other(other)) if other == DOCKER_INDEX => (Kind::Index, MediaType::Other(other)),
        Some(other) => return Err(ResolveError::MediaType(other.to_string())),
        None if looks_like_index => (Kind::Index, MediaType::ImageIndex),
        None if looks_like_manifest => (Kind::Manifest, MediaType::ImageManifest),
        None => return Err(ResolveError::MediaType("none".into())),
    };
    let is_ambiguous = match kind {
        Kind::Manifest => looks_like_index,
        Kind::Index => looks_like_manifest,
    };
    if is_ambiguous {
        return Err(ResolveError::Ambiguous { media_type: media_type.to_string() });
    }
    Ok((kind, media_type))
}

fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

fn choose(index: ImageIndex, request: &Request) -> Result<Descriptor, ResolveError> {
    let wanted = &request.platform;
    platform::choose(wanted, index.manifests()).cloned().ok_or_else(|| {
        let variant = wanted.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        ResolveError::Platform {
            wanted: format!("{}/{}{variant}", wanted.os, wanted.architecture),
            there: platform::list(index.manifests()),
        }
    })
}

fn from_manifest(
    bytes: Vec<u8>,
    digest: Digest,
    media_type: MediaType,
    request: &Request,
) -> Result<Image, ResolveError> {
    let limits = request.limits;
    let manifest: ImageManifest = parse(&bytes, &digest)?;
    match manifest.config().media_type() {
        MediaType::ImageConfig => {}
        MediaType::Other(other) if other == DOCKER_CONFIG => {}
        other => return Err(ResolveError::NoImage(other.to_string())),
    }
    let config = Part::of(manifest.config())?;
    if config.bytes > limits.json_bytes {
        return Err(ResolveError::TooMuch { of: "bytes of a configuration", limit: limits.json_bytes });
    }
    if manifest.layers().len() > limits.layers {
        return Err(ResolveError::TooMuch { of: "layers", limit: limits.layers as u64 });
    }
    let layers = manifest.layers().iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    let layers = each_once(&config, layers)?;
    let total = layers.iter().map(|layer| layer.bytes).fold(config.bytes, u64::saturating_add);
    if total > limits.bytes {
        return Err(ResolveError::TooMuch { of: "bytes of all layers", limit: limits.bytes });
    }
    Ok(Image { manifest: bytes, digest, media_type, index: None, config, layers })
}

/// Of what is compressed how, the bytes speak later; here only what is no plain layer (an encrypted one, say) is refused. A foreign
/// layer's URLs are not followed: the registry has it, or it is missing.
fn layer(descriptor: &Descriptor) -> Result<Part, ResolveError> {
    match descriptor.media_type() {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => {}
        MediaType::Other(other) if DOCKER_LAYERS.contains(&other.as_str()) => {}
        other => return Err(ResolveError::Layer(other.to_string())),
    }
    Ok(Part::of(descriptor)?)
}

/// A layer may be there twice (an empty one often is), but not with two sizes: two transfers would write to one file.
fn each_once(config: &Part, layers: Vec<Part>) -> Result<Vec<Part>, ResolveError> {
    let mut once: Vec<Part> = Vec::with_capacity(layers.len());
    let mut seen = HashSet::new();
    for layer in layers {
        if layer.digest != config.digest && seen.insert(layer.digest.clone()) {
            once.push(layer);
            continue;
        }
        let first = once.iter().chain([config]).find(|one| one.digest == layer.digest).map(|one| one.bytes);
        if let Some(one) = first.filter(|&bytes| bytes != layer.bytes) {
            return Err(ResolveError::TwoSizes { digest: layer.digest, one, other: layer.bytes });
        }
    }
    Ok(once)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], digest: &Digest) -> Result<T, ResolveError> {
    serde_json::from_slice(bytes).map_err(|source| ResolveError::Json { digest: digest.clone(), source })
}
