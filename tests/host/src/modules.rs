//! Kernel modules as Debian packs them: `NAME.ko.xz`, with their dependencies in `modules.dep` (modules.dep(5)).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::programs;

/// The files of the named modules and of all they depend on, each once and after what it needs. What is built into the kernel has none.
pub(crate) fn in_load_order(modules_dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let read = |file: &str| {
        let path = modules_dir.join(file);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let mut order: Vec<PathBuf> = Vec::new();
    for name in names {
        if builtin.lines().any(|path| is_module(path, name)) {
            continue;
        }
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| is_module(path, name));
        let Some((path, needs)) = line else { bail!("the kernel package has no module {name}") };
        // A module's needs are listed from the nearest to the farthest.
        for file in needs.split_whitespace().rev().chain([path]).map(|file| modules_dir.join(file)) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok(order)
}

fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_prefix(name).is_some_and(|suffix| suffix.starts_with(".ko"))
}

/// A module's ELF file, so that the emulated machine has nothing to decompress.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let output = Command::new(programs::find("xz")?)
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("start xz")?;
    if !output.status.success() {
        bail!("unpack {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_loads_once_and_after_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("modules.dep"), "net/9p.ko.xz: net/9pnet.ko.xz lib/netfs.ko.xz\nlib/netfs.ko.xz:\nnet/9pnet.ko.xz: lib/netfs.ko.xz\n").unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
        let order = in_load_order(dir.path(), &["virtio_pci", "9pnet", "9p"]).unwrap();
        let expected =
            ["lib/netfs.ko.xz", "net/9pnet.ko.xz", "net/9p.ko.xz"].map(|file| dir.path().join(file));
        assert_eq!(order, expected);
    }

    #[test]
    fn a_missing_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("modules.dep"), "fs/overlayfs.ko.xz:\n").unwrap();
        fs::write(dir.path().join("modules.builtin"), "").unwrap();
        let error = in_load_order(dir.path(), &["overlay"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel package has no module overlay");
    }
}
