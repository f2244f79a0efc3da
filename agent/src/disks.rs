//! The guest's disks that stand for block devices of the host. They are there from boot on, empty; what is laid into one shows by its
//! size.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    time::Duration,
};

use securectr_protocol::agent::BlockDevice;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::{plan::Disk, sys};

const SYSFS: &str = "/sys/block";

/// How long a disk may take to get its size, and one to be let go of.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, Error)]
pub(crate) enum DisksError {
    #[error("look at the disk {0:?}")]
    Look(String, #[source] io::Error),
    #[error("there is no disk {0:?}")]
    Missing(String),
    #[error("the disk {0:?} stays empty")]
    Empty(String),
    #[error("say who may write the disk {0:?}")]
    ReadOnly(String, #[source] io::Error),
    #[error("the disk {0:?} is still in use")]
    Busy(String),
}

/// Finds those that a container is given, and waits until something is in them.
pub(crate) async fn find(given: &[BlockDevice]) -> Result<Vec<Disk>, DisksError> {
    let mut disks = Vec::with_capacity(given.len());
    for device in given {
        let look = |source| DisksError::Look(device.serial.clone(), source);
        let name = name_of(&device.serial).map_err(look)?;
        let name = name.ok_or_else(|| DisksError::Missing(device.serial.clone()))?;
        await_size(&name).await?;
        let disk = Disk {
            numbers: numbers_of(&name).map_err(look)?,
            name,
            host_numbers: (device.major, device.minor),
        };
        let set = File::open(disk.path()).and_then(|file| sys::set_read_only(&file, device.read_only));
        set.map_err(|source| DisksError::ReadOnly(device.serial.clone(), source))?;
        disks.push(disk);
    }
    Ok(disks)
}

/// Waits until no file system is mounted from them: a container's mounts may go a little later than its processes.
pub(crate) async fn let_go(names: &[String]) -> Result<(), DisksError> {
    for name in names {
        let is_free = || {
            // open(2): on a block device, O_EXCL alone asks whether it is in use by the system.
            let opened =
                OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(format!("/dev/{name}"));
            Ok(!opened.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy))
        };
        if !wait_until(is_free).await.map_err(|source| DisksError::Look(name.clone(), source))? {
            return Err(DisksError::Busy(name.clone()));
        }
    }
    Ok(())
}

/// The disk says who it is when it is asked (VirtIO 1.2, section 5.2.6, VIRTIO_BLK_T_GET_ID).
fn name_of(serial: &str) -> io::Result<Option<String>> {
    for entry in fs::read_dir(SYSFS)? {
        let entry = entry?;
        // What has no serial number is no disk of the host's.
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim_end() == serial {
            return Ok(entry.file_name().into_string().ok());
        }
    }
    Ok(None)
}

/// Waits until a disk has something in it: in a machine that goes on where another was saved, it was empty.
pub(crate) async fn await_size(name: &str) -> Result<(), DisksError> {
    let file = format!("{SYSFS}/{name}/size");
    let has_size = || Ok(fs::read_to_string(&file)?.trim() != "0");
    match wait_until(has_size).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(DisksError::Empty(name.to_owned())),
        Err(source) => Err(DisksError::Look(name.to_owned(), source)),
    }
}

/// False when it has not come true in time.
async fn wait_until(mut is_true: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let began = Instant::now();
    while !is_true()? {
        if began.elapsed() > LIMIT {
            return Ok(false);
        }
        sleep(PAUSE).await;
    }
    Ok(true)
}

fn numbers_of(name: &str) -> io::Result<(u32, u32)> {
    let text = fs::read_to_string(format!("{SYSFS}/{name}/dev"))?;
    let numbers = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    numbers.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
