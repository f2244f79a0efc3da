//! What goes wrong is told in one line, with its cause and an exit code of ours, and soon.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
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

/// A file system of its own, unmounted at the end.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(place.path())
            .status()?;
        anyhow::ensure!(mounted.success(), "mount: {mounted}");
        Ok(Self(place))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A VMM on its way out may still have a file of it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn soon(finish: impl FnOnce() -> Result<Finished>) -> Result<Finished> {
    let begin = Instant::now();
    let finished = finish()?;
    assert!(begin.elapsed() < SOON, "{:?}: {finished:?}", begin.elapsed());
    Ok(finished)
}

/// A cpio archive whose `/init` is a script (Documentation/driver-api/early-userspace/buffer-format.rst).
fn archive_with_init(script: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [("init", 0o100_755, script), ("TRAILER!!!", 0, "")] {
        let [inode, links] = [1, 1];
        let fields = [inode, mode, 0, 0, links, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let header: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        for part in [format!("070701{header}{name}\0"), content.to_owned()] {
            archive.extend(part.into_bytes());
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
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
fn an_agent_that_dies_is_told_as_the_panic_that_it_is() -> Result<()> {
    let (_prefix, mut command) = with_initramfs(&archive_with_init("#!/no/such/interpreter\n"))?;
    let finished = soon(|| Started::spawn(&mut command)?.finish(b""))?;
    assert_told(&finished, 125, "the guest kernel panicked: ");
    Ok(())
}

#[test]
fn a_panic_under_a_running_container_is_told() -> Result<()> {
    let mut command = securectr();
    command.args(["run", "--memory", "64m", "--cap-add", "SYS_ADMIN"]).arg(image("busybox"));
    let panics_without_memory =
        "mkdir /mnt; mount -t proc proc /mnt; echo 2 >/mnt/sys/vm/panic_on_oom; echo up; tail /dev/zero";
    command.args(["sh", "-c", panics_without_memory]);
    let mut started = Started::spawn(&mut command)?;
    started.wait_for_output("up")?;
    let finished = soon(|| started.finish(b""))?;
    assert_told(&finished, 125, "the guest kernel panicked: ");
    Ok(())
}

#[test]
fn a_disk_that_fills_up_under_a_container_is_told() -> Result<()> {
    let disk = SmallDisk::mount("64m")?;
    let mut command = Command::new(program("securectr"));
    command.arg("--store").arg(disk.path()).arg("run").arg(image("busybox"));
    command.args(["sh", "-c", "dd if=/dev/zero of=/big bs=1M count=200 conv=fsync"]);
    let finished = Started::spawn(&mut command)?.finish(b"")?;
    assert_ne!(finished.code, 0, "{finished:?}");
    assert!(finished.err().contains("the disk of this machine is full"), "{finished:?}");
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
    let disk = SmallDisk::mount("256k")?;
    let mut command = Command::new(program("securectr"));
    command.arg("--store").arg(disk.path()).arg("run").arg(image("busybox")).arg("true");
    let finished = soon(|| Started::spawn(&mut command)?.finish(b""))?;
    assert_told(&finished, 125, "No space left on device");
    let left = Command::new("find").arg(disk.path()).args(["-type", "f", "-size", "+0"]).output()?;
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
