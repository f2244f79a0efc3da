//! Files of the host's making, each bound over its place in the root, so that what the container writes to it stays out of its layer.

use std::{fs::File, io, io::Write, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
    mount::MountAttrFlags,
};

use super::{
    failure::{During, Failure},
    mounts,
    root::Root,
    rootfs::{FILES, mount_at},
};

/// Of all together, in bytes; as in agent.proto.
const SIZE: &str = "1m";

#[derive(Debug)]
pub(crate) struct GivenFile {
    /// In the container.
    pub path: String,
    pub content: Vec<u8>,
}

pub(super) fn lay_all(root: &Root, files: &[GivenFile], read_only: bool) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    let parameters = [("source", Some("files")), ("size", Some(SIZE)), ("mode", Some("0755"))];
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    // A file of a mount that is attached nowhere cannot be bound.
    let store =
        mount_at(FILES, "tmpfs", &parameters, attributes).during(|| "mount a place for files".into())?;
    files.iter().enumerate().try_for_each(|(index, file)| {
        write(&store, &index.to_string(), &file.content)
            .and_then(|written| lay(root, &written, &file.path, read_only))
            .during(|| format!("lay {}", file.path))
    })
}

fn write(store: &OwnedFd, name: &str, content: &[u8]) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(store, name, flags, Mode::from_raw_mode(0o644))?);
    file.write_all(content)?;
    Ok(file)
}

/// Images often have a link there whose target is made at boot, by programs that no container runs: it makes way.
fn lay(root: &Root, file: &File, path: &str, read_only: bool) -> io::Result<()> {
    match mounts::bind_file(file, root, path, read_only) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let (parent, name) = root.parent_of(Path::new(path))?;
            unlinkat(parent, name, AtFlags::empty())?;
            mounts::bind_file(file, root, path, read_only)
        }
        bound => bound,
    }
}
