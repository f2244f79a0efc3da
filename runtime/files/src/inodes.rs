//! The inodes that the guest knows, by the numbers it knows them under. Each is held open (`O_PATH`), so that the host cannot give
//! its place to another file meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx},
    io::Errno,
};

use crate::fuse::Reply;

/// FUSE_ROOT_ID: the directory of the shares. It is the host's: the guest may look and not touch.
pub(crate) const ROOT: u64 = 1;

/// How long the guest may take names and attributes for true without asking. A second: a change on the host is seen within it,
/// and a tree that is walked again and again is not asked for at every step.
const MEMORY: Duration = Duration::from_secs(1);
/// The same where nobody but the guest changes anything: as good as for ever.
const EXCLUSIVE_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// What all inodes of a share have in common.
#[derive(Debug)]
struct Share {
    name: CString,
    /// Nobody but the guest changes it.
    is_exclusive: bool,
}

#[derive(Debug)]
pub(crate) struct Inode {
    file: OwnedFd,
    pub kind: FileType,
    key: Key,
    /// What makes the numbers of different file systems different; see [`Inode::ino`].
    device: u64,
    /// None for the root.
    share: Option<Arc<Share>>,
}

/// Which file it is: the same file under two mounts is two, since one of them may be read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    device: (u32, u32),
    ino: u64,
    mount: u64,
}

pub(crate) struct Inodes(Mutex<Table>);

struct Table {
    known: BTreeMap<u64, Known>,
    numbers: BTreeMap<Key, u64>,
    devices: Vec<(u32, u32)>,
    next: u64,
    root: Arc<Inode>,
    exclusive: BTreeSet<CString>,
}

struct Known {
    inode: Arc<Inode>,
    /// How often the guest was told of it; so often will it forget it.
    lookups: u64,
}

/// What a lookup finds.
pub(crate) struct Found {
    pub node: u64,
    pub inode: Arc<Inode>,
    pub attributes: Statx,
}

impl Found {
    pub(crate) fn tell(&self, reply: &mut Reply) {
        let ino = self.inode.ino(self.attributes.stx_ino);
        reply.entry(self.node, ino, &self.attributes, self.inode.memory());
    }
}

impl Inode {
    /// The number that the guest sees. All shares are one file system to it, so numbers of different file systems of the host
    /// must not meet; those of the first one are as they are.
    pub(crate) fn ino(&self, ino: u64) -> u64 {
        ino ^ self.device << 48
    }

    pub(crate) fn attributes(&self) -> Result<Statx, Errno> {
        attributes(&self.file)
    }

    /// Its name in the working directory, which is that of this process's descriptors.
    pub(crate) fn own_name(&self) -> String {
        self.file.as_raw_fd().to_string()
    }

