//! Open files and directories, by the numbers that the guest has for them.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use crate::inodes::Inode;

pub(crate) struct Handle {
    file: OwnedFd,
    inode: Arc<Inode>,
    node: u64,
    /// Held while a directory is read: its position is the kernel's, and one.
    reading: Mutex<()>,
}

impl Handle {
    pub(crate) fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    pub(crate) fn read_alone(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[derive(Default)]
pub(crate) struct Handles(Mutex<Table>);

#[derive(Default)]
struct Table {
    open: BTreeMap<u64, Arc<Handle>>,
    last: u64,
}

impl Handles {
    pub(crate) fn insert(&self, file: OwnedFd, node: u64, inode: Arc<Inode>) -> u64 {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        table.open.insert(number, Arc::new(Handle { file, inode, node, reading: Mutex::default() }));
        number
    }

    /// The open file of an inode.
    pub(crate) fn get(&self, number: u64, node: u64) -> Result<Arc<Handle>, Errno> {
        self.lock().open.get(&number).filter(|handle| handle.node == node).cloned().ok_or(Errno::BADF)
    }

    pub(crate) fn remove(&self, number: u64, node: u64) -> Result<(), Errno> {
        self.get(number, node)?;
        let removed = self.lock().open.remove(&number);
        // Closed without the lock.
        drop(removed);
        Ok(())
    }

    pub(crate) fn clear(&self) {
        let open = std::mem::take(&mut self.lock().open);
        drop(open);
    }

    pub(crate) fn release(&self, share: &CStr) {
        self.lock().open.retain(|_, handle| !handle.inode.belongs_to(share));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
