//! The destination: an OCI image layout (image-layout.md).

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use securectr_registry::Request;
use thiserror::Error;

use crate::{blobs::Part, resolve::Image};

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    directory: PathBuf,
    present: PathBuf,
}

#[derive(Debug, Error)]
#[error("{operation} {}", path.display())]
pub(crate) struct LayoutError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Names the operation and the file in the error.
pub(crate) fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LayoutError + 'a {
    move |source| LayoutError { operation, path: path.to_owned(), source }
}

impl Layout {
    pub(crate) fn open(request: &Request) -> Result<Self, LayoutError> {
        let layout = Self { directory: request.destination.clone(), present: request.present.clone() };
        for directory in ["blobs", "blobs/sha256", "blobs/partial"] {
            let path = layout.directory.join(directory);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(at("make", &path))?,
            }
        }
        Ok(layout)
    }

    /// Whether the destination has this blob. What is there has been checked before it got its name.
    pub(crate) fn has(&self, part: &Part) -> bool {
        is_there(&self.blob(part.hex()), part.bytes)
    }

    /// Whether the parent has this blob elsewhere.
    pub(crate) fn is_present(&self, part: &Part) -> bool {
        is_there(&self.present.join(part.hex()), part.bytes)
    }

    pub(crate) fn blob(&self, hex: &str) -> PathBuf {
        self.directory.join("blobs/sha256").join(hex)
    }

    pub(crate) fn partial(&self, hex: &str) -> PathBuf {
        self.directory.join("blobs/partial").join(hex)
    }

    /// Writes what makes the blobs an image, the index last: a destination that has one is complete.
    pub(crate) fn complete(&self, image: &Image, name: &str) -> Result<(), LayoutError> {
        let hex = image.digest.digest();
        write(&self.partial(hex), &self.blob(hex), &image.manifest)?;
        let partials = self.directory.join("blobs/partial");
        fs::remove_dir_all(&partials).map_err(at("remove", &partials))?;
        sync_directory(&self.directory.join("blobs/sha256"))?;
        sync_directory(&self.directory.join("blobs"))?;
        let version = serde_json::json!({"imageLayoutVersion": "1.0.0"});
        self.write_json("oci-layout", &version)?;
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": image.media_type.to_string(),
                "digest": image.digest.to_string(),
                "size": image.manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }],
        });
        self.write_json("index.json", &index)?;
        sync_directory(&self.directory)
    }

    fn write_json(&self, name: &str, value: &serde_json::Value) -> Result<(), LayoutError> {
        let path = self.directory.join(name);
        write(&path.with_extension("new"), &path, value.to_string().as_bytes())
    }
}

fn is_there(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes)
}

/// The file has its name when it is whole.
fn write(new: &Path, path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    let mut file = File::create(new).map_err(at("make", new))?;
    file.write_all(bytes).map_err(at("write", new))?;
    file.sync_all().map_err(at("write", new))?;
    fs::rename(new, path).map_err(at("name", path))
}

fn sync_directory(path: &Path) -> Result<(), LayoutError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at("write", path))
}