    /// Opens it for more than [`OwnedFd`]s of `O_PATH` can do. Only regular files and directories: a guest has no business with
    /// the host's pipes and devices.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        match self.kind {
            FileType::RegularFile | FileType::Directory => {
                openat(CWD, self.own_name(), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn attributes(file: impl AsFd) -> Result<Statx, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

impl Inodes {
    pub(crate) fn new() -> Result<Self, Errno> {
        let file = openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let key = key_of(&attributes(&file)?);
        let root = Arc::new(Inode { file, kind: FileType::Directory, key, device: 0, share: None });
        let mut table = Table {
            known: BTreeMap::new(),
            numbers: BTreeMap::new(),
            devices: Vec::new(),
            next: ROOT + 1,
            root,
            exclusive: BTreeSet::new(),
        };
        table.begin();
        Ok(Self(Mutex::new(table)))
    }

    /// A new session: the guest knows nothing but the root.
    pub(crate) fn clear(&self) {
        self.lock().begin();
    }

    pub(crate) fn get(&self, node: u64) -> Result<Arc<Inode>, Errno> {
        self.lock().known.get(&node).map(|known| Arc::clone(&known.inode)).ok_or(Errno::STALE)
    }

    /// Looks for a name and tells the guest of what is there.
    pub(crate) fn look_up(&self, parent: &Inode, name: &CStr) -> Result<Found, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::empty())?;
        self.tell_of(file, parent.share.clone().unwrap_or_else(|| self.share(name)))
    }

    fn share(&self, name: &CStr) -> Arc<Share> {
        let is_exclusive = self.lock().exclusive.contains(name);
        Arc::new(Share { name: name.to_owned(), is_exclusive })
    }

    /// Tells the guest of a file in a directory that was opened in some other way.
    pub(crate) fn look_up_open(&self, parent: &Inode, file: impl AsFd) -> Result<Found, Errno> {
        let share = parent.share.clone().ok_or(Errno::ROFS)?;
        let name = file.as_fd().as_raw_fd().to_string();
        self.tell_of(openat(CWD, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?, share)
    }

    fn tell_of(&self, file: OwnedFd, share: Arc<Share>) -> Result<Found, Errno> {
        let attributes = attributes(&file)?;
        let kind = FileType::from_raw_mode(attributes.stx_mode.into());
        let key = key_of(&attributes);
        let mut table = self.lock();
        let (node, inode) = match table.known_by(key) {
            Some((node, known)) => {
                known.lookups += 1;
                (node, Arc::clone(&known.inode))
            }
            None => {
                let device = table.index_of(key.device);
                table.insert(Arc::new(Inode { file, kind, key, device, share: Some(share) }))
            }
        };
        Ok(Found { node, inode, attributes })
    }

    /// The guest does not want to know so many of its lookups any more.
    pub(crate) fn forget(&self, node: u64, lookups: u64) {
        let forgotten = self.lock().forget(node, lookups);
        // Closed without the lock.
        drop(forgotten);
    }

    /// A share to come is changed by the guest alone.
    pub(crate) fn trust(&self, share: CString) {
        self.lock().exclusive.insert(share);
    }

    /// Lets go of all that belongs to a share, whatever the guest may still want.
    pub(crate) fn release(&self, share: &CStr) {
        let mut table = self.lock();
        table.exclusive.remove(share);
        let nodes: Vec<u64> = table
            .known
            .iter()
            .filter(|(_, known)| known.inode.belongs_to(share))
            .map(|(&node, _)| node)
            .collect();
        let released: Vec<_> = nodes.into_iter().map(|node| table.forget(node, u64::MAX)).collect();
        drop(table);
        drop(released);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inode {
    pub(crate) fn belongs_to(&self, share: &CStr) -> bool {
        self.share.as_ref().is_some_and(|own| own.name.as_c_str() == share)
    }

    /// Nobody but the guest changes it.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.is_exclusive)
    }

    /// How long the guest may rely on what it was told of it.
    pub(crate) fn memory(&self) -> Duration {
        if self.is_exclusive() { EXCLUSIVE_MEMORY } else { MEMORY }
    }
}

impl Table {
    fn begin(&mut self) {
        self.known.clear();
        self.numbers.clear();
        self.numbers.insert(self.root.key, ROOT);
        self.known.insert(ROOT, Known { inode: Arc::clone(&self.root), lookups: 1 });
    }

    fn known_by(&mut self, key: Key) -> Option<(u64, &mut Known)> {
        let node = *self.numbers.get(&key)?;
        self.known.get_mut(&node).map(|known| (node, known))
    }

    fn insert(&mut self, inode: Arc<Inode>) -> (u64, Arc<Inode>) {
        let node = self.next;
        self.next += 1;
        self.numbers.insert(inode.key, node);
        self.known.insert(node, Known { inode: Arc::clone(&inode), lookups: 1 });
        (node, inode)
    }

    fn forget(&mut self, node: u64, lookups: u64) -> Option<Known> {
        let known = self.known.get_mut(&node).filter(|_| node != ROOT)?;
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return None;
        }
        self.numbers.remove(&known.inode.key);
        self.known.remove(&node)
    }

    fn index_of(&mut self, device: (u32, u32)) -> u64 {
        let index = self.devices.iter().position(|&known| known == device).unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        index as u64
    }
}

fn key_of(attributes: &Statx) -> Key {
    Key {
        device: (attributes.stx_dev_major, attributes.stx_dev_minor),
        ino: attributes.stx_ino,
        mount: attributes.stx_mnt_id,
    }
}
