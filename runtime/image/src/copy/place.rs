//! Where a copy goes: docker's rules for destinations that are there or are not.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

use super::CopyError;

/// What a user has named, which is theirs to name: links up to it are followed.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    found: Option<fs::FileType>,
}

/// A directory with the names that members have below it.
#[derive(Debug)]
pub(super) struct Place {
    top: File,
    /// In the place of each member's first name.
    renamed: Option<OsString>,
}

/// The directory that a member is in, and its name there; none for the place itself.
pub(super) type Member = (OwnedFd, Option<OsString>);

impl Destination {
    /// # Errors
    /// [`CopyError::Destination`]
    pub fn find(path: &Path) -> Result<Self, CopyError> {
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found.map_err(|source| failed(path, source))?.file_type()),
        };
        Ok(Self { path: path.to_owned(), found })
    }

    /// `is_content` is of a directory whose own name does not count.
    pub(super) fn place(&self, is_directory: bool, is_content: bool) -> Result<Place, CopyError> {
        let placed = match self.found {
            Some(kind) if kind.is_dir() => Ok(Place { top: open(&self.path)?, renamed: None }),
            Some(_) if is_directory || self.ends_with_slash() => Err(io::ErrorKind::NotADirectory.into()),
            // A link to a file stays one.
            Some(_) => fs::canonicalize(&self.path).and_then(|path| beside(&path)),
            None if is_content => {
                fs::create_dir(&self.path).map_err(|source| failed(&self.path, source))?;
                Ok(Place { top: open(&self.path)?, renamed: None })
            }
            None if !is_directory && self.ends_with_slash() => Err(io::ErrorKind::NotFound.into()),
            None => beside(&self.path),
        };
        placed.map_err(|source| failed(&self.path, source))
    }

    fn ends_with_slash(&self) -> bool {
        self.path.as_os_str().as_bytes().ends_with(b"/")
    }
}

fn failed(path: &Path, source: io::Error) -> CopyError {
    CopyError::Destination { path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<File, CopyError> {
    File::open(path).map_err(|source| failed(path, source))
}

fn beside(path: &Path) -> io::Result<Place> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(Place { top: File::open(parent)?, renamed: Some(name) })
}

impl Place {
    /// Opens the directory above a member. Nothing but directories is on the way there: whoever puts a link there meanwhile, or
    /// before, gets an error.
    pub(super) fn member(&self, name: &[u8]) -> io::Result<Member> {
        let mut names: Vec<&[u8]> =
            name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if names.contains(&b"..".as_slice()) || names.iter().any(|name| name.contains(&0)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name leads elsewhere"));
        }
        if let Some(renamed) = &self.renamed {
            if names.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no name"));
            }
            names.splice(..1, [renamed.as_bytes()]);
        }
        let last = names.pop().map(|name| OsString::from(std::ffi::OsStr::from_bytes(name)));
        let parent = names.join(b"/".as_slice());
        Ok((open_beneath(&self.top, std::ffi::OsStr::from_bytes(&parent).as_ref())?, last))
    }
}

/// Opens a directory below another one, where nothing but directories is on the way: neither a link nor `..` leads elsewhere.
///
/// # Errors
/// Those of openat2(2); a link on the way is ELOOP.
pub fn open_beneath(top: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&top, path, flags, Mode::empty(), resolve) {
            // Something was renamed just then (openat2(2)).
            Err(Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
}
