//! The directory that a container and its caller share. What is in it afterwards is a stranger's: links are not followed.

use std::{
    fs,
    io::Read,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tempfile::TempDir;

use crate::{Error, file_error};

/// Goes with its owner.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    pub(crate) fn with(files: &[(PathBuf, Vec<u8>)]) -> Result<Self, Error> {
        let directory = tempfile::tempdir()
            .map_err(file_error("make a directory for files in", &std::env::temp_dir()))?;
        for (path, content) in files {
            if !is_below(path) {
                return Err(Error::Path(path.clone()));
            }
            let place = directory.path().join(path);
            let parent = place.parent().unwrap_or(directory.path());
            fs::create_dir_all(parent).map_err(file_error("make the directory", parent))?;
            fs::write(&place, content).map_err(file_error("write", &place))?;
        }
        Ok(Self(directory))
    }

    /// Where they are on this machine. Who looks there by other means than [`Files::read`] has to mind what the program may have made:
    /// links that lead elsewhere, FIFOs, very large files.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file that the program has left, by its path below [`crate::DIRECTORY`].
    ///
    /// # Errors
    /// When there is none, when it is no regular file or behind a link, when it has more than `limit_bytes`.
    pub fn read(&self, path: impl AsRef<Path>, limit_bytes: u64) -> Result<Vec<u8>, Error> {
        let path = path.as_ref();
        let opened = || {
            let directory = fs::File::open(self.path())?;
            // Not to wait for the writer of a FIFO.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let file = fs::File::from(openat2(directory, path, flags, Mode::empty(), how)?);
            if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::ErrorKind::InvalidInput.into()) }
        };
        let file: fs::File = opened().map_err(file_error("open", path))?;
        let mut content = Vec::new();
        file.take(limit_bytes.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(file_error("read", path))?;
        if content.len() as u64 > limit_bytes {
            return Err(Error::TooLarge { path: path.to_owned(), limit_bytes });
        }
        Ok(content)
    }
}

fn is_below(path: &Path) -> bool {
    path.file_name().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_come_and_go_by_paths_below() {
        let files = Files::with(&[("a/b.txt".into(), b"x".to_vec())]).unwrap();
        assert_eq!(files.read("a/b.txt", 1).unwrap(), b"x");
        assert!(matches!(files.read("a/b.txt", 0), Err(Error::TooLarge { .. })));
        for path in ["/etc/x", "../x", "a/../../x", ""] {
            assert!(matches!(Files::with(&[(path.into(), Vec::new())]), Err(Error::Path(_))), "{path}");
        }
    }

    #[test]
    fn a_hostile_tree_leads_nowhere() {
        let files = Files::with(&[("real".into(), b"x".to_vec())]).unwrap();
        symlink("/etc/passwd", files.path().join("link")).unwrap();
        symlink("/etc", files.path().join("directory")).unwrap();
        for path in ["link", "directory/passwd", "../../etc/passwd", "/etc/passwd", ".", "none"] {
            assert!(matches!(files.read(path, 1 << 20), Err(Error::File { .. })), "{path}");
        }
    }
}
