//! What a container has changed: a line of JSON for each path, and the same as a layer of an image (OCI image spec, layer.md).

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, readlinkat};
use serde::Serialize;

use super::{
    archive::{Archive, Content},
    layer::{self, Change, Disks, Kind, Now, Wanted},
};
use crate::container::failure::{During, Failure};

/// Before the name of what is not there any more.
const WHITEOUT: &str = ".wh.";
/// In a directory of which nothing below counts.
const OPAQUE: &str = ".wh..wh..opq";

#[derive(Serialize)]
struct Told<'a> {
    /// As docker has them: A, C or D.
    kind: &'static str,
    path: std::borrow::Cow<'a, str>,
}

pub(super) fn tell(disks: &Disks, output: &mut impl Write) -> Result<(), Failure> {
    layer::changes(disks, Wanted::Seen, &mut |change| {
        let kind = match change.kind {
            Kind::Added => "A",
            Kind::Changed => "C",
            Kind::Deleted => "D",
        };
        let told = Told { kind, path: change.path.to_string_lossy() };
        let written = serde_json::to_writer(&mut *output, &told).map_err(io::Error::from);
        written.and_then(|()| output.write_all(b"\n")).during(|| "write".into())
    })
}

pub(super) fn pack(disks: &Disks, output: &mut impl Write) -> Result<(), Failure> {
    let mut archive = Archive::new(output);
    layer::changes(disks, Wanted::All, &mut |change| {
        add(&mut archive, &change).during(|| format!("send /{}", change.path.display()))
    })?;
    archive.finish().during(|| "write".into())
}

fn add<W: Write>(archive: &mut Archive<W>, change: &Change<'_>) -> io::Result<()> {
    let Some(now) = change.now else { return archive.add_empty(&whiteout(change.path)?) };
    let metadata = match now.metadata() {
        // It has gone meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    let kind = metadata.file_type();
    let mut xattrs = Vec::new();
    if kind.is_file() || kind.is_dir() {
        let capabilities = layer::capabilities(now.parent, now.name)?;
        if !capabilities.is_empty() {
            xattrs.push(("SCHILY.xattr.security.capability".to_owned(), capabilities));
        }
    }
    archive.add(change.path, &metadata, content(&now, kind)?, &xattrs)?;
    if change.is_opaque { archive.add_empty(&change.path.join(OPAQUE)) } else { Ok(()) }
}

fn content(now: &Now<'_>, kind: std::fs::FileType) -> io::Result<Content> {
    Ok(if kind.is_dir() {
        Content::Directory
    } else if kind.is_file() {
        Content::File(now.open(OFlags::RDONLY)?)
    } else if kind.is_symlink() {
        use std::os::unix::ffi::OsStringExt;
        let target = readlinkat(now.parent, now.name, Vec::new())?.into_bytes();
        Content::Link(std::ffi::OsString::from_vec(target).into())
    } else {
        Content::Nothing
    })
}

fn whiteout(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut whiteout = std::ffi::OsString::from(WHITEOUT);
    whiteout.push(name);
    Ok(path.with_file_name(whiteout))
}
