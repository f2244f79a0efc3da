//! The members of an archive that holds an image, found by passing over their data.

use std::collections::HashMap;
use std::io::BufReader;
use std::sync::Arc;

use super::Error;
use crate::limits::{Budget, Exceeded, Limits};
use crate::section::{Section, Source};
use crate::tar::{self, Kind, Member, Reader};

/// `docker save` used to link equal layers to each other, once.
const MAX_LINKS: usize = 4;

#[derive(Debug)]
enum Place {
    Data { offset: u64, bytes: u64 },
    Link(String),
}

#[derive(Debug)]
pub(super) struct Archive {
    source: Arc<Source>,
    members: HashMap<String, Place>,
}

impl Archive {
    pub(super) fn open(source: Source, limits: &Limits) -> Result<Self, Error> {
        let whole = Section::whole(source);
        let mut bytes = Budget::new("bytes in an archive", u64::MAX);
        let mut reader = Reader::new(BufReader::new(whole.reader()), &mut bytes, limits.sparse_segments);
        let mut members = HashMap::new();
        while let Some(member) = reader.next()? {
            if members.len() as u64 >= limits.archive_members {
                return Err(Exceeded { of: "members of an archive", limit: limits.archive_members }.into());
            }
            if let Some((name, place)) = place(&member, whole.bytes)? {
                members.insert(name, place);
            }
        }
        Ok(Self { source: whole.source, members })
    }

    /// The data of the member `name`.
    pub(super) fn section(&self, name: &str) -> Result<Section, Error> {
        let mut wanted = name;
        for _ in 0..=MAX_LINKS {
            match self.members.get(wanted) {
                None if wanted == name => return Err(Error::Missing(name.to_owned())),
                None => break,
                Some(Place::Link(target)) => wanted = target,
                Some(Place::Data { offset, bytes }) => {
                    return Ok(Section { source: Arc::clone(&self.source), offset: *offset, bytes: *bytes });
                }
            }
        }
        Err(Error::Link(name.to_owned()))
    }
}

fn place(member: &Member, archive_bytes: u64) -> Result<Option<(String, Place)>, Error> {
    let Some(name) = normal(&member.path, "") else { return Ok(None) };
    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
    let place = match member.kind {
        Kind::Regular if member.sparse.is_none() => {
            let end = member.data_offset.checked_add(member.stored_bytes);
            if end.is_none_or(|end| end > archive_bytes) {
                return Err(tar::Error::Truncated.into());
            }
            Place::Data { offset: member.data_offset, bytes: member.stored_bytes }
        }
        Kind::Symlink => match normal(&member.target, parent) {
            Some(target) => Place::Link(target),
            None => return Ok(None),
        },
        Kind::HardLink => match normal(&member.target, "") {
            Some(target) => Place::Link(target),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some((name, place)))
}

/// `path`, seen from `base`, without `.`, `..` and empty names; `None` if it leads out of the archive or is no text.
fn normal(path: &[u8], base: &str) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut names: Vec<&str> = if path.starts_with('/') { Vec::new() } else { base.split('/').collect() };
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            _ => names.push(name),
        }
    }
    names.retain(|name| !name.is_empty());
    Some(names.join("/"))
}
