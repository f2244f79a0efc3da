//! What was changed on this machine, and what was there before: by it an installation is taken back to the byte. Written before
//! anything is changed, so that one that was cut short can be taken back, too.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    args::Engine,
    block,
    change::{Content, put, read_file},
    docker,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub files: Vec<Entry>,
    /// Those that were made, parents first.
    pub directories: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub path: PathBuf,
    /// Whose it is: it stays until the last of them goes.
    pub engines: BTreeSet<Engine>,
    pub before: Option<Content>,
    pub after: Content,
}

impl Entry {
    /// What would be there now without us.
    pub(super) fn without_ours(&self, now: Option<&Content>) -> Result<Option<Content>> {
        Ok(match now {
            Some(now) if *now == self.after => self.before.clone(),
            Some(Content::File(text))
                if Some(text.as_str()) != self.before.as_ref().and_then(Content::text) =>
            {
                let is_json = self.path.extension().is_some_and(|extension| extension == "json");
                let rest = if is_json { docker::cut(&self.path, text)? } else { block::cut(text) };
                let is_gone = self.before.is_none() && rest.trim().is_empty();
                (!is_gone).then_some(Content::File(rest))
            }
            now => now.cloned(),
        })
    }
}

impl Journal {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let Some(text) = read_file(path)? else { return Ok(Self::default()) };
        serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
    }

    /// One without entries needs no file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        if self.files.is_empty() {
            return put(path, None);
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        put(path, Some(&Content::File(text)))?;
        // A configuration can hold passwords; it may have been readable for its owner only.
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("keep others from reading {}", path.display()))
    }

    pub(super) fn entry(&self, path: &Path) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.path == path)
    }

    /// Takes a file down, in place of what was known of it.
    pub(super) fn record(&mut self, mut new: Entry) {
        match self.files.iter_mut().find(|entry| entry.path == new.path) {
            Some(entry) => {
                new.engines.extend(&entry.engines);
                *entry = new;
            }
            None => self.files.push(new),
        }
    }

    /// Adds the directories that a file lacks.
    pub(super) fn will_make(&mut self, file: &Path) {
        let missing = file.ancestors().skip(1).take_while(|directory| !directory.exists());
        let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
        missing.retain(|directory| !self.directories.contains(directory));
        self.directories.extend(missing.into_iter().rev());
    }

    pub(super) fn make_directories(&self) -> Result<()> {
        for directory in &self.directories {
            match DirBuilder::new().mode(0o755).create(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.with_context(|| format!("make {}", directory.display()))?,
            }
        }
        Ok(())
    }

    /// Removes those directories that no file of ours needs any more. What others have put into one keeps it.
    pub(super) fn remove_directories(&mut self) {
        let files = &self.files;
        let is_needed = |directory: &PathBuf| files.iter().any(|entry| entry.path.starts_with(directory));
        let (needed, free): (Vec<_>, Vec<_>) = self.directories.drain(..).partition(is_needed);
        self.directories = needed;
        for directory in free.into_iter().rev() {
            // Until the last file goes, the journal itself may lie there.
            if fs::remove_dir(&directory).is_err() && !self.files.is_empty() {
                self.directories.insert(0, directory);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, before: Option<&str>, after: &str) -> Entry {
        Entry {
            path: path.into(),
            engines: [Engine::Containerd].into(),
            before: before.map(|text| Content::File(text.to_owned())),
            after: Content::File(after.to_owned()),
        }
    }

    fn without(entry: &Entry, now: &str) -> Option<String> {
        let rest = entry.without_ours(Some(&Content::File(now.to_owned()))).unwrap();
        rest.and_then(|content| content.text().map(ToOwned::to_owned))
    }

    #[test]
    fn what_is_as_we_left_it_becomes_what_it_was() {
        let entry = entry("/a.toml", Some("x\r\n  y"), "z");
        assert_eq!(without(&entry, "z").as_deref(), Some("x\r\n  y"));
        assert_eq!(without(&entry, "x\r\n  y").as_deref(), Some("x\r\n  y"));
        assert_eq!(entry.without_ours(None).unwrap(), None);
    }

    #[test]
    fn what_others_have_edited_since_keeps_their_words() {
        let ours = block::block(&["ours = 1".to_owned()], "\n");
        let changed = entry("/a.toml", Some("x = 1\n"), &format!("x = 1\n{ours}"));
        assert_eq!(without(&changed, &format!("x = 2\n{ours}y = 3\n")).as_deref(), Some("x = 2\ny = 3\n"));
        let made = entry("/b.toml", None, &ours);
        assert_eq!(without(&made, &format!("{ours}# theirs\n")).as_deref(), Some("# theirs\n"));
        assert_eq!(without(&made, &format!("\n{ours}")), None);
    }

    #[test]
    fn a_journal_that_is_empty_has_no_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("install.json");
        let mut journal = Journal::default();
        journal.record(entry("/a.toml", None, "z"));
        journal.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Journal::read(&path).unwrap(), journal);
        Journal::default().write(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(Journal::read(&path).unwrap(), Journal::default());
    }
}
