//! What the tests of the built programs share: where they are, and a container run in three lines.

mod block;
mod bridge;
mod bundle;
mod containerd;
pub mod cri;
mod lan;
pub mod registry;
mod run;
pub mod shim;
mod terminal;
mod user;
mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

pub use block::{Ext4, LoopDevice};
pub use bridge::{fetch, load_bridge_modules};
pub use bundle::Bundle;
pub use containerd::{
    Containerd, Detached, Runtime, containerd, eventually, no_process_is_left, on_each, spawn_daemon,
};
pub use lan::Lan;
pub use run::{Finished, Started, run, run_in, securectr};
pub use terminal::Terminal;
pub use user::{ORDINARY_ID, User};
pub use world::World;

/// The top of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A program of the release build, which is what the tests drive.
pub fn program(name: &str) -> PathBuf {
    checkout().join("target/release").join(name)
}

/// The tar of a demo image's layer.
pub fn only_layer(name: &str) -> Result<Vec<u8>> {
    let unpacked = tempfile::tempdir()?;
    let tar = Command::new("tar")
        .arg("-xf")
        .arg(containerd::image_archive(name))
        .arg("-C")
        .arg(unpacked.path())
        .status()?;
    ensure!(tar.success(), "tar");
    let json = |path: &str| -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&fs::read(unpacked.path().join(path))?)?)
    };
    let blob = |document: &serde_json::Value, pointer: &str| -> Result<String> {
        let digest = document.pointer(pointer).and_then(serde_json::Value::as_str).context("a digest")?;
        Ok(format!("blobs/{}", digest.replace(':', "/")))
    };
    let manifest = json(&blob(&json("index.json")?, "/manifests/0/digest")?)?;
    Ok(fs::read(unpacked.path().join(blob(&manifest, "/layers/0/digest")?))?)
}

/// `oci-archive:` and the path of a demo image: "busybox" or "debian".
pub fn image(name: &str) -> String {
    format!("oci-archive:{}", containerd::image_archive(name).display())
}
