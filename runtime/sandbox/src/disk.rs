//! Private writable disks: a copy each of one empty ext4 file system. It is sparse, so a copy is a few hundred kilobytes, and it
//! has no name, so nothing is left of it when the VMM that holds it ends.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};
use thiserror::Error;

/// What a container may write at most; blocks are taken from the host as they are written.
const SIZE: u64 = 10 << 30;

/// Grows when [`MKE2FS_OPTIONS`] or [`SIZE`] change: the empty file system is made once and kept.
const TEMPLATE: &str = "empty-1.ext4";

/// No journal: after a crash of its guest nobody reads this disk again. One flex group keeps the metadata, and so the copy, small.
const MKE2FS_OPTIONS: &[&str] = &[
    "-q",
    "-F",
    "-t",
    "ext4",
    "-m",
    "0",
    "-G",
    "4096",
    "-O",
    "^has_journal,^resize_inode",
    "-E",
    "lazy_itable_init=1,nodiscard,root_owner=0:0",
];

/// Debian keeps it where an ordinary user's PATH does not lead.
const PLACES_OF_MKE2FS: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

#[derive(Debug, Error)]
pub enum DiskError {
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("run mke2fs (Debian package e2fsprogs)")]
    NotRun(#[source] io::Error),
    #[error("mke2fs failed: {0}")]
    Refused(String),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { operation, path, source }
}

/// Makes an empty disk, on the file system of `directory`.
pub fn writable_disk(directory: &Path) -> Result<File, DiskError> {
    fs::create_dir_all(directory).map_err(io_error("make the directory of writable disks", directory))?;
    let path = directory.join(TEMPLATE);
    let template = match File::open(&path) {
        Ok(template) => template,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_template(directory, &path)?,
        Err(error) => return Err(io_error("open the empty disk", &path)(error)),
    };
    let disk = tempfile::tempfile_in(directory).map_err(io_error("make a writable disk in", directory))?;
    copy_sparse(&template, &disk).map_err(io_error("copy the empty disk", &path))?;
    Ok(disk)
}

/// Under a name of its own until it is whole: of two who make it at once, the last one's stays.
fn make_template(directory: &Path, path: &Path) -> Result<File, DiskError> {
    let unfinished =
        tempfile::NamedTempFile::new_in(directory).map_err(io_error("make the empty disk in", directory))?;
    unfinished.as_file().set_len(SIZE).map_err(io_error("size the empty disk in", directory))?;
    let output = Command::new("mke2fs")
        .env("PATH", PLACES_OF_MKE2FS)
        .args(MKE2FS_OPTIONS)
        .arg(unfinished.path())
        .output()
        .map_err(DiskError::NotRun)?;
    let Output { status, stderr, .. } = output;
    if !status.success() {
        return Err(DiskError::Refused(String::from_utf8_lossy(&stderr).trim().replace('\n', "; ")));
    }
    unfinished.persist(path).map_err(|error| io_error("keep the empty disk", path)(error.error))
}

/// Copies what is data and leaves holes as they are.
fn copy_sparse(mut from: &File, mut to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut position = 0;
    loop {
        let data = match lseek(from, position, Whence::SeekData) {
            Ok(data) => data,
            // lseek(2): there is no data behind the position.
            Err(Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let hole = lseek(from, data, Whence::SeekHole)?;
        from.seek(SeekFrom::Start(data as u64))?;
        to.seek(SeekFrom::Start(data as u64))?;
        io::copy(&mut from.take((hole - data) as u64), &mut to)?;
        position = hole;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_disk_is_large_and_costs_next_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let metadata = writable_disk(directory.path()).unwrap().metadata().unwrap();
            assert_eq!(metadata.len(), SIZE);
            assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        }
    }

    #[test]
    fn a_disk_holds_a_file_system_without_faults() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = writable_disk(directory.path()).unwrap();
        let named = directory.path().join("copy");
        disk.seek(SeekFrom::Start(0)).unwrap();
        copy_sparse(&disk, &File::create(&named).unwrap()).unwrap();
        let check =
            Command::new("e2fsck").env("PATH", PLACES_OF_MKE2FS).args(["-n", "-f"]).arg(&named).output();
        let check = check.unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }

    #[test]
    fn a_disk_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let _disk = writable_disk(directory.path()).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [TEMPLATE]);
    }
}
