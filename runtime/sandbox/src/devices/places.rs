//! The empty disks of a machine, and which container has what in which.

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::sys::stat::{major, minor};
use securectr_protocol::agent;
use thiserror::Error;
use tokio::task::spawn_blocking;

use super::{BlockDevice, DeviceSource};
use crate::{ContainerPlan, SandboxId, io_limits, vmm::Vmm};

#[derive(Debug, Error)]
pub enum DeviceError {
    #[error("the host has no block device {major}:{minor}")]
    NoSuchDevice { major: u32, minor: u32, source: io::Error },
    #[error("open the block device {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{0} is not a block device of the host")]
    NotABlockDevice(PathBuf),
    #[error("there is nothing in the block device {0}")]
    Empty(PathBuf),
    #[error("the block device {0} is in this machine already: a second one would have a cache of its own")]
    InUse(PathBuf),
    #[error("the machine has no room for the block device {0}")]
    NoPlace(PathBuf),
    #[error("give the block device {path} to the machine")]
    Attach { path: PathBuf, source: io::Error },
}

/// The places for block devices in a machine. One lock, never held across an await.
#[derive(Debug)]
pub(crate) struct Places {
    /// The first one's index among the machine's disks.
    first: u8,
    held: Mutex<Vec<Option<Held>>>,
}

#[derive(Debug)]
struct Held {
    by: SandboxId,
    numbers: (u32, u32),
    /// Kept until the VMM has closed its own: who closes a device last waits until all is written.
    file: File,
}

/// An opened device.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    numbers: (u32, u32),
    file: File,
}

impl Places {
    pub(crate) fn new(first: u8, count: u8) -> Self {
        Self { first, held: Mutex::new((0..count).map(|_| None).collect()) }
    }

    /// Lays a container's devices into empty disks, all of them or none; tells how the agent finds them, in their order.
    pub(crate) async fn lend(
        &self,
        container: &ContainerPlan,
        vmm: &Vmm,
    ) -> Result<Vec<agent::BlockDevice>, DeviceError> {
        let lend = |device| self.lend_one(container, device, vmm);
        let lent = container.block_devices.iter().map(lend);
        let lent = lent.collect::<Result<Vec<_>, _>>();
        if lent.is_err() {
            self.take_back(&container.id, vmm).await;
        }
        lent
    }

    fn lend_one(
        &self,
        container: &ContainerPlan,
        device: &BlockDevice,
        vmm: &Vmm,
    ) -> Result<agent::BlockDevice, DeviceError> {
        let Opened { path, numbers, file } = open(device)?;
        let mut held = self.held();
        if held.iter().flatten().any(|held| held.numbers == numbers) {
            return Err(DeviceError::InUse(path));
        }
        let mut places = (self.first..).zip(held.iter_mut());
        let Some((disk, place)) = places.find(|(_, place)| place.is_none()) else {
            return Err(DeviceError::NoPlace(path));
        };
        let limits = io_limits::of_device(&container.io_limits, numbers);
        vmm.attach_disk(disk, &file, limits).map_err(|source| DeviceError::Attach { path, source })?;
        *place = Some(Held { by: container.id.clone(), numbers, file });
        Ok(agent::BlockDevice {
            serial: format!("disk-{disk}"),
            major: numbers.0,
            minor: numbers.1,
            read_only: device.read_only,
            ..Default::default()
        })
    }

    /// Takes out what a container has been lent. Afterwards it is written, and nobody here has it open. What a machine does not
    /// give back it has until its end.
    pub(crate) async fn take_back(&self, from: &SandboxId, vmm: &Vmm) {
        for disk in self.lent_to(from) {
            if vmm.detach_disk(disk).await.is_err() {
                continue;
            }
            let place = usize::from(disk - self.first);
            let held = self.held().get_mut(place).and_then(Option::take);
            let _ = spawn_blocking(move || drop(held.map(|held| held.file))).await;
        }
    }

    /// Frees the disks of a container from their limits, those that its machine has for it alone among them: its guest is to write
    /// soon what it still has to write.
    pub(crate) fn unlimit(&self, container: &SandboxId, vmm: &Vmm) {
        for disk in (0..self.first).chain(self.lent_to(container)) {
            // A machine that has ended writes nothing.
            let _ = vmm.unlimit_disk(disk);
        }
    }

    fn lent_to(&self, container: &SandboxId) -> Vec<u8> {
        let is_theirs = |held: &Held| held.by == *container;
        let theirs = |(_, held): &(u8, &Option<Held>)| held.as_ref().is_some_and(is_theirs);
        (self.first..).zip(self.held().iter()).filter(theirs).map(|(disk, _)| disk).collect()
    }

    fn held(&self) -> MutexGuard<'_, Vec<Option<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(device: &BlockDevice) -> Result<Opened, DeviceError> {
    let path = match &device.source {
        DeviceSource::Path(path) => path.clone(),
        DeviceSource::Numbers { major, minor } => path_of(*major, *minor)?,
    };
    let failed = |source| DeviceError::Open { path: path.clone(), source };
    // Looked at before it is opened: to open a pipe is to wait for its other end.
    if !fs::metadata(&path).map_err(failed)?.file_type().is_block_device() {
        return Err(DeviceError::NotABlockDevice(path));
    }
    let mut file = File::options().read(true).write(!device.read_only).open(&path).map_err(failed)?;
    let opened = file.metadata().map_err(failed)?;
    let numbers = numbers_of(opened.rdev());
    let is_meant = match device.source {
        DeviceSource::Path(_) => true,
        DeviceSource::Numbers { major, minor } => numbers == (major, minor),
    };
    if !opened.file_type().is_block_device() || !is_meant {
        return Err(DeviceError::NotABlockDevice(path));
    }
    match file.seek(SeekFrom::End(0)).map_err(failed)? {
        0 => Err(DeviceError::Empty(path)),
        _ => Ok(Opened { path, numbers, file }),
    }
}

/// The kernel's own name of a device, and where udev or devtmpfs has its node (sysfs(5)). A container's path of it need not exist
/// on the host.
pub(crate) fn path_of(major: u32, minor: u32) -> Result<PathBuf, DeviceError> {
    let uevent = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))
        .map_err(|source| DeviceError::NoSuchDevice { major, minor, source })?;
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| {
        let source = io::ErrorKind::NotFound.into();
        DeviceError::NoSuchDevice { major, minor, source }
    })
}

/// Linux has 12 bits for the one and 20 for the other.
pub(crate) fn numbers_of(device: u64) -> (u32, u32) {
    (major(device) as u32, minor(device) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(source: DeviceSource) -> Result<Opened, DeviceError> {
        open(&BlockDevice { source, read_only: true })
    }

    #[test]
    fn what_is_no_block_device_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [pipe, "/dev/null".into(), directory.path().to_owned()] {
            let refused = opened(DeviceSource::Path(path.clone()));
            assert!(matches!(refused, Err(DeviceError::NotABlockDevice(of)) if of == path));
        }
        let missing = opened(DeviceSource::Path("/nowhere".into()));
        assert!(matches!(missing, Err(DeviceError::Open { .. })));
    }

    #[test]
    fn a_device_that_the_host_does_not_have_is_told_by_its_numbers() {
        let missing = opened(DeviceSource::Numbers { major: 4000, minor: 1 }).unwrap_err();
        assert_eq!(missing.to_string(), "the host has no block device 4000:1");
    }
}
