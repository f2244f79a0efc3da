//! One image in the store: its folder, its lock, and how it is written so that nobody sees half of it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::Image;
use super::lock::{is_at, try_lock};
use super::verity::{self, Measured};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::erofs;
use crate::import::{self, Written};
use crate::user::Accounts;

const ROOTFS: &str = "rootfs.erofs";
const DESCRIPTION: &str = "image.json";
/// What is being written; renamed when it is whole.
const UNFINISHED: &str = "unfinished";

/// The content of `image.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    rootfs_bytes: u64,
    /// Where the file system of the store seals files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verity: Option<Measured>,
    config: ImageConfig,
    accounts: Accounts,
}

#[derive(Debug)]
pub(super) struct Entry {
    directory: PathBuf,
    digest: Digest,
}

impl Entry {
    pub(super) fn new(images: &Path, digest: &Digest) -> Self {
        Self { directory: images.join(digest.hex()), digest: digest.clone() }
    }

    /// The image, if it is there and whole as far as can be told at once (its size, and the checksum of its first block; its
    /// digest, where it was sealed). A damaged one counts as absent, and is made again.
    pub(super) fn open(&self) -> Option<Image> {
        let json = fs::read(self.directory.join(DESCRIPTION)).ok()?;
        let description: Description = serde_json::from_slice(&json).ok()?;
        let rootfs = File::open(self.directory.join(ROOTFS)).ok()?;
        let mut first_block = [0; erofs::BLOCK_BYTES as usize];
        rootfs.read_exact_at(&mut first_block, 0).ok()?;
        let is_whole = rootfs.metadata().ok()?.len() == description.rootfs_bytes
            && erofs::superblock_is_whole(&first_block)
            && description.verity == verity::measure(&rootfs).ok()?;
        let Description { config, accounts, .. } = description;
        is_whole.then(|| Image { rootfs, digest: Some(self.digest.clone()), config, accounts })
    }

    /// Waits until no other process makes this image; `waiting` is called if one does.
    pub(super) fn lock(&self, waiting: &mut dyn FnMut()) -> io::Result<LockedEntry> {
        loop {
            create_private_directory(&self.directory)?;
            let lock = match File::open(&self.directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if !try_lock(&lock)? {
                waiting();
                rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
            }
            if is_at(&lock, &self.directory)? {
                return Ok(LockedEntry { directory: self.directory.clone(), _lock: lock });
            }
        }
    }
}

/// An image's folder that belongs to this process.
pub(super) struct LockedEntry {
    directory: PathBuf,
    /// The lock ends with the descriptor.
    _lock: File,
}

impl LockedEntry {
    /// Writes the image with `make`, which gets an empty file and this folder. Whatever happens, the folder then holds a whole
    /// image or none.
    pub(super) fn write(
        &self,
        config: &ImageConfig,
        make: impl FnOnce(&File, &Path) -> Result<Written, import::Error>,
    ) -> io::Result<Result<(), import::Error>> {
        remove_files(&self.directory)?;
        let result = self.write_into_empty(config, make);
        if !matches!(result, Ok(Ok(()))) {
            // The first error counts.
            let _ = remove_files(&self.directory);
            let _ = fs::remove_dir(&self.directory);
        }
        result
    }

    fn write_into_empty(
        &self,
        config: &ImageConfig,
        make: impl FnOnce(&File, &Path) -> Result<Written, import::Error>,
    ) -> io::Result<Result<(), import::Error>> {
        let file = self.create()?;
        let Written { bytes, accounts } = match make(&file, &self.directory) {
            Ok(written) => written,
            Err(error) => return Ok(Err(error)),
        };
        self.finish(&file, ROOTFS)?;
        // Nobody can write it any more.
        drop(file);
        let verity = verity::seal(&self.directory.join(ROOTFS))?;
        let description = Description { rootfs_bytes: bytes, verity, config: config.clone(), accounts };
        let mut file = self.create()?;
        file.write_all(&serde_json::to_vec(&description)?)?;
        self.finish(&file, DESCRIPTION)?;
        Ok(Ok(()))
    }

    fn create(&self) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(self.directory.join(UNFINISHED))
    }

    /// Also after a power cut, a file with its final name is whole.
    fn finish(&self, file: &File, name: &str) -> io::Result<()> {
        file.sync_all()?;
        fs::rename(self.directory.join(UNFINISHED), self.directory.join(name))?;
        File::open(&self.directory)?.sync_all()
    }
}

pub(super) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes the folders that processes left which were killed while they made an image.
pub(super) fn sweep(images: &Path) -> io::Result<()> {
    for folder in fs::read_dir(images)? {
        let folder = folder?.path();
        if folder.join(DESCRIPTION).exists() {
            continue;
        }
        // Gone already, or no folder: nothing to do.
        let Ok(lock) = File::open(&folder) else { continue };
        if try_lock(&lock)? && is_at(&lock, &folder)? && !folder.join(DESCRIPTION).exists() {
            remove_files(&folder)?;
            fs::remove_dir(&folder)?;
        }
    }
    Ok(())
}

/// Removes the folders of images that nobody is making just now. Who has one open keeps what it has. Returns how many bytes of the
/// disk that was.
pub(super) fn remove(images: &Path, is_going: impl Fn(&Digest) -> bool) -> io::Result<u64> {
    let mut freed_bytes = 0;
    for folder in fs::read_dir(images)? {
        let folder = folder?;
        let digest = folder.file_name().to_str().and_then(|name| format!("sha256:{name}").parse().ok());
        if !digest.is_some_and(|digest| is_going(&digest)) {
            continue;
        }
        let Ok(lock) = File::open(folder.path()) else { continue };
        if try_lock(&lock)? && is_at(&lock, &folder.path())? {
            freed_bytes += fs::metadata(folder.path().join(ROOTFS)).map_or(0, |file| file.blocks() * 512);
            remove_files(&folder.path())?;
            fs::remove_dir(folder.path())?;
        }
    }
    Ok(freed_bytes)
}

fn remove_files(directory: &Path) -> io::Result<()> {
    for file in fs::read_dir(directory)? {
        fs::remove_file(file?.path())?;
    }
    Ok(())
}
