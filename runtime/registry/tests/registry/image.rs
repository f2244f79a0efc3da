//! Images made by hand.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Its blobs by digest, and its manifest, verbatim.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) layers: Vec<String>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: &'static str,
}

impl Image {
    pub(crate) fn oci(layers: &[&[u8]]) -> Self {
        Self::new(layers, [OCI_MANIFEST, OCI_CONFIG, OCI_LAYER], "amd64")
    }

    pub(crate) fn docker(layers: &[&[u8]]) -> Self {
        Self::new(layers, [DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER], "amd64")
    }

    /// Media types: of the manifest, the configuration, the layers.
    pub(crate) fn new(layers: &[&[u8]], types: [&'static str; 3], architecture: &str) -> Self {
        let config =
            json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers"}}).to_string();
        let mut blobs = BTreeMap::from([(sha256(config.as_bytes()), config.clone().into_bytes())]);
        blobs.extend(layers.iter().map(|layer| (sha256(layer), layer.to_vec())));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": types[0],
            "config": descriptor(types[1], config.as_bytes()),
            "layers": layers.iter().map(|layer| descriptor(types[2], layer)).collect::<Vec<_>>(),
        });
        Self {
            blobs,
            layers: layers.iter().map(|layer| sha256(layer)).collect(),
            manifest: manifest.to_string().into_bytes(),
            media_type: types[0],
        }
    }

    pub(crate) fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Its entry in an index, for that platform: `os/architecture[/variant]`.
    pub(crate) fn entry(&self, platform: &str) -> Value {
        let mut parts = platform.split('/');
        let mut entry = descriptor(self.media_type, &self.manifest);
        entry["platform"] = json!({"os": parts.next(), "architecture": parts.next()});
        if let Some(variant) = parts.next() {
            entry["platform"]["variant"] = variant.into();
        }
        entry
    }
}

pub(crate) fn index(media_type: &str, entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string().into_bytes()
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

/// As coreutils' sha256sum has it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = sum.wait_with_output().unwrap();
    format!("sha256:{}", String::from_utf8_lossy(&output.stdout[..64]))
}

/// Bytes that no two calls with different seeds have in common.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The files below a directory, by their paths in it.
pub(crate) fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}
