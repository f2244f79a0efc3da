//! The spec's mounts, masked and read-only paths, all attached to places that were opened below the root before.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{FsPickFlags, MountAttrFlags, OpenTreeFlags, fsconfig_reconfigure, fspick, open_tree},
};

use super::{
    failure::{During, Failure},
    root::{self, Kind, Root},
    rootfs::{attach, configure, new_mount, set_attributes, set_propagation},
    volume,
};
use crate::plan::{Attributes, MountPlan, MountSource, Propagation};

const READ_ONLY: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };

pub(super) fn mount_all(root: &Root, mounts: &[MountPlan]) -> Result<(), Failure> {
    mounts.iter().try_for_each(|plan| mount(root, plan).during(|| format!("mount {}", plan.destination)))
}

fn mount(root: &Root, plan: &MountPlan) -> io::Result<()> {
    let (mount, kind) = match &plan.source {
        MountSource::FileSystem { kind, source, parameters } => {
            let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
            let parameters = [("source", Some(source.as_str()))].into_iter().chain(parameters);
            // In a new mount there is nothing to clear.
            let attributes = MountAttrFlags::from_bits_retain(plan.attributes.set as u32);
            (new_mount(kind, parameters, attributes)?, Kind::Directory)
        }
        MountSource::Bind { path, recursive, copy_up } => {
            let source = root::guest(path)?;
            if *copy_up {
                volume::fill(&source, root, Path::new(&plan.destination))?;
            }
            let mount = copy(&source, *recursive)?;
            set_attributes(&mount, plan.attributes, false)?;
            (mount, root::kind_of(source)?)
        }
        MountSource::Remount { parameters } => {
            let mount = root.find(Path::new(&plan.destination))?;
            return remount(&mount, plan, parameters);
        }
    };
    set_attributes(&mount, plan.recursive_attributes, true)?;
    attach(&mount, root.find_or_make(Path::new(&plan.destination), kind)?)?;
    match plan.propagation {
        Some(propagation) => propagate(&mount, propagation),
        None => Ok(()),
    }
}

/// What is not asked for stays as it is.
fn remount(mount: &OwnedFd, plan: &MountPlan, parameters: &[(String, Option<String>)]) -> io::Result<()> {
    // Where nothing is mounted this fails.
    let context = fspick(mount, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    set_attributes(mount, plan.attributes, false)?;
    set_attributes(mount, plan.recursive_attributes, true)?;
    if parameters.is_empty() {
        return Ok(());
    }
    configure(&context, parameters.iter().map(|(name, value)| (name.as_str(), value.as_deref())))?;
    Ok(fsconfig_reconfigure(&context)?)
}

/// The mount is named by its descriptor, not by a path that the image could have bent.
fn propagate(mount: &OwnedFd, propagation: Propagation) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    set_propagation(Path::new(&path), propagation)
}

/// A copy of the mount that a file lies in, with the file as its root: what a bind mount attaches.
pub(super) fn copy(source: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(source, "", flags)?)
}

/// Attaches one file at another's place.
pub(super) fn bind_file(source: impl AsFd, root: &Root, place: &str, read_only: bool) -> io::Result<()> {
    let mount = copy(source, false)?;
    if read_only {
        set_attributes(&mount, READ_ONLY, false)?;
    }
    attach(mount, root.find_or_make(Path::new(place), Kind::File)?)
}

/// Hides files behind `/dev/null`, and directories behind an empty one.
pub(super) fn mask(root: &Root, paths: &[String]) -> Result<(), Failure> {
    let mut empty = None;
    paths.iter().try_for_each(|path| mask_one(root, path, &mut empty).during(|| format!("mask {path}")))
}

fn mask_one(root: &Root, path: &str, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(place) = find_existing(root, path)? else { return Ok(()) };
    let cover = match (root::kind_of(&place)?, empty.as_ref()) {
        (Kind::File, _) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, "/dev/null", flags)?
        }
        (Kind::Directory, Some(first)) => copy(first, false)?,
        (Kind::Directory, None) => {
            let parameters = [("source", Some("tmpfs")), ("nr_inodes", Some("1"))];
            let first = new_mount("tmpfs", parameters, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            attach(&first, place)?;
            *empty = Some(first);
            return Ok(());
        }
    };
    attach(cover, place)
}

pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), Failure> {
    paths.iter().try_for_each(|path| read_only_one(root, path).during(|| format!("make {path} read-only")))
}

fn read_only_one(root: &Root, path: &str) -> io::Result<()> {
    let Some(place) = find_existing(root, path)? else { return Ok(()) };
    let mount = copy(&place, true)?;
    set_attributes(&mount, READ_ONLY, true)?;
    attach(mount, place)
}

/// What is not there need not be hidden.
fn find_existing(root: &Root, path: &str) -> io::Result<Option<OwnedFd>> {
    match root.find(Path::new(path)) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
