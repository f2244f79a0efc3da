//! What a container has changed of its root, by the upper directory of its overlay (Documentation/filesystems/overlayfs.rst). Both layers
//! are mounted once more, so that nothing is seen through a container's mounts; names in them are opened one by one, since the
//! container may change them meanwhile.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat, statat},
    io::Errno,
    mount::MountAttrFlags,
};

use crate::container::{
    failure::{During, Failure},
    rootfs::new_mount,
};

/// Directories in directories: each holds two descriptors while what is in it is looked at.
const MOST_DEPTH: usize = 300;

/// What is made in every root for what is mounted there, as Docker has it in a layer of its own: no change.
const GIVEN: [&str; 6] = ["proc", "sys", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf"];

const OPAQUE: &str = "trusted.overlay.opaque";
const CAPABILITIES: &str = "security.capability";
const MAX_CAPABILITIES_LEN: usize = 64;

/// The disks of a container's root, as names in `/dev`.
#[derive(Clone, Debug)]
pub(in crate::container) struct Disks {
    pub image: String,
    pub writable: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Added,
    Changed,
    Deleted,
}

/// One change; a directory comes before what is in it.
pub(super) struct Change<'a> {
    pub kind: Kind,
    /// From the root, without a slash before it.
    pub path: &'a Path,
    /// What is there now; nothing of one that was deleted.
    pub now: Option<Now<'a>>,
    /// Nothing of what the image has in the directory is there any more.
    pub is_opaque: bool,
}

/// A file in the upper directory.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    pub parent: &'a OwnedFd,
    pub name: &'a Path,
}

/// Which changes count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wanted {
    /// Those that can be seen in what a file is besides its content.
    Seen,
    /// All that may have been written.
    All,
}

pub(super) fn changes(
    disks: &Disks,
    wanted: Wanted,
    take: &mut dyn FnMut(Change<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let (writable, image) = (format!("/dev/{}", disks.writable), format!("/dev/{}", disks.image));
    // Both are mounted already: these are the same file systems once more, which nothing else can reach.
    let upper = new_mount("ext4", [("source", Some(writable.as_str()))], read_only)
        .during(|| format!("mount {writable}"))?;
    let lower = new_mount("erofs", [("source", Some(image.as_str())), ("ro", None)], read_only)
        .during(|| format!("mount {image}"))?;
    let upper = open_directory(&upper, Path::new("upper")).during(|| "open the writable layer".into())?;
    let mut walk = Walk { wanted, take, pending: Vec::new() };
    walk.directory(&Pair { upper, lower: Some(lower), is_opaque: false }, Path::new(""), MOST_DEPTH)
}

/// A directory in both layers.
struct Pair {
    upper: OwnedFd,
    /// None where the image has no directory.
    lower: Option<OwnedFd>,
    is_opaque: bool,
}

struct Walk<'a> {
    wanted: Wanted,
    take: &'a mut dyn FnMut(Change<'_>) -> Result<(), Failure>,
    /// Directories on the way here that are told when something in them is.
    pending: Vec<Waiting>,
}

struct Waiting {
    parent: OwnedFd,
    name: PathBuf,
    path: PathBuf,
    is_told: bool,
}

