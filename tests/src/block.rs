//! Block devices of the host, for tests: loop devices on files of a tmpfs, and file systems on them.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::eventually;

/// A loop device, gone when this is dropped.
pub struct LoopDevice {
    /// In `/dev`.
    pub path: PathBuf,
    backing: TempDir,
}

impl LoopDevice {
    pub fn new(len: u64) -> Result<Self> {
        let backing = tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?;
        let file = backing.path().join("disk");
        File::create(&file)?.set_len(len)?;
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output()?;
        ensure!(made.status.success(), "losetup: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { path: String::from_utf8(made.stdout)?.trim().into(), backing })
    }

    /// One with an empty ext4.
    pub fn with_ext4(len: u64) -> Result<Self> {
        let device = Self::new(len)?;
        let made = Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&device.path).status()?;
        ensure!(made.success(), "mke2fs");
        Ok(device)
    }

    /// Major and minor number.
    pub fn numbers(&self) -> Result<(u32, u32)> {
        let name = self.path.file_name().context("a name")?;
        let dev = fs::read_to_string(Path::new("/sys/block").join(name).join("dev"))?;
        let (major, minor) = dev.trim().split_once(':').context("two numbers")?;
        Ok((major.parse()?, minor.parse()?))
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut device = File::options().write(true).open(&self.path)?;
        device.seek(SeekFrom::Start(offset))?;
        device.write_all(bytes)?;
        Ok(device.sync_all()?)
    }

    /// What is on the medium, past the caches of the device.
    pub fn medium(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut file = File::open(self.backing.path().join("disk"))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; len];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits until nobody has it open.
    pub fn wait_until_free(&self) -> Result<()> {
        let number = fs::metadata(&self.path)?.rdev();
        let is_it = |fd: fs::DirEntry| fs::metadata(fd.path()).is_ok_and(|file| file.rdev() == number);
        let holds_it = |process: fs::DirEntry| {
            fs::read_dir(process.path().join("fd")).is_ok_and(|fds| fds.flatten().any(is_it))
        };
        eventually("nobody has the device open", || Ok(!fs::read_dir("/proc")?.flatten().any(holds_it)))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// A mounted ext4 of its own, gone when this is dropped.
pub struct Ext4 {
    place: TempDir,
    device: LoopDevice,
}

impl Ext4 {
    pub fn mount(len: u64) -> Result<Self> {
        let disk = Self { place: tempfile::tempdir()?, device: LoopDevice::with_ext4(len)? };
        let mounted = Command::new("mount").arg(&disk.device.path).arg(disk.path()).status()?;
        ensure!(mounted.success(), "mount: {mounted}");
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// What was read of the device so far, in bytes (Documentation/admin-guide/iostats.rst: the third field, in sectors).
    pub fn read_bytes(&self) -> Result<u64> {
        let name = self.device.path.file_name().context("a name")?;
        let numbers = fs::read_to_string(Path::new("/sys/block").join(name).join("stat"))?;
        let sectors: u64 = numbers.split_whitespace().nth(2).context("sectors")?.parse()?;
        Ok(sectors * 512)
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
