//! Makes images in memory and writes them as archives and layouts.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use securectr_image::{Error, Image, Reference, Store};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar archive of regular files.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// One empty member with any name at all, which the crate's own builder would refuse.
pub(crate) fn tar_entry(path: &str, kind: tar::EntryType, target: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) stored: Vec<u8>,
    pub(crate) diff_id: String,
    pub(crate) media_type: String,
}

impl Blob {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        let diff_id = digest(&tar);
        Self { stored: tar, diff_id, media_type: "application/vnd.oci.image.layer.v1.tar".into() }
    }

    pub(crate) fn stored_as(tar: &[u8], stored: Vec<u8>, media_type: &str) -> Self {
        Self { stored, diff_id: digest(tar), media_type: media_type.into() }
    }
}

/// An image as its parts, each of which a test may spoil before it is written.
pub(crate) struct TestImage {
    /// Path in a layout, content.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
    pub(crate) layers: Vec<Blob>,
}

impl TestImage {
    pub(crate) fn new(layers: Vec<Blob>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"], "User": "web"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        Self::with_config(layers, config)
    }

    pub(crate) fn with_config(layers: Vec<Blob>, config: Value) -> Self {
        let mut this = Self { files: Vec::new(), manifest: Value::Null, config, layers };
        let config = this.config.to_string().into_bytes();
        let config = this.add_blob("application/vnd.oci.image.config.v1+json", config);
        let layers: Vec<_> = this
            .layers
            .clone()
            .into_iter()
            .map(|layer| this.add_blob(&layer.media_type, layer.stored))
            .collect();
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        this.manifest = this.add_blob(manifest_type, manifest.to_string().into_bytes());
        this.files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        this
    }

    /// One that holds these files in one uncompressed layer.
    pub(crate) fn of_files(files: &[(&str, &[u8])]) -> Self {
        Self::new(vec![Blob::plain(tar_of(files))])
    }

    /// Returns its descriptor.
    pub(crate) fn add_blob(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
        self.files.push((format!("blobs/sha256/{}", &digest[7..]), content));
        descriptor
    }

    pub(crate) fn index(&self, descriptors: &[Value]) -> Vec<u8> {
        json!({"schemaVersion": 2, "manifests": descriptors}).to_string().into_bytes()
    }

    pub(crate) fn named(&self, name: &str) -> Value {
        let mut descriptor = self.manifest.clone();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    }

    pub(crate) fn for_platform(&self, os: &str, architecture: &str) -> Value {
        let mut descriptor = self.manifest.clone();
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        descriptor
    }

    /// Writes an archive with that index, or one of the image alone; returns its path.
    pub(crate) fn archive_in(&self, directory: &Path, index: Option<Vec<u8>>) -> PathBuf {
        let path = directory.join("image.tar");
        let index = index.unwrap_or_else(|| self.index(&[self.named("latest")]));
        let mut files = self.files.clone();
        files.push(("index.json".into(), index));
        let files: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        fs::write(&path, tar_of(&files)).unwrap();
        path
    }

    pub(crate) fn layout_in(&self, directory: &Path) -> PathBuf {
        let path = directory.join("layout");
        let index = ("index.json".to_owned(), self.index(&[self.named("latest")]));
        for (name, content) in self.files.iter().chain([&index]) {
            let path = path.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        path
    }

    pub(crate) fn docker_archive_in(&self, directory: &Path, tags: &[&str]) -> PathBuf {
        let path = directory.join("docker.tar");
        let names: Vec<_> = (0..self.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).to_string();
        let config = self.config.to_string();
        let mut files: Vec<(&str, &[u8])> = vec![("config.json", config.as_bytes())];
        files.extend(
            names.iter().map(String::as_str).zip(self.layers.iter().map(|layer| layer.stored.as_slice())),
        );
        files.push(("manifest.json", manifest.as_bytes()));
        fs::write(&path, tar_of(&files)).unwrap();
        path
    }
}

/// A store in a folder of its own, which also has room for images.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path().join("store")).unwrap()
    }

    pub(crate) fn rootfs(&self, reference: &str) -> Result<Image, Error> {
        self.store().rootfs(&reference.parse::<Reference>().unwrap(), &mut |_| {})
    }

    pub(crate) fn import(&self, image: &TestImage) -> Result<Image, Error> {
        self.rootfs(&format!("oci-archive:{}", image.archive_in(self.path(), None).display()))
    }

    /// What is wrong, with all its causes.
    pub(crate) fn refusal(&self, image: &TestImage) -> String {
        chain(&self.import(image).unwrap_err())
    }

    /// Everything in the store but folders.
    pub(crate) fn kept(&self) -> Vec<String> {
        let mut left = vec![self.path().join("store")];
        let mut kept = Vec::new();
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    left.push(entry.path());
                } else {
                    kept.push(entry.file_name().into_string().unwrap());
                }
            }
        }
        kept.sort();
        kept
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Checks the image by `fsck.erofs` and unpacks it into `directory`.
pub(crate) fn unpack(mut rootfs: &File, directory: &Path) -> PathBuf {
    let (image, root) = (directory.join("rootfs.erofs"), directory.join("root"));
    let _ = fs::remove_dir_all(&root);
    std::io::Seek::rewind(&mut rootfs).unwrap();
    std::io::copy(&mut rootfs, &mut File::create(&image).unwrap()).unwrap();
    let output = std::process::Command::new("fsck.erofs")
        .arg(format!("--extract={}", root.display()))
        .arg(&image)
        .output()
        .expect("fsck.erofs, of Debian's erofs-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    root
}

/// Every path below `root`, sorted.
pub(crate) fn paths(root: &Path) -> Vec<String> {
    let mut left = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            paths.push(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            }
        }
    }
    paths.sort();
    paths
}
