//! What `docker save` writes: `manifest.json` names each image's configuration and layers by path.

use serde::Deserialize;

use super::blobs::{Blobs, parse};
use super::{Error, Found, assemble, is_called};
use crate::digest::Digest;
use crate::limits::Limits;

const MANIFEST: &str = "manifest.json";

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

pub(super) fn find(blobs: &Blobs, tag: Option<&str>, limits: &Limits) -> Result<Found, Error> {
    let images: Vec<Image> = parse(MANIFEST, &blobs.read(MANIFEST, limits)?)?;
    let present = || images.iter().flat_map(Image::tags).cloned().collect::<Vec<_>>().join(", ");
    let mut matching = images
        .iter()
        .filter(|image| tag.is_none_or(|tag| image.tags().iter().any(|name| is_called(name, tag))));
    let image = match (matching.next(), matching.next(), tag) {
        (Some(image), None, _) => image,
        (Some(_), Some(_), _) => return Err(Error::Ambiguous(present())),
        (None, _, Some(tag)) => return Err(Error::Tag { wanted: tag.to_owned(), present: present() }),
        (None, _, None) => return Err(Error::Empty),
    };
    if image.layers.len() > limits.layers {
        return Err(crate::limits::Exceeded { of: "layers", limit: limits.layers as u64 }.into());
    }
    let config = blobs.read(&image.config, limits)?;
    let layers = image.layers.iter().map(|name| Ok((blobs.section(name)?, None)));
    assemble(Digest::of(&config), &config, layers.collect::<Result<_, Error>>()?, limits)
}
