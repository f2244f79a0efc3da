//! The root file system that containerd describes by mounts: made in a mount namespace of this server's own, so that nothing of
//! it is left on the host when the server dies.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use containerd_shim_protos::api::Mount;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use thiserror::Error;

/// mount(2) takes one page of options.
const MAX_OPTIONS_LEN: usize = 4095;

/// Options that are flags to mount(2), whether they set them.
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("suid", false, MsFlags::MS_NOSUID),
    ("nodev", true, MsFlags::MS_NODEV),
    ("dev", false, MsFlags::MS_NODEV),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("atime", false, MsFlags::MS_NOATIME),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("bind", true, MsFlags::MS_BIND),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
];

#[derive(Debug, Error)]
pub(crate) enum MountError {
    #[error("make a mount namespace")]
    Namespace(#[source] io::Error),
    #[error("make {path}")]
    Place { path: PathBuf, source: io::Error },
    #[error("mount the root file system ({kind}) on {path}")]
    Mount { kind: String, path: PathBuf, source: io::Error },
    #[error("mount the root file system ({0}): its options are longer than a page")]
    Options(String),
    #[error("mount the root file system: the option {0} is not supported")]
    Unsupported(&'static str),
}

/// Leaves the host's mount namespace: what is mounted there later is seen here, and nothing the other way. Must be called
/// before there are threads.
pub(crate) fn own_namespace() -> Result<(), MountError> {
    let failed = |errno: nix::Error| MountError::Namespace(errno.into());
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(failed)
}

/// A mounted root file system. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Rootfs {
    path: PathBuf,
    mounted: usize,
}

impl Rootfs {
    /// Mounts what containerd says on a directory; without mounts, as with Docker, it is the root already.
    pub(crate) fn mount(path: PathBuf, mounts: &[Mount]) -> Result<Self, MountError> {
        let mut rootfs = Self { path, mounted: 0 };
        fs::create_dir_all(&rootfs.path)
            .map_err(|source| MountError::Place { path: rootfs.path.clone(), source })?;
        for each in mounts {
            one(each, &rootfs.path)?;
            rootfs.mounted += 1;
        }
        Ok(rootfs)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        for _ in 0..self.mounted {
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        }
    }
}

fn one(what: &Mount, path: &Path) -> Result<(), MountError> {
    let (flags, options) = parse(&what.options)?;
    let failed = |errno: nix::Error| MountError::Mount {
        kind: what.type_.clone(),
        path: path.to_owned(),
        source: errno.into(),
    };
    let (directory, options) = shorten(options);
    if options.len() > MAX_OPTIONS_LEN {
        return Err(MountError::Options(what.type_.clone()));
    }
    let mount_it =
        || mount(Some(what.source.as_str()), path, Some(what.type_.as_str()), flags, Some(options.as_str()));
    match directory {
        None => mount_it().map_err(failed)?,
        Some(directory) => within(&directory, mount_it).map_err(failed)?,
    }
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // A bind mount takes other flags only afterwards (mount(2)).
        let none = None::<&str>;
        mount(none, path, none, flags | MsFlags::MS_REMOUNT, none).map_err(failed)?;
    }
    Ok(())
}

/// Flags and, joined by commas, what is for the file system.
fn parse(options: &[String]) -> Result<(MsFlags, String), MountError> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match FLAGS.iter().find(|(name, ..)| name == option) {
            Some((_, sets, flag)) => flags.set(*flag, *sets),
            None if option == "loop" => return Err(MountError::Unsupported("loop")),
            None if option == "defaults" => {}
            None => data.push(option.as_str()),
        }
    }
    Ok((flags, data.join(",")))
}

/// The layers of a deep image make options longer than a page, and nearly all of it is one directory's name again and again: then they
/// are told relative to it.
fn shorten(options: String) -> (Option<PathBuf>, String) {
    if options.len() <= MAX_OPTIONS_LEN {
        return (None, options);
    }
    let Some(layers) = options.split(',').find_map(|option| option.strip_prefix("lowerdir=")) else {
        return (None, options);
    };
    let mut common = layers.split(':').next().and_then(|first| Path::new(first).parent()).map(Path::to_owned);
    for layer in layers.split(':') {
        while let Some(directory) =
            common.as_deref().filter(|directory| !Path::new(layer).starts_with(directory))
        {
            common = directory.parent().map(Path::to_owned);
        }
    }
    let Some(common) = common.filter(|common| common.parent().is_some()) else { return (None, options) };
    let relative = |layer: &str| {
        Path::new(layer).strip_prefix(&common).map_or(layer.to_owned(), |p| p.display().to_string())
    };
    let short = layers.split(':').map(relative).collect::<Vec<_>>().join(":");
    let options = options.replace(layers, &short);
    (Some(common), options)
}

/// Does `work` in a thread of its own, which alone goes to that directory.
fn within(directory: &Path, work: impl FnOnce() -> nix::Result<()> + Send) -> nix::Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(directory)?;
            work()
        });
        thread.join().unwrap_or(Err(nix::Error::EIO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_from_what_the_file_system_reads() {
        let options = ["ro", "lowerdir=/a:/b", "nosuid", "index=off", "rw"].map(String::from);
        let (flags, data) = parse(&options).unwrap();
        assert_eq!((flags, data.as_str()), (MsFlags::MS_NOSUID, "lowerdir=/a:/b,index=off"));
    }

    #[test]
    fn an_image_of_a_hundred_layers_fits_a_page() {
        let store = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let layers: Vec<_> = (0..100).map(|layer| format!("{store}/{layer}/fs")).collect();
        let options = format!("workdir={store}/x/work,upperdir={store}/x/fs,lowerdir={}", layers.join(":"));
        let (directory, short) = shorten(options);
        assert_eq!(directory.as_deref(), Some(Path::new(store)));
        assert!(short.len() < MAX_OPTIONS_LEN && short.contains("lowerdir=0/fs:1/fs:2/fs:"), "{short}");
        assert!(short.contains(&format!("upperdir={store}/x/fs")));
    }

    #[test]
    fn short_options_stay_as_they_are() {
        assert_eq!(shorten("lowerdir=/a:/b".into()), (None, "lowerdir=/a:/b".into()));
    }
}
