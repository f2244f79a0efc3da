//! Somebody who uses `securectr`, with a home and a store of their own.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{Finished, Started, image, program};

/// A user whom no system has.
pub const ORDINARY_ID: u32 = 54_321;

pub struct User {
    home: TempDir,
    /// Of one who is not root: the user's and the group's ids.
    ids: Option<(u32, u32)>,
}

impl User {
    /// Root.
    pub fn new() -> Result<Self> {
        Self { home: tempfile::tempdir()?, ids: None }.sharing_templates()
    }

    /// Root, with a home below a directory.
    pub fn new_in(directory: &Path) -> Result<Self> {
        Self { home: tempfile::tempdir_in(directory)?, ids: None }.sharing_templates()
    }

    /// Root, for whom no machine was booted yet.
    pub fn without_templates() -> Result<Self> {
        Ok(Self { home: tempfile::tempdir()?, ids: None })
    }

    /// The templates of a user's machines are those of all tests of the same user: they are made once.
    fn sharing_templates(self) -> Result<Self> {
        let (uid, gid) = self.ids.unzip();
        let shared = env::temp_dir().join(format!("securectr-tests-templates-{}", uid.unwrap_or(0)));
        let store = self.home().join("store");
        fs::create_dir(&store)?;
        // Another test may just have made it.
        if fs::create_dir(&shared).is_ok() {
            fs::set_permissions(&shared, fs::Permissions::from_mode(0o700))?;
            chown(&shared, uid, gid)?;
        }
        symlink(&shared, store.join("templates"))?;
        for path in [store.clone(), store.join("templates")] {
            lchown(path, uid, gid)?;
        }
        Ok(self)
    }

    /// One whom no system knows, with the group of those who may use KVM and no other.
    pub fn ordinary() -> Result<Self> {
        Self::ordinary_in_group(fs::metadata("/dev/kvm")?.gid())
    }

    pub fn ordinary_in_group(group: u32) -> Result<Self> {
        let user = Self { home: tempfile::tempdir()?, ids: Some((ORDINARY_ID, group)) };
        fs::create_dir(user.runtime())?;
        for path in [user.home().to_owned(), user.runtime()] {
            chown(path, Some(ORDINARY_ID), Some(group))?;
        }
        user.sharing_templates()
    }

    /// One who has the busybox image, by the name `box`.
    pub fn with_box() -> Result<Self> {
        Self::new()?.having_box()
    }

    /// The same person with that image.
    pub fn having_box(self) -> Result<Self> {
        self.succeed(&["load", "-q", "-t", "box", &image("busybox")])?;
        Ok(self)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What an ordinary one's sandboxes keep their state in.
    pub fn runtime(&self) -> PathBuf {
        self.home().join("runtime")
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = match self.ids {
            None => Command::new(program("securectr")),
            Some((uid, gid)) => {
                let mut command = Command::new("/usr/bin/setpriv");
                command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
                command.arg(program("securectr")).env("XDG_RUNTIME_DIR", self.runtime()).current_dir("/");
                command
            }
        };
        command.env("HOME", self.home()).env_remove("XDG_CONFIG_HOME").env_remove("DOCKER_CONFIG");
        command.arg("--store").arg(self.home().join("store")).args(words);
        command
    }

    pub fn call(&self, words: &[&str]) -> Result<Finished> {
        Started::spawn(&mut self.command(words))?.finish(b"")
    }

    /// What it says, without the last line's end.
    pub fn succeed(&self, words: &[&str]) -> Result<String> {
        let finished = self.call(words)?;
        ensure!(finished.code == 0, "{words:?}: {finished:?}");
        Ok(finished.out().trim_end_matches('\n').to_owned())
    }

    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.home().join(path);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        Ok(fs::write(path, content)?)
    }

    /// A field of `inspect`.
    pub fn inspect(&self, field: &str, name: &str) -> Result<String> {
        self.succeed(&["inspect", "--format", &format!("{{{{{field}}}}}"), name])
    }
}

impl Drop for User {
    /// Nobody's containers outlive them.
    fn drop(&mut self) {
        let left = self.succeed(&["ps", "-a", "-q"]).unwrap_or_default();
        let names: Vec<_> = left.lines().collect();
        if !names.is_empty() {
            let _ = self.call(&[&["rm", "-f"], names.as_slice()].concat());
        }
    }
}
