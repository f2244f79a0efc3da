//! A tree as lines of text, in which nothing stands that differs from one file system to the next.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};
use rustix::{
    fs::{Dir, FileType, Stat, lgetxattr, llistxattr, lstat, major, minor, readlink},
    io::Errno,
};

/// Times before this were set, later ones are of the clock: 2001, in seconds.
const FIRST_REAL_TIME: i64 = 978_307_200;

/// All below a directory, in order of names, a line each.
pub(crate) fn list(top: &Path) -> Result<String> {
    let mut lines = String::new();
    add(top, "", &mut lines)?;
    Ok(lines)
}

fn add(top: &Path, below: &str, lines: &mut String) -> Result<()> {
    for (name, _) in names(&top.join(below)).with_context(|| format!("list {below:?}"))? {
        let path = format!("{below}{name}");
        let stat = lstat(top.join(&path)).with_context(|| path.clone())?;
        writeln!(lines, "{path} {}", describe(&top.join(&path), &stat).with_context(|| path.clone())?)?;
        if kind(&stat) == FileType::Directory {
            add(top, &format!("{path}/"), lines)?;
        }
    }
    Ok(())
}

/// In order, with what the directory says that they are.
pub(crate) fn names(directory: &Path) -> rustix::io::Result<Vec<(String, FileType)>> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let open = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(open)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push((name, entry.file_type()));
        }
    }
    names.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(names)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What is said of a file without opening it. The size of a directory is its file system's matter.
pub(crate) fn attributes(stat: &Stat) -> String {
    let kind = kind(stat);
    let size = if kind == FileType::Directory { 0 } else { stat.st_size };
    let modified = match stat.st_mtime {
        time if time < FIRST_REAL_TIME => format!("{time}.{}", stat.st_mtime_nsec),
        _ => "now".to_owned(),
    };
    let device = match kind {
        FileType::CharacterDevice | FileType::BlockDevice => {
            format!(" device {}:{}", major(stat.st_rdev), minor(stat.st_rdev))
        }
        _ => String::new(),
    };
    let (mode, links) = (stat.st_mode & 0o7777, stat.st_nlink);
    format!("{kind:?} {mode:o} {}:{} links {links} size {size} {modified}{device}", stat.st_uid, stat.st_gid)
}

fn describe(path: &Path, stat: &Stat) -> Result<String> {
    let content = match kind(stat) {
        FileType::RegularFile => format!(" content {:x}", digest(&std::fs::read(path)?)),
        FileType::Symlink => format!(" to {}", readlink(path, Vec::new())?.to_string_lossy()),
        _ => String::new(),
    };
    Ok(format!("{}{content}{}", attributes(stat), xattrs(path)?))
}

/// Those of users.
fn xattrs(path: &Path) -> Result<String> {
    let mut list = vec![0; 64 * 1024];
    let len = match llistxattr(path, &mut list) {
        Err(Errno::OPNOTSUPP) => 0,
        len => len?,
    };
    let mut names: Vec<String> = list
        .get(..len)
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| name.starts_with("user."))
        .collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 64 * 1024];
        let len = lgetxattr(path, name.as_str(), &mut value)?;
        write!(text, " {name}={:x}", digest(value.get(..len).unwrap_or_default()))?;
    }
    Ok(text)
}

/// FNV-1a, and the length.
pub(crate) fn digest(bytes: &[u8]) -> u128 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    u128::from(sum) | (bytes.len() as u128) << 64
}
