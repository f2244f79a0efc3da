//! Private writable disks: a copy each of an empty ext4 file system. It is sparse, so a copy is a few hundred kilobytes. Most have no
//! name, so nothing is left of them when the VMM that holds one ends.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{sparse::data_ranges, sys::try_lock};

/// What a container may write to its disk at most where nothing is said, in bytes; blocks are taken from the host as they are written.
pub const DEFAULT_DISK_BYTES: u64 = 10 << 30;

/// Smaller ones have no room for a file system with a journal, in bytes.
pub const LEAST_DISK_BYTES: u64 = 64 << 20;

/// Sizes are rounded up to it, in bytes: each is a file system that is kept.
const STEP: u64 = 1 << 20;

/// An empty file system, made once and kept.
struct Template {
    /// Its number grows when the options change.
    name: &'static str,
    features: &'static [&'static str],
}

/// No journal: after a crash of its guest nobody reads this disk again.
const PASSING: Template = Template { name: "empty-2", features: &["-O", "^has_journal,^resize_inode"] };

/// Its guest may be killed, and the next one finds it whole. The journal is a hole until it is used.
const LASTING: Template =
    Template { name: "empty-journal-2", features: &["-O", "^resize_inode", "-J", "size=16"] };

/// One flex group keeps the metadata, and so the copy, small.
const MKE2FS_OPTIONS: &[&str] = &[
    "-q",
    "-F",
    "-t",
    "ext4",
    "-m",
    "0",
    "-G",
    "4096",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
];

/// How long a machine may take to let go of its disk, and how often it is looked at.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Debian keeps it where an ordinary user's PATH does not lead.
const PLACES_OF_MKE2FS: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

#[derive(Debug, Error)]
pub enum DiskError {
    #[error("{operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("run mke2fs (Debian package e2fsprogs)")]
    NotRun(#[source] io::Error),
    #[error("another machine has the writable disk {0}")]
    InUse(PathBuf),
    #[error("mke2fs failed: {0}")]
    Refused(String),
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { operation, path, source }
}

/// Makes an empty disk of so many bytes without a name, on the file system of `directory`.
pub fn writable_disk(directory: &Path, bytes: u64) -> Result<File, DiskError> {
    let (template, path) = open(&PASSING, directory, bytes)?;
    let disk = tempfile::tempfile_in(directory).map_err(io_error("make a writable disk in", directory))?;
    copy_sparse(&template, &disk).map_err(io_error("copy the empty disk", &path))?;
    Ok(disk)
}

/// Opens the disk at `path`, and makes it, if it is not there: from then on it stays. The empty one that it is made of is kept in
/// `directory`. Whoever has it open has it alone: two machines would destroy it.
pub fn lasting_disk(directory: &Path, path: &Path, bytes: u64) -> Result<File, DiskError> {
    let disk = open_or_make(directory, path, bytes)?;
    let began = Instant::now();
    loop {
        match try_lock(&disk).map_err(io_error("lock the writable disk", path))? {
            true => return Ok(disk),
            // A machine that has ended just now may still be on its way out.
            false if began.elapsed() < LOCK_LIMIT => sleep(LOCK_PAUSE),
            false => return Err(DiskError::InUse(path.to_owned())),
        }
    }
}

/// Makes a copy of a disk, of which nobody writes meanwhile; where the file system can, both share what they have in common. The copy is
/// to be its owner's alone.
pub fn copy_disk(from: &Path, to: &Path) -> Result<File, DiskError> {
    let disk = File::open(from).map_err(io_error("open the writable disk", from))?;
    let options = File::options().read(true).write(true).create_new(true).mode(0o600).clone();
    let copy = options.open(to).map_err(io_error("make a copy of the disk", to))?;
    copy_sparse(&disk, &copy).map_err(io_error("copy the disk to", to))?;
    Ok(copy)
}

fn open_or_make(directory: &Path, path: &Path, bytes: u64) -> Result<File, DiskError> {
    match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map_err(io_error("open the writable disk", path)),
    }
    let (template, _) = open(&LASTING, directory, bytes)?;
    let parent = path.parent().unwrap_or(directory);
    let made = || {
        let disk = tempfile::NamedTempFile::new_in(parent)?;
        copy_sparse(&template, disk.as_file())?;
        disk.persist(path).map_err(|error| error.error)
    };
    made().map_err(io_error("make the writable disk", path))
}

fn open(template: &Template, directory: &Path, bytes: u64) -> Result<(File, PathBuf), DiskError> {
    fs::create_dir_all(directory).map_err(io_error("make the directory of writable disks", directory))?;
    let bytes = bytes.max(LEAST_DISK_BYTES).next_multiple_of(STEP);
    let path = directory.join(format!("{}-{}m.ext4", template.name, bytes / STEP));
    match File::open(&path) {
        Ok(file) => Ok((file, path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok((make_template(template, directory, &path, bytes)?, path))
        }
        Err(error) => Err(io_error("open the empty disk", &path)(error)),
    }
}

/// Under a name of its own until it is whole: of two who make it at once, the last one's stays.
fn make_template(template: &Template, directory: &Path, path: &Path, bytes: u64) -> Result<File, DiskError> {
    let unfinished =
        tempfile::NamedTempFile::new_in(directory).map_err(io_error("make the empty disk in", directory))?;
    unfinished.as_file().set_len(bytes).map_err(io_error("size the empty disk in", directory))?;
    let output = Command::new("mke2fs")
        .env("PATH", PLACES_OF_MKE2FS)
        .args(MKE2FS_OPTIONS)
        .args(template.features)
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
    to.set_len(from.metadata()?.len())?;
    for data in data_ranges(&from.try_clone()?) {
        let data = data?;
        from.seek(SeekFrom::Start(data.start))?;
        to.seek(SeekFrom::Start(data.start))?;
        io::copy(&mut from.take(data.end - data.start), &mut to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_disk_is_large_and_costs_next_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let metadata = writable_disk(directory.path(), DEFAULT_DISK_BYTES).unwrap().metadata().unwrap();
            assert_eq!(metadata.len(), DEFAULT_DISK_BYTES);
            assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        }
    }

    #[test]
    fn a_disk_holds_a_file_system_without_faults() {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = writable_disk(directory.path(), LEAST_DISK_BYTES).unwrap();
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
        let _disk = writable_disk(directory.path(), DEFAULT_DISK_BYTES + 1).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["empty-2-10241m.ext4"]);
    }

    #[test]
    fn a_lasting_disk_is_made_once_with_a_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let disk = lasting_disk(directory.path(), &path, LEAST_DISK_BYTES).unwrap();
        let metadata = disk.metadata().unwrap();
        assert!(metadata.blocks() * 512 < 1 << 20);
        assert!(!try_lock(&File::open(&path).unwrap()).unwrap(), "somebody has it");
        drop(disk);
        let again = lasting_disk(directory.path(), &path, LEAST_DISK_BYTES).unwrap();
        assert_eq!(again.metadata().unwrap().ino(), metadata.ino());
        let shown = Command::new("dumpe2fs").env("PATH", PLACES_OF_MKE2FS).arg("-h").arg(&path).output();
        assert!(String::from_utf8_lossy(&shown.unwrap().stdout).contains("has_journal"));
    }
}
