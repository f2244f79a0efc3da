//! An OCI bundle for runc from the same image that securectr runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Unpacks the one layer of an OCI archive and writes a `config.json` beside it.
pub(crate) fn make(image: &Path, bundle: &Path) -> Result<()> {
    let unpacked = bundle.join("image");
    let root = bundle.join("rootfs");
    fs::create_dir_all(&unpacked)?;
    fs::create_dir_all(&root)?;
    untar(image, &unpacked)?;
    let index = json_of(&unpacked.join("index.json"))?;
    let manifest = json_of(&blob(&unpacked, index.pointer("/manifests/0/digest"))?)?;
    for layer in manifest.get("layers").and_then(Value::as_array).context("the manifest's layers")? {
        untar(&blob(&unpacked, layer.get("digest"))?, &root)?;
    }
    run(Command::new("runc").args(["spec", "--bundle"]).arg(bundle))?;
    let path = bundle.join("config.json");
    let mut config = json_of(&path)?;
    let wanted = [
        ("/process/terminal", json!(false)),
        ("/process/args", json!(["echo", "x"])),
        ("/root/readonly", json!(false)),
    ];
    for (pointer, value) in wanted {
        *config.pointer_mut(pointer).with_context(|| format!("runc spec wrote no {pointer}"))? = value;
    }
    fs::write(&path, serde_json::to_vec(&config)?).with_context(|| format!("write {}", path.display()))
}

fn blob(image: &Path, digest: Option<&Value>) -> Result<PathBuf> {
    let hex = digest
        .and_then(Value::as_str)
        .and_then(|digest| digest.strip_prefix("sha256:"))
        .context("a sha256 digest")?;
    Ok(image.join("blobs/sha256").join(hex))
}

fn json_of(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
}

fn untar(archive: &Path, into: &Path) -> Result<()> {
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
