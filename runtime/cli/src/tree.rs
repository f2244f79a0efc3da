//! Trees that a container has made, removed: they may be deeper than any stack, and closed to their owner.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Removes a file, or a directory with all that is in it. No link is followed; whoever changes the tree meanwhile gets errors.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    let mut number = 0;
    // Directories that are found in one come beside it, so that no path becomes long.
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        open_up(&directory)?;
        let mut below = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                below.push(entry.path())
            } else {
                fs::remove_file(entry.path())?
            }
        }
        for inside in below {
            // To be moved it must be writable: its own `..` changes.
            open_up(&inside)?;
            let moved = aside(path, &mut number)?;
            fs::rename(&inside, &moved)?;
            waiting.push(moved);
        }
        if directory != path {
            fs::remove_dir(&directory)?;
        }
    }
    fs::remove_dir(path)
}

fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))
}

/// A name in the topmost directory that nothing has: rename(2) would take an empty directory's.
fn aside(top: &Path, number: &mut u64) -> io::Result<PathBuf> {
    loop {
        *number += 1;
        let path = top.join(format!(".securectr-{number}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_tree_goes_however_deep_and_closed_it_is() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let top = outside.path().join("tree");
        fs::create_dir(&top).unwrap();
        symlink(outside.path(), top.join("link")).unwrap();
        fs::create_dir(top.join(".securectr-1")).unwrap();
        // Deeper than a path can be, as a process with a working directory makes it.
        let name = "x".repeat(250);
        let before = env::current_dir().unwrap();
        let mut at = rustix::fs::open(&top, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        }
        fs::set_permissions(top.join(&name), Permissions::from_mode(0o0)).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists() && outside.path().join("kept").exists());
        assert_eq!(env::current_dir().unwrap(), before);
        remove(&top).unwrap();
    }
}
