//! `/dev`: the nodes and links that every program counts on, and those of the spec.

use std::{io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, major, makedev, minor, mknodat, statat, unlinkat,
    },
    io::Errno,
};

use super::{
    failure::{During, Failure},
    root::{self, Kind, Root},
};
use crate::plan::{DEFAULT_DEVICES, DeviceNode};

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// It is a link: a node would be the guest's. Engines name it with all of the host's devices.
const MULTIPLEXER: &str = "/dev/ptmx";

/// Those of the spec never take the place of something else.
pub(super) fn make_all(root: &Root, devices: &[DeviceNode]) -> Result<(), Failure> {
    make_default(root).during(|| "make the default devices".into())?;
    let devices = devices.iter().filter(|device| device.path != MULTIPLEXER);
    devices.into_iter().try_for_each(|device| make(root, device).during(|| format!("make {}", device.path)))
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
    let (mode, number) = (Mode::from_raw_mode(device.mode), makedev(device.major, device.minor));
    match mknodat(&parent, name, device.kind, mode, number) {
        Err(Errno::EXIST) if is_at(&parent, name, device)? => chmodat(&parent, name, mode, AtFlags::empty())?,
        made => made?,
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    Ok(chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn is_at(parent: impl AsFd, name: &Path, device: &DeviceNode) -> io::Result<bool> {
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_kind = FileType::from_raw_mode(found.st_mode) == device.kind;
    // A pipe has no numbers.
    let numbers = (major(found.st_rdev), minor(found.st_rdev));
    Ok(is_kind && (device.kind == FileType::Fifo || numbers == (device.major, device.minor)))
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
