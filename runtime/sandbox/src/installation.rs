//! Where the other parts of the product lie, found from where this program lies.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// The VMM, the file server, the wall, the guest's kernel and its initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub vmm: PathBuf,
    pub files: PathBuf,
    /// Started for those alone who may not reach all, so that it may be missing.
    pub wall: PathBuf,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

#[derive(Debug, Error)]
pub enum InstallationError {
    #[error("find out where this program lies")]
    Program(#[source] io::Error),
    #[error("{part} is missing: looked for {}", list(.looked_for))]
    Missing { part: &'static str, looked_for: Vec<PathBuf> },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

impl Installation {
    /// Finds the parts of `PREFIX/bin` in `PREFIX/share/securectr`, and those of a build in `target/release` in `target/guest`.
    pub fn find() -> Result<Self, InstallationError> {
        let program = env::current_exe().map_err(InstallationError::Program)?;
        Self::beside(program.parent().unwrap_or(Path::new("/")))
    }

    fn beside(programs: &Path) -> Result<Self, InstallationError> {
        let prefix = programs.parent().unwrap_or(programs);
        let share = [prefix.join("share/securectr"), prefix.join("guest")];
        Ok(Self {
            vmm: first_of("the program securectr-vmm", vec![programs.join("securectr-vmm")])?,
            files: first_of("the program securectr-files", vec![programs.join("securectr-files")])?,
            wall: programs.join("securectr-wall"),
            kernel: first_of("the guest kernel", share.iter().map(|dir| dir.join("vmlinux")).collect())?,
            initramfs: first_of(
                "the guest image",
                share.iter().map(|dir| dir.join("initramfs.cpio")).collect(),
            )?,
        })
    }
}

fn first_of(part: &'static str, looked_for: Vec<PathBuf>) -> Result<PathBuf, InstallationError> {
    match looked_for.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(InstallationError::Missing { part, looked_for }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn lay(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn an_installed_prefix_is_found() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["bin/securectr-vmm", "bin/securectr-files"]);
        lay(root.path(), &["share/securectr/vmlinux", "share/securectr/initramfs.cpio"]);
        let found = Installation::beside(&root.path().join("bin")).unwrap();
        assert_eq!(found.kernel, root.path().join("share/securectr/vmlinux"));
    }

    #[test]
    fn a_build_tree_is_found() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["release/securectr-vmm", "release/securectr-files"]);
        lay(root.path(), &["guest/vmlinux", "guest/initramfs.cpio"]);
        assert!(Installation::beside(&root.path().join("release")).is_ok());
    }

    #[test]
    fn a_missing_part_is_named_with_its_places() {
        let root = tempfile::tempdir().unwrap();
        lay(root.path(), &["bin/securectr-vmm", "bin/securectr-files"]);
        let error = Installation::beside(&root.path().join("bin")).unwrap_err().to_string();
        assert!(error.starts_with("the guest kernel is missing: looked for "), "{error}");
        assert!(error.contains("share/securectr/vmlinux and "), "{error}");
    }
}
