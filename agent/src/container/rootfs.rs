//! A container's root: an EROFS image or a share of the host, what may be written above it, and the way into it.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, mkdirat, openat, stat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
        unmount,
    },
    process::{chdir, fchdir, pivot_root},
};
use securectr_protocol::SHARED;

use super::{
    failure::{During, Failure},
    files::GivenFile,
    mounts,
    root::{self, Root},
    sys,
};
use crate::plan::{Attributes, Propagation};

/// Where the parts of a root are put together, in the mount namespace of each container.
pub(crate) const STAGES: [&str; 4] = [IMAGE, UPPER, ROOT, FILES];
const IMAGE: &str = "/run/securectr/image";
const UPPER: &str = "/run/securectr/upper";
pub(super) const ROOT: &str = "/run/securectr/root";
pub(super) const FILES: &str = "/run/securectr/files";

/// For the mount points of a root that stays read-only, in bytes.
const MOUNT_POINTS_SIZE: u64 = 1 << 20;

/// What a root is made of. Devices are names in `/dev`.
#[derive(Debug)]
pub(crate) struct RootfsPlan {
    pub lower: Lower,
    pub upper: Upper,
    /// Laid over what the image has.
    pub files: Vec<GivenFile>,
}

#[derive(Debug)]
pub(crate) enum Lower {
    /// An EROFS image.
    Image { device: String },
    /// A directory that the host shares, by its name in [`SHARED`].
    Share(String),
}

#[derive(Debug)]
pub(crate) enum Upper {
    /// The root is read-only.
    None,
    Tmpfs {
        bytes: u64,
    },
    Ext4 {
        device: String,
    },
    /// What is written goes below.
    InPlace,
}

impl RootfsPlan {
    pub(crate) fn disks(&self) -> impl Iterator<Item = &str> {
        let lower = if let Lower::Image { device } = &self.lower { Some(device) } else { None };
        let upper = if let Upper::Ext4 { device } = &self.upper { Some(device) } else { None };
        lower.into_iter().chain(upper).map(String::as_str)
    }

    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.upper, Upper::None)
    }
}

/// Puts the root together, at its stage.
pub(super) fn assemble(plan: &RootfsPlan) -> Result<Root, Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during(|| "make all mounts private".into())?;
    let lower = mount_lower(&plan.lower)?;
    if let Upper::InPlace = plan.upper {
        return attach_in_place(&lower).during(|| format!("make {lower} the root"));
    }
    mount_upper(&plan.upper)?;
    make_layer(&lower).during(|| "prepare the writable layer".into())?;
    let upper = format!("{UPPER}/upper");
    let work = format!("{UPPER}/work");
    let parameters = [
        ("source", Some("overlay")),
        ("lowerdir", Some(lower.as_str())),
        ("upperdir", Some(&upper)),
        ("workdir", Some(&work)),
        // An image cannot use overlayfs's own attributes.
        ("redirect_dir", Some("nofollow")),
        ("metacopy", Some("off")),
    ];
    let mount = mount_at(ROOT, "overlay", &parameters, MountAttrFlags::empty())
        .during(|| "mount the root's overlay".into())?;
    Ok(Root::new(mount))
}

/// Where the lower layer lies.
fn mount_lower(lower: &Lower) -> Result<String, Failure> {
    match lower {
        Lower::Image { device } => {
            let image = format!("/dev/{device}");
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            mount_at(IMAGE, "erofs", &[("source", Some(&image)), ("ro", None)], read_only)
                .during(|| format!("mount the image {image}"))?;
            Ok(IMAGE.to_owned())
        }
        Lower::Share(name) => Ok(format!("{SHARED}/{name}")),
    }
}

fn attach_in_place(lower: &str) -> io::Result<Root> {
    let mount = mounts::copy(root::guest(lower)?, true)?;
    attach(&mount, root::guest(ROOT)?)?;
    Ok(Root::new(mount))
}

