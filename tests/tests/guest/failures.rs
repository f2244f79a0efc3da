//! What goes wrong is told in one line, with its cause and an exit code of ours, and soon.

use std::{
    fs,
    os::unix::fs::symlink,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use securectr_tests::{Finished, Started, checkout, image, program, securectr};

/// Each failure is told within this.
const SOON: Duration = Duration::from_secs(10);

/// A failure of ours: one line that holds the cause.
fn assert_told(finished: &Finished, code: i32, cause: &str) {
    assert_eq!(finished.code, code, "{finished:?}");
    assert_eq!(finished.err().lines().count(), 1, "{finished:?}");
    assert!(finished.err().contains(cause), "no {cause:?} in {finished:?}");
}

fn soon(finish: impl FnOnce() -> Result<Finished>) -> Result<Finished> {
    let begin = Instant::now();
    let finished = finish()?;
    assert!(begin.elapsed() < SOON, "{:?}: {finished:?}", begin.elapsed());
    Ok(finished)
}

/// An installation like ours but for its guest image.
fn with_initramfs(initramfs: &[u8]) -> Result<(tempfile::TempDir, Command)> {
    let prefix = tempfile::tempdir()?;
    let (bin, share) = (prefix.path().join("bin"), prefix.path().join("share/securectr"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&share)?;
    // Copies, not links: the program looks beside where it really lies.
    for name in ["securectr", "securectr-vmm", "securectr-files"] {
        fs::copy(program(name), bin.join(name))?;
    }
    symlink(checkout().join("target/guest/vmlinux").canonicalize()?, share.join("vmlinux"))?;
    fs::write(share.join("initramfs.cpio"), initramfs)?;
    let mut command = Command::new(bin.join("securectr"));
    command.arg("run").arg(image("busybox")).arg("true");
    Ok((prefix, command))
}

#[test]
fn a_kernel_that_panics_is_told_in_its_own_words() -> Result<()> {
    let (_prefix, mut command) = with_initramfs(b"this is no cpio archive")?;
    let finished = soon(|| Started::spawn(&mut command)?.finish(b""))?;
    assert_told(&finished, 125, "the guest kernel panicked: ");
    Ok(())
}

#[test]
fn a_kernel_that_is_none_is_refused() -> Result<()> {
    let mut command = securectr();
    command.args(["run", "--kernel", "/etc/hostname"]).arg(image("busybox")).arg("true");
    let finished = soon(|| Started::spawn(&mut command)?.finish(b""))?;
    assert_told(&finished, 125, "kernel");
    Ok(())
}

#[test]
fn a_missing_kernel_is_named() -> Result<()> {
    let mut command = securectr();
    command.args(["run", "--kernel", "/no/such/kernel"]).arg(image("busybox")).arg("true");
    let finished = soon(|| Started::spawn(&mut command)?.finish(b""))?;
    assert_told(&finished, 125, "/no/such/kernel");
    Ok(())
}

#[test]
fn a_killed_vmm_ends_the_container_with_137() -> Result<()> {
    let mut command = securectr();
    command.args(["run", "--name", "killed-vmm"]).arg(image("busybox")).args([
        "sh",
        "-c",
        "echo up; sleep 1000",
    ]);
    let mut started = Started::spawn(&mut command)?;
    started.wait_for_output("up")?;
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read("/run/securectr/killed-vmm/state.json")?)?;
    let pid = state["vmm_pid"].as_i64().context("the VMM's pid")?;
    assert!(Command::new("kill").arg("-KILL").arg(pid.to_string()).status()?.success());
    let finished = soon(|| started.finish(b""))?;
    assert_told(&finished, 137, "ended by signal 9");
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() -> Result<()> {
    let store = tempfile::tempdir()?;
    let path = store.path().to_str().context("path")?;
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs", path]).status()?;
    assert!(mount.success());
    let mut command = Command::new(program("securectr"));
    command.args(["--store", path, "run"]).arg(image("busybox")).arg("true");
    let finished = soon(|| Started::spawn(&mut command)?.finish(b""));
    let left = Command::new("find").args([path, "-type", "f", "-size", "+0"]).output()?;
    Command::new("umount").arg(path).status()?;
    assert_told(&finished?, 125, "No space left on device");
    assert_eq!(String::from_utf8(left.stdout)?, "");
    Ok(())
}

#[test]
fn a_name_in_use_is_refused() -> Result<()> {
    let mut command = securectr();
    command.args(["run", "-i", "--name", "taken"]).arg(image("busybox")).args(["sh", "-c", "echo up; cat"]);
    let mut first = Started::spawn(&mut command)?;
    first.wait_for_output("up")?;
    let second = Started::spawn(&mut command)?.finish(b"")?;
    assert_told(&second, 125, "the name taken is in use");
    assert_eq!(first.finish(b"")?.code, 0);
    Ok(())
}

#[test]
fn messages_can_be_json() -> Result<()> {
    let mut command = securectr();
    command.args(["--log-format", "json", "run", "--kernel", "/no/such"]).arg(image("busybox"));
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    let message: serde_json::Value = serde_json::from_str(&finished.err())?;
    assert_eq!(message["level"], "error");
    Ok(())
}
