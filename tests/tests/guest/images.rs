//! Images from strangers: refused or contained, and told by name.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use securectr_tests::{Ext4, Finished, Started, checkout, image, program};

/// Runs `true` in an image, with a store that has seen no other.
fn run_from(reference: &str) -> Result<Finished> {
    let store = tempfile::tempdir()?;
    let mut command = Command::new(program("securectr"));
    command.arg("--store").arg(store.path()).args(["run", reference, "true"]);
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    assert!(nothing_half_written(store.path())?, "{finished:?}");
    Ok(finished)
}

/// No image is in the store; what is there is empty bookkeeping.
fn nothing_half_written(store: &Path) -> Result<bool> {
    let listed = Command::new("find").arg(store).args(["-type", "f", "-size", "+0"]).output()?;
    Ok(listed.stdout.is_empty())
}

fn busybox() -> Result<Vec<u8>> {
    Ok(fs::read(checkout().join("target/images/busybox.tar"))?)
}

fn assert_refused(finished: &Finished, archive: &Path) {
    assert_eq!(finished.code, 125, "{finished:?}");
    let last = finished.err().lines().last().unwrap_or_default().to_owned();
    assert!(last.contains(&archive.display().to_string()), "does not name the archive: {finished:?}");
}

#[test]
fn a_truncated_archive_is_refused() -> Result<()> {
    let whole = busybox()?;
    let archive = tempfile::NamedTempFile::new()?;
    fs::write(archive.path(), &whole[..whole.len() / 2])?;
    assert_refused(&run_from(&format!("oci-archive:{}", archive.path().display()))?, archive.path());
    Ok(())
}

#[test]
fn a_changed_layer_is_refused_by_its_digest() -> Result<()> {
    let mut bytes = busybox()?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let archive = tempfile::NamedTempFile::new()?;
    fs::write(archive.path(), bytes)?;
    let refused = run_from(&format!("oci-archive:{}", archive.path().display()))?;
    assert_refused(&refused, archive.path());
    assert!(refused.err().contains("digest"), "{refused:?}");
    Ok(())
}

#[test]
fn a_missing_archive_is_named() -> Result<()> {
    assert_refused(&run_from("oci-archive:/no/such/archive.tar")?, Path::new("/no/such/archive.tar"));
    Ok(())
}

#[test]
fn an_image_of_a_name_is_run_by_it() -> Result<()> {
    let store = tempfile::tempdir()?;
    let securectr = |words: &[&str]| -> Result<Finished> {
        let mut command = Command::new(program("securectr"));
        Started::spawn(command.arg("--store").arg(store.path()).args(words))?.finish(b"")
    };
    let loaded = securectr(&["load", "-t", "team/box:1", &image("busybox")])?;
    assert_eq!(loaded.out(), "Loaded image: team/box:1\n", "{loaded:?}");
    let ran = securectr(&["run", "team/box:1", "echo", "by name"])?;
    assert_eq!((ran.code, ran.out().as_str()), (0, "by name\n"), "{ran:?}");
    let removed = securectr(&["rmi", "team/box:1"])?;
    assert_eq!(removed.code, 0, "{removed:?}");
    let refused = securectr(&["run", "team/box:1", "true"])?;
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.err().contains("team/box:1"), "{refused:?}");
    Ok(())
}

#[test]
fn a_damaged_image_in_the_store_is_made_again() -> Result<()> {
    let store = tempfile::tempdir()?;
    let run = || -> Result<Finished> {
        let mut command = Command::new(program("securectr"));
        command.arg("--store").arg(store.path()).arg("run").arg(image("busybox")).args(["echo", "whole"]);
        Started::spawn(&mut command)?.finish(b"")
    };
    assert_eq!(run()?.out(), "whole\n");
    let stored = Command::new("find").arg(store.path()).args(["-name", "rootfs.erofs"]).output()?;
    let path = String::from_utf8(stored.stdout)?;
    let file = fs::File::options().write(true).open(path.trim())?;
    let length = file.metadata()?.len();
    file.set_len(length / 2)?;
    assert_eq!(run()?.out(), "whole\n");
    assert_eq!(fs::metadata(path.trim())?.len(), length);
    Ok(())
}

#[test]
fn an_image_is_sealed_where_the_file_system_can() -> Result<()> {
    let disk = Ext4::mount(64 << 20)?;
    let run = |store: &Path| -> Result<Finished> {
        let mut command = Command::new(program("securectr"));
        command.arg("--store").arg(store).arg("run").arg(image("busybox")).args(["echo", "whole"]);
        Started::spawn(&mut command)?.finish(b"")
    };
    assert_eq!(run(disk.path())?.out(), "whole\n");
    let rootfs = |store: &Path| -> Result<PathBuf> {
        let found = Command::new("find").arg(store).args(["-name", "rootfs.erofs"]).output()?;
        Ok(String::from_utf8(found.stdout)?.trim().into())
    };
    let path = rootfs(disk.path())?;
    let is_sealed = |path: &Path| -> Result<bool> {
        let attributes = String::from_utf8(Command::new("lsattr").arg(path).output()?.stdout)?;
        Ok(attributes.split(' ').next().is_some_and(|flags| flags.contains('V')))
    };
    assert!(is_sealed(&path)?);
    let refused = fs::File::options().write(true).open(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    // Another file of the same size in its place is not taken for it.
    let mut content = fs::read(&path)?;
    let len = content.len();
    content[len / 2..].fill(7);
    fs::remove_file(&path)?;
    fs::write(&path, content)?;
    assert_eq!(run(disk.path())?.out(), "whole\n");
    assert!(is_sealed(&path)?);
    // What has changed on the medium is never read.
    let request = format!("blocks /{}", path.strip_prefix(disk.path())?.display());
    disk.while_unmounted(|device| {
        let blocks = Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(&device.path).output()?;
        let blocks = String::from_utf8(blocks.stdout)?;
        let block: u64 = blocks.split_whitespace().nth(20).context("a block")?.parse()?;
        device.write(block * 4096, &[7; 4096])
    })?;
    assert!(fs::read(&path).is_err());
    Ok(())
}
