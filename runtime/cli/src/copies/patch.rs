//! Changes of text, as patch(1) and git take them.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::{Context, Result};
use rustix::fs::FileType;
use similar::TextDiff;

use super::{
    change::{Change, Kind},
    file::{link_target, open_file, open_parent, open_top},
    record::Private,
};

/// Larger files are named only.
const MAX_LEN: u64 = 1 << 20;

/// What is different in each file. For a terminal, characters that could drive it are shown as others.
pub(super) fn patch(private: &Private, changes: &[Change], for_terminal: bool) -> Result<String> {
    let upper = open_top(&private.upper).context("open the private copy")?;
    let lower = open_top(&private.source).with_context(|| format!("open {}", private.source.display()))?;
    let mut text = String::new();
    for change in changes.iter().filter(|change| !change.is_directory()) {
        let new = if change.kind == Kind::Deleted { Some(String::new()) } else { content(&upper, change) };
        let old = if change.kind == Kind::Added { Some(String::new()) } else { content(&lower, change) };
        text.push_str(&one(private, change, old.zip(new)));
    }
    Ok(if for_terminal { text.chars().map(shown).collect() } else { text })
}

fn shown(c: char) -> char {
    if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }
}

/// Paths are below the mount's source, where the patch would be applied.
fn one(private: &Private, change: &Change, texts: Option<(String, String)>) -> String {
    let way = private.shown(&change.way);
    let way = Path::new(&way).strip_prefix(&private.path).unwrap_or(Path::new(&way)).display().to_string();
    let Some((old, new)) = texts else { return format!("Binary files a/{way} and b/{way} differ\n") };
    let side = |kind, letter: &str| {
        if change.kind == kind { "/dev/null".to_owned() } else { format!("{letter}/{way}") }
    };
    let diff = TextDiff::from_lines(&old, &new);
    let mut unified = diff.unified_diff();
    let unified =
        unified.context_radius(3).header(&side(Kind::Added, "a"), &side(Kind::Deleted, "b")).to_string();
    // Neither a mode nor an empty file has lines.
    if unified.is_empty() { format!("--- a/{way}\n+++ b/{way}\n") } else { unified }
}

/// None for what is no text, or too large to be read by anybody. A link's is where it leads.
fn content(top: &OwnedFd, change: &Change) -> Option<String> {
    let (parent, name) = open_parent(top, &change.way).ok()?;
    if change.what == Some(FileType::Symlink) {
        if let Ok(target) = link_target(&parent, name) {
            return target.to_str().map(|target| format!("{target}\n"));
        }
    }
    open_file(&parent, name).and_then(read).ok().filter(|text| !text.contains('\0'))
}

fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_LEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LEN { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}
