//! Somebody who uses `securectr`, with a home and a store of their own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{Finished, Started, image, program};

pub struct User {
    home: TempDir,
}

impl User {
    pub fn new() -> Result<Self> {
        Ok(Self { home: tempfile::tempdir()? })
    }

    /// With a home below a directory.
    pub fn new_in(directory: &Path) -> Result<Self> {
        Ok(Self { home: tempfile::tempdir_in(directory)? })
    }

    /// One who has the busybox image, by the name `box`.
    pub fn with_box() -> Result<Self> {
        let user = Self::new()?;
        user.succeed(&["load", "-q", "-t", "box", &image("busybox")])?;
        Ok(user)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("securectr"));
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
