//! `cp` out of a container: a file, or a directory with all below it, as a tar archive. Members are called by the last name of what was
//! asked for, or `.` where it has none.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::statfs;

use super::archive::{Archive, Content};
use crate::container::failure::{During, Failure};

/// Kinds of file systems (linux/magic.h) whose files are no files: proc, sysfs, cgroup2, devpts and mqueue.
const OF_THE_KERNEL: [u64; 5] = [0x9fa0, 0x6265_6572, 0x6367_7270, 0x1cd1, 0x1980_0202];

/// In a process that is in the container's mount namespace: links cannot lead out of it.
pub(super) fn send(asked: &str, follows: bool, output: impl Write) -> Result<(), Failure> {
    let mut path = Path::new("/").join(asked.trim_start_matches('/'));
    let leads_inside = asked.ends_with('/') || asked.ends_with("/.") || asked == ".";
    if follows || leads_inside {
        path = fs::canonicalize(&path).during(|| format!("look at {}", path.display()))?;
    }
    let metadata = fs::symlink_metadata(&path).during(|| format!("look at {}", path.display()))?;
    if leads_inside && !metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory)).during(|| format!("look at {asked}"));
    }
    let mut archive = Archive::new(output);
    add(&mut archive, &path, &name_of(asked), &metadata)?;
    archive.finish().during(|| "write".into())
}

/// `.` for what is meant by its content alone.
fn name_of(asked: &str) -> PathBuf {
    let is_content = asked.ends_with("/.") || asked == ".";
    let last = Path::new(asked).components().next_back();
    match last {
        Some(Component::Normal(name)) if !is_content => name.into(),
        _ => ".".into(),
    }
}

fn add<W: Write>(
    archive: &mut Archive<W>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> Result<(), Failure> {
    let content = content(path, metadata).during(|| format!("read {}", path.display()))?;
    let is_directory = matches!(content, Content::Directory);
    archive.add(name, metadata, content, &[]).during(|| format!("send {}", path.display()))?;
    if !is_directory {
        return Ok(());
    }
    for below in names(path).during(|| format!("list {}", path.display()))? {
        let path = path.join(&below);
        let metadata = match fs::symlink_metadata(&path) {
            // It has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            looked => looked.during(|| format!("look at {}", path.display()))?,
        };
        if !is_of_the_kernel(&path, &metadata) {
            add(archive, &path, &name.join(&below), &metadata)?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_by(|one: &std::ffi::OsString, other| AsRef::<OsStr>::as_ref(one).cmp(other));
    Ok(names)
}

pub(super) fn content(path: &Path, metadata: &Metadata) -> io::Result<Content> {
    let kind = metadata.file_type();
    Ok(if kind.is_dir() {
        Content::Directory
    } else if kind.is_symlink() {
        Content::Link(fs::read_link(path)?)
    } else if kind.is_file() {
        Content::File(open_same(path, metadata)?)
    } else {
        Content::Nothing
    })
}

/// The container may put something else there, at which opening would wait.
fn open_same(path: &Path, metadata: &Metadata) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let opened = file.metadata()?;
    if (opened.dev(), opened.ino()) == (metadata.dev(), metadata.ino()) {
        Ok(file)
    } else {
        Err(io::Error::other("it has changed while it was copied"))
    }
}

/// Another file system below what was asked for, and one without files.
fn is_of_the_kernel(path: &Path, metadata: &Metadata) -> bool {
    metadata.is_dir() && statfs(path).is_ok_and(|of| OF_THE_KERNEL.contains(&(of.f_type as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_called_by_the_last_name() {
        for (asked, name) in
            [("/etc/passwd", "passwd"), ("etc/", "etc"), ("/etc/.", "."), ("/", "."), ("a/..", ".")]
        {
            assert_eq!(name_of(asked), Path::new(name), "{asked}");
        }
    }
}
