//! One file changed so that it can be changed back: whole or not at all, through whatever link leads to it, with its mode and owner.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Content {
    File(String),
    /// A symbolic link, and where it leads.
    Link(PathBuf),
}

impl Content {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::File(text) => Some(text),
            Self::Link(_) => None,
        }
    }
}

/// What is to become of a path; none is nothing there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub path: PathBuf,
    pub before: Option<Content>,
    pub after: Option<Content>,
}

impl Change {
    fn apply(&self) -> Result<()> {
        put(&self.path, self.after.as_ref())
    }

    fn revert(&self) -> Result<()> {
        put(&self.path, self.before.as_ref())
    }
}

/// Makes all changes, or none: when one fails, those before it are taken back.
pub(super) fn apply_all(changes: &[Change]) -> Result<()> {
    for (done, change) in changes.iter().enumerate() {
        if let Err(error) = change.apply() {
            return Err(match revert_all(changes.get(..done).unwrap_or_default()) {
                Ok(()) => error,
                Err(second) => error.context(format!("{second:#}; and before that")),
            });
        }
    }
    Ok(())
}

/// Takes changes back, the last one first. One that cannot be does not keep the others from it.
pub(super) fn revert_all(changes: &[Change]) -> Result<()> {
    changes.iter().rev().map(Change::revert).fold(Ok(()), Result::and)
}

/// A configuration file may be a link: what it leads to is what is changed.
pub(super) fn resolve(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

pub(super) fn read_file(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// The link itself, not what it leads to. A file is read as one.
pub(super) fn read_link(path: &Path) -> Result<Option<Content>> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(Content::Link(target))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            anyhow::bail!("{} is there already and is no link: remove it first", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

pub(super) fn put(path: &Path, content: Option<&Content>) -> Result<()> {
    let written = match content {
        None => fs::remove_file(path),
        Some(Content::File(text)) => write(path, text),
        Some(Content::Link(target)) => {
            let new = beside(path);
            symlink(target, &new).and_then(|()| rename(&new, path))
        }
    };
    match written {
        Err(error) if content.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.with_context(|| {
            let verb = if content.is_some() { "write" } else { "remove" };
            format!("{verb} {}", path.display())
        }),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path).ok();
    let new = beside(path);
    // Nobody reads it before it has its owner.
    let mode = if old.is_some() { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    let written = fill(&mut file, &new, text, old.as_ref()).and_then(|()| rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn fill(file: &mut File, path: &Path, text: &str, old: Option<&fs::Metadata>) -> io::Result<()> {
    if let Some(old) = old {
        chown(path, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn rename(new: &Path, path: &Path) -> io::Result<()> {
    fs::rename(new, path).inspect_err(|_| drop(fs::remove_file(new)))
}

/// Not `*.toml`, `*.conf` nor anything else that an engine reads.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: PathBuf, before: Option<&str>, after: Option<&str>) -> Change {
        let file = |text: &str| Content::File(text.to_owned());
        Change { path, before: before.map(file), after: after.map(file) }
    }

    #[test]
    fn a_file_keeps_its_mode() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.toml");
        fs::write(&path, "a").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        apply_all(&[change(path.clone(), Some("a"), Some("b"))]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o440);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn when_one_change_fails_none_is_made() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        fs::write(&one, "old").unwrap();
        let changes = [
            change(one.clone(), Some("old"), Some("new")),
            change(two.clone(), None, Some("new")),
            change(place.path().join("no/such/directory"), None, Some("new")),
        ];
        let error = apply_all(&changes).unwrap_err();
        assert!(error.to_string().contains("no/such/directory"), "{error:#}");
        assert_eq!(fs::read_to_string(&one).unwrap(), "old");
        assert!(!two.exists());
    }

    #[test]
    fn a_link_stays_one_and_what_it_leads_to_changes() {
        let place = tempfile::tempdir().unwrap();
        let (real, link) = (place.path().join("real"), place.path().join("link"));
        fs::write(&real, "a").unwrap();
        symlink("real", &link).unwrap();
        apply_all(&[change(resolve(&link), Some("a"), Some("b"))]).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("real"));
        assert_eq!(fs::read_to_string(&real).unwrap(), "b");
    }

    #[test]
    fn what_is_not_a_link_is_not_replaced_by_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("program");
        assert_eq!(read_link(&path).unwrap(), None);
        fs::write(&path, "").unwrap();
        assert!(read_link(&path).unwrap_err().to_string().contains("no link"));
    }
}