fn mount_upper(upper: &Upper) -> Result<(), Failure> {
    let none = MountAttrFlags::empty();
    match upper {
        Upper::None => mount_tmpfs(MOUNT_POINTS_SIZE),
        Upper::Tmpfs { bytes } => mount_tmpfs(*bytes),
        Upper::InPlace => Ok(()),
        Upper::Ext4 { device: name } => {
            let device = format!("/dev/{name}");
            // Nothing is done behind the container's back to a disk that lives as long as it does.
            let parameters = [
                ("source", Some(device.as_str())),
                ("noinit_itable", None),
                ("no_prefetch_block_bitmaps", None),
            ];
            mount_at(UPPER, "ext4", &parameters, none)
                .during(|| format!("mount the writable disk {device}"))?;
            // By default the first write makes the bitmaps of 32 block groups, which takes longer than all else here.
            let file = format!("/sys/fs/ext4/{name}/mb_prefetch");
            fs::write(&file, "1").during(|| format!("set {file}"))
        }
    }
}

fn mount_tmpfs(bytes: u64) -> Result<(), Failure> {
    let size = bytes.to_string();
    let parameters = [("source", Some("upper")), ("size", Some(size.as_str())), ("mode", Some("0755"))];
    mount_at(UPPER, "tmpfs", &parameters, MountAttrFlags::empty())
        .during(|| "mount the writable layer".into())
        .map(drop)
}

/// The root directory has the mode and owner of the upper layer's, so they are taken from the lower one's.
fn make_layer(lower: &str) -> io::Result<()> {
    let upper = format!("{UPPER}/upper");
    match mkdirat(CWD, format!("{UPPER}/work"), Mode::from_raw_mode(0o700)) {
        // A disk that was in use before: all is as it was.
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    let below = stat(lower)?;
    mkdirat(CWD, &upper, Mode::from_raw_mode(0o755))?;
    chownat(
        CWD,
        &upper,
        Some(Uid::from_raw(below.st_uid)),
        Some(Gid::from_raw(below.st_gid)),
        rustix::fs::AtFlags::empty(),
    )?;
    Ok(chmodat(CWD, &upper, Mode::from_raw_mode(below.st_mode), rustix::fs::AtFlags::empty())?)
}

/// A new mount of a file system that nothing can reach yet.
pub(super) fn new_mount<'a>(
    kind: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, parameters)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Parameters with and without a value.
pub(super) fn configure<'a>(
    context: &OwnedFd,
    parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> io::Result<()> {
    for (name, value) in parameters {
        match value {
            Some(value) => fsconfig_set_string(context, name, value)?,
            None => fsconfig_set_flag(context, name)?,
        }
    }
    Ok(())
}

/// Attaches a mount to an open place.
pub(super) fn attach(mount: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

pub(super) fn mount_at(
    stage: &str,
    kind: &str,
    parameters: &[(&str, Option<&str>)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let mount = new_mount(kind, parameters.iter().copied(), attributes)?;
    let place = openat(CWD, stage, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(&mount, place)?;
    Ok(mount)
}

/// Makes the root this process's root, and lets go of everything outside.
pub(super) fn enter(root: &Root) -> io::Result<()> {
    fchdir(root)?;
    // The old root comes to lie on the new one, and is taken off.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

/// What holds for the root as a whole, once all is in its place.
pub(super) fn seal(root: &Root, read_only: bool, propagation: Option<Propagation>) -> Result<(), Failure> {
    if read_only {
        let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };
        set_attributes(root, attributes, false).during(|| "make the root read-only".into())?;
    }
    match propagation {
        Some(propagation) => {
            set_propagation(Path::new("/"), propagation).during(|| "set the root's mount propagation".into())
        }
        None => Ok(()),
    }
}

pub(super) fn set_attributes(mount: impl AsFd, attributes: Attributes, recursive: bool) -> io::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    sys::mount_setattr(mount.as_fd(), attributes.set, attributes.clear, recursive)
}

pub(super) fn set_propagation(path: &Path, propagation: Propagation) -> io::Result<()> {
    let recursive =
        if propagation.recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
    Ok(mount_change(path, propagation.flags | recursive)?)
}