impl Walk<'_> {
    fn directory(&mut self, pair: &Pair, path: &Path, depth_left: usize) -> Result<(), Failure> {
        let looked = || format!("look at /{}", path.display());
        let mut all: BTreeSet<PathBuf> = names(&pair.upper).during(looked)?;
        if let Some(lower) = pair.lower.as_ref().filter(|_| pair.is_opaque) {
            all.extend(names(lower).during(looked)?);
        }
        for name in &all {
            let path = path.join(name);
            if !GIVEN.iter().any(|given| Path::new(given) == path) {
                self.entry(pair, name, &path, depth_left)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, pair: &Pair, name: &Path, path: &Path, depth_left: usize) -> Result<(), Failure> {
        let looked = || format!("look at /{}", path.display());
        let upper = stat(&pair.upper, name).during(looked)?;
        let lower = match &pair.lower {
            Some(lower) => stat(lower, name).during(looked)?,
            None => None,
        };
        let Some(upper) = upper.filter(|stat| !is_whiteout(stat)) else {
            // What the image does not have was never there to be deleted; or it has gone just now.
            return match lower {
                Some(_) => self.tell(Kind::Deleted, path, None, false),
                None => Ok(()),
            };
        };
        let now = Now { parent: &pair.upper, name };
        if FileType::from_raw_mode(upper.st_mode) != FileType::Directory {
            let kind = if lower.is_some() { Kind::Changed } else { Kind::Added };
            let is_same = lower.is_some_and(|lower| self.is_same(pair, name, &upper, &lower));
            return if is_same { Ok(()) } else { self.tell(kind, path, Some(now), false) };
        }
        let depth_left = depth_left.checked_sub(1).ok_or(Errno::LOOP).during(looked)?;
        let inner = match open_directory(&pair.upper, name) {
            // It has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.during(looked)?,
        };
        let lower_directory =
            lower.filter(|lower| FileType::from_raw_mode(lower.st_mode) == FileType::Directory);
        let is_opaque = is_opaque(&inner);
        let kind = if lower.is_some() { Kind::Changed } else { Kind::Added };
        let is_changed = lower_directory.is_none_or(|lower| !same_attributes(&upper, &lower));
        let below = match (&pair.lower, lower_directory) {
            (Some(lower), Some(_)) => Some(open_directory(lower, name).during(looked)?),
            _ => None,
        };
        let tells_opaque = is_opaque && lower.is_some() && self.wanted == Wanted::All;
        if is_changed || tells_opaque {
            self.tell(kind, path, Some(now), tells_opaque)?;
        }
        let inside = Pair { upper: inner, lower: below, is_opaque: is_opaque && self.wanted == Wanted::Seen };
        // In an opaque directory all is new to a layer.
        let inside = if tells_opaque { Pair { lower: None, ..inside } } else { inside };
        let parent = pair.upper.try_clone().during(looked)?;
        let is_told = is_changed || tells_opaque;
        self.pending.push(Waiting { parent, name: name.to_owned(), path: path.to_owned(), is_told });
        self.directory(&inside, path, depth_left)?;
        self.pending.pop();
        Ok(())
    }

    /// Those above come first.
    fn tell(
        &mut self,
        kind: Kind,
        path: &Path,
        now: Option<Now<'_>>,
        is_opaque: bool,
    ) -> Result<(), Failure> {
        for above in self.pending.iter_mut().filter(|above| !above.is_told) {
            above.is_told = true;
            let now = Some(Now { parent: &above.parent, name: &above.name });
            (self.take)(Change { kind: Kind::Changed, path: &above.path, now, is_opaque: false })?;
        }
        (self.take)(Change { kind, path, now, is_opaque })
    }

    fn is_same(&self, pair: &Pair, name: &Path, upper: &Stat, lower: &Stat) -> bool {
        let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
        self.wanted == Wanted::Seen
            && same_attributes(upper, lower)
            && times(upper) == times(lower)
            && pair
                .lower
                .as_ref()
                .is_some_and(|below| capabilities(&pair.upper, name).ok() == capabilities(below, name).ok())
    }
}

fn same_attributes(one: &Stat, other: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    of(one) == of(other)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 2];
    fgetxattr(directory, OPAQUE, &mut value).is_ok_and(|len| len == 1 && value[0] == b'y')
}

/// What a file's capabilities are (capabilities(7)), if it has some.
pub(super) fn capabilities(parent: &OwnedFd, name: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty())?;
    let mut value = vec![0; MAX_CAPABILITIES_LEN];
    match fgetxattr(file, CAPABILITIES, &mut value) {
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(Vec::new()),
        len => {
            value.truncate(len?);
            Ok(value)
        }
    }
}

impl Now<'_> {
    pub(super) fn open(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(self.parent, self.name, flags, Mode::empty())?.into())
    }

    /// Of a link itself.
    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.open(OFlags::PATH)?.metadata()
    }
}

/// None when there is nothing.
fn stat(directory: &OwnedFd, name: &Path) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        stat => Ok(Some(stat?)),
    }
}

fn open_directory(parent: impl AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn names(directory: &OwnedFd) -> io::Result<BTreeSet<PathBuf>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.insert(PathBuf::from(OsString::from_vec(name)));
        }
    }
    Ok(names)
}
