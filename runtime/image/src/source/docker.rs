//! What `docker save` writes: `manifest.json` names each image's configuration and layers by path.

use serde::Deserialize;

use super::blobs::{Blobs, parse};
use super::{Error, Found, assemble, is_called};
use crate::digest::Digest;
use crate::limits::{Exceeded, Limits};
use crate::platform::Platform;

pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Image {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

pub(super) fn find(
    blobs: &Blobs,
    tag: Option<&str>,
    platform: &Platform,
    limits: &Limits,
) -> Result<Found, Error> {
    let images: Vec<Image> = parse(MANIFEST, &blobs.read(MANIFEST, limits)?)?;
    match named(&images, tag)?.as_slice() {
        [image] => read(blobs, image, platform, limits),
        _ => Err(Error::Ambiguous(tags(&images))),
    }
}

pub(super) fn find_all(
    blobs: &Blobs,
    tag: Option<&str>,
    platform: &Platform,
    limits: &Limits,
) -> Result<Vec<(Vec<String>, Found)>, Error> {
    let images: Vec<Image> = parse(MANIFEST, &blobs.read(MANIFEST, limits)?)?;
    let named = named(&images, tag)?.into_iter();
    named.map(|image| Ok((image.tags().to_vec(), read(blobs, image, platform, limits)?))).collect()
}

/// Those that `tag` names, or all.
fn named<'a>(images: &'a [Image], tag: Option<&str>) -> Result<Vec<&'a Image>, Error> {
    let is_named =
        |image: &&Image| tag.is_none_or(|tag| image.tags().iter().any(|name| is_called(name, tag)));
    let named: Vec<_> = images.iter().filter(is_named).collect();
    match (named.is_empty(), tag) {
        (true, Some(tag)) => Err(Error::Tag { wanted: tag.to_owned(), present: tags(images) }),
        (true, None) => Err(Error::Empty),
        (false, _) => Ok(named),
    }
}

fn tags(images: &[Image]) -> String {
    images.iter().flat_map(Image::tags).cloned().collect::<Vec<_>>().join(", ")
}

fn read(blobs: &Blobs, image: &Image, platform: &Platform, limits: &Limits) -> Result<Found, Error> {
    if image.layers.len() > limits.layers {
        return Err(Exceeded { of: "layers", limit: limits.layers as u64 }.into());
    }
    let config = blobs.read(&image.config, limits)?;
    let layers = image.layers.iter().map(|name| Ok((blobs.section(name)?, None)));
    let layers = layers.collect::<Result<_, Error>>()?;
    assemble(Digest::of(&config), config, layers, platform, limits)
}
