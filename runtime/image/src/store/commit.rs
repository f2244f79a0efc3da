//! An image that is another one with one more layer, which a container sends. That is as hostile as one from a registry, and goes the same
//! way: it has no name before a root file system was made of it.

use std::io::Read;
use std::time::SystemTime;

use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Map, Value, json};

use super::add::{stored_bytes, whole_seconds};
use super::content;
use super::library::Listed;
use super::lock::Lock;
use super::{Error, Progress, Store};
use crate::digest::Digest;
use crate::name::Name;
use crate::platform::Platform;
use crate::source;

type Cause = Box<dyn std::error::Error + Send + Sync>;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What it is called in a manifest of Docker's.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What is to become of an image and a layer.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// The image's id.
    pub base: &'a Digest,
    pub name: Option<&'a Name>,
    /// The member `config` of the configuration (OCI image spec, config.md).
    pub config: Value,
    /// What it was made by, and other words of its maker.
    pub created_by: &'a str,
    pub author: &'a str,
    pub message: &'a str,
    /// RFC 3339.
    pub created: &'a str,
}

impl Store {
    /// The image that has this id, among those with a manifest here.
    ///
    /// # Errors
    /// [`Error::Store`], and [`Error::NotThere`] also for an image that is in an archive only.
    pub fn by_id(&self, id: &Digest) -> Result<Listed, Error> {
        let listed = self.list()?.into_iter().find(|one| one.id == *id);
        listed.ok_or_else(|| Error::NotThere(id.to_string()))
    }

    /// Makes it. The layer is a tar archive, and an error of its reader ends all.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::NotThere`] and [`Error::Store`]
    pub fn commit(
        &self,
        commit: &Commit<'_>,
        layer: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Listed, Error> {
        let failed = |source: Cause| Error::Image { reference: "that is to be made".to_owned(), source };
        let of_content = |error: content::Error| match error {
            content::Error::Write(source) => self.error(source),
            other => failed(other.into()),
        };
        let _shared = Lock::shared(&self.content_lock()).map_err(|source| self.error(source))?;
        let base = self.by_id(commit.base)?;
        let description = self.describe(&base)?;
        let content = self.content();
        let (digest, bytes) = content.receive(layer, self.limits.unpacked_bytes).map_err(of_content)?;
        let config = with_layer(description.config, commit, &digest);
        let config = serde_json::to_vec(&config).map_err(|error| failed(error.into()))?;
        let id = content.put(&config).map_err(of_content)?;
        let manifest = with_blobs(description.manifest, &id, config.len(), &digest, bytes);
        let media_type = manifest.get("mediaType").and_then(Value::as_str).map(MediaType::from);
        let media_type = media_type.unwrap_or(MediaType::ImageManifest);
        let manifest = serde_json::to_vec(&manifest).map_err(|error| failed(error.into()))?;
        let manifest_digest = content.put(&manifest).map_err(of_content)?;
        let oci_digest = manifest_digest.to_string().parse();
        let oci_digest: oci_spec::image::Digest = oci_digest.map_err(|_| failed("a bad digest".into()))?;
        let descriptor = Descriptor::new(media_type.clone(), manifest.len() as u64, oci_digest);
        let platform = Platform::of_this_machine();
        let found = source::find_described(&self.directory, &descriptor, &platform, &self.limits)
            .map_err(|error| failed(error.into()))?;
        // The layer is read here, with all that may be wrong in it.
        self.make(&self.entry(&found.id), &found, &failed, progress)?;
        let listed = Listed {
            name: commit.name.cloned(),
            id,
            manifest: manifest_digest,
            index: None,
            bytes: stored_bytes(&found),
            added: whole_seconds(SystemTime::now()),
        };
        self.enter(&listed, media_type.as_ref(), manifest.len() as u64)?;
        Ok(listed)
    }
}

fn with_layer(mut base: Value, commit: &Commit<'_>, layer: &Digest) -> Value {
    let members = object(&mut base);
    members.insert("created".into(), commit.created.into());
    members.insert("config".into(), commit.config.clone());
    if !commit.author.is_empty() {
        members.insert("author".into(), commit.author.into());
    }
    // Docker's, of the container that the base was made in.
    members.remove("container");
    members.remove("container_config");
    let mut step = json!({"created": commit.created, "created_by": commit.created_by});
    for (name, words) in [("author", commit.author), ("comment", commit.message)] {
        if !words.is_empty() {
            object(&mut step).insert(name.to_owned(), words.into());
        }
    }
    push(members, "history", step);
    let rootfs = members.entry("rootfs").or_insert_with(|| json!({"type": "layers"}));
    push(object(rootfs), "diff_ids", layer.to_string().into());
    base
}

fn with_blobs(mut base: Value, config: &Digest, config_bytes: usize, layer: &Digest, bytes: u64) -> Value {
    let members = object(&mut base);
    let is_dockers = members.get("mediaType").is_some_and(|kind| kind == DOCKER_MANIFEST);
    if let Some(Value::Object(described)) = members.get_mut("config") {
        described.insert("digest".into(), config.to_string().into());
        described.insert("size".into(), config_bytes.into());
    }
    // What the base's maker says of the base.
    members.remove("annotations");
    let kind = if is_dockers { DOCKER_LAYER } else { LAYER };
    push(members, "layers", json!({"mediaType": kind, "digest": layer.to_string(), "size": bytes}));
    base
}

/// What is no object becomes an empty one; whoever reads the image then says what it lacks.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("it was made one above"),
    }
}

fn push(members: &mut Map<String, Value>, name: &str, value: Value) {
    match members.get_mut(name) {
        Some(Value::Array(all)) => all.push(value),
        _ => {
            members.insert(name.to_owned(), Value::Array(vec![value]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_told_of_in_manifest_and_configuration() {
        let (base, layer) = (Digest::of(b"base"), Digest::of(b"layer"));
        let commit = Commit {
            base: &base,
            name: None,
            config: json!({"Cmd": ["x"]}),
            created_by: "x",
            author: "",
            message: "why",
            created: "2026-01-01T00:00:00Z",
        };
        let config =
            json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ["a"]}, "container": "c"});
        let config = with_layer(config, &commit, &layer);
        assert_eq!(config["rootfs"]["diff_ids"], json!(["a", layer.to_string()]));
        assert_eq!(config["history"][0]["comment"], "why");
        assert!(config.get("container").is_none() && config.get("author").is_none());
        let manifest = json!({"mediaType": DOCKER_MANIFEST, "config": {"mediaType": "c"}, "layers": [1]});
        let manifest = with_blobs(manifest, &base, 5, &layer, 7);
        assert_eq!(manifest["config"], json!({"mediaType": "c", "digest": base.to_string(), "size": 5}));
        assert_eq!(manifest["layers"][1]["mediaType"], DOCKER_LAYER);
    }
}
