//! `/dev`: the nodes and links that every program counts on, and those of the spec.

use std::{io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, unlinkat},
    io::Errno,
};

use super::{
    failure::{During, Failure},
    root::{self, Kind, Root},
};
use crate::plan::{DEFAULT_DEVICES, DeviceKind, DeviceNode};

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

pub(super) fn make_all(root: &Root, devices: &[DeviceNode]) -> Result<(), Failure> {
    make_default(root).during(|| "make the default devices".into())?;
    devices.iter().try_for_each(|device| make(root, device).during(|| format!("make {}", device.path)))
}

fn make_default(root: &Root) -> io::Result<()> {
    let dev = root.find_or_make(Path::new("/dev"), Kind::Directory)?;
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEFAULT_DEVICES {
        node(&dev, Path::new(name), FileType::CharacterDevice, mode, (major, minor))?;
    }
    for (name, target) in LINKS {
        root::link(&dev, name, target)?;
    }
    // Also where an image has a node of its own: that one would be the guest's.
    root::relink(&dev, "ptmx", "pts/ptmx")
}

fn make(root: &Root, device: &DeviceNode) -> io::Result<()> {
    let (parent, name) = root.parent_of(Path::new(&device.path))?;
    let kind = match device.kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
    };
    node(&parent, name, kind, Mode::from_raw_mode(device.mode), (device.major, device.minor))?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    Ok(chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Takes the place of what an image may have there.
fn node(
    parent: impl AsFd,
    name: &Path,
    kind: FileType,
    mode: Mode,
    (major, minor): (u32, u32),
) -> io::Result<()> {
    let device = makedev(major, minor);
    match mknodat(&parent, name, kind, mode, device) {
        Err(Errno::EXIST) => {
            unlinkat(&parent, name, AtFlags::empty())?;
            Ok(mknodat(&parent, name, kind, mode, device)?)
        }
        made => Ok(made?),
    }
}
