//! The names of images as a user writes them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an image is: `oci-archive:FILE[:TAG]`, `oci:DIR[:TAG]` or `docker-archive:FILE[:TAG]`.
///
/// The path ends at the first colon (as in skopeo), so it cannot hold one; a tag may (`docker-archive:f.tar:busybox:latest`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    transport: Transport,
    path: PathBuf,
    tag: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    OciArchive,
    OciLayout,
    DockerArchive,
}

const TRANSPORTS: [(&str, Transport); 3] = [
    ("oci-archive", Transport::OciArchive),
    ("oci", Transport::OciLayout),
    ("docker-archive", Transport::DockerArchive),
];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' names no image (use oci-archive:FILE[:TAG], oci:DIR[:TAG] or docker-archive:FILE[:TAG])")]
pub struct ParseReferenceError(String);

impl Reference {
    /// Whether somebody who writes this means a file, well written or not.
    pub fn is_meant_by(text: &str) -> bool {
        text.split_once(':').is_some_and(|(name, _)| TRANSPORTS.iter().any(|(known, _)| *known == name))
    }

    /// All that is there.
    pub(crate) fn to(transport: Transport, path: &Path) -> Self {
        Self { transport, path: path.to_owned(), tag: None }
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseReferenceError(text.to_owned());
        let (name, rest) = text.split_once(':').ok_or_else(error)?;
        let (_, transport) = TRANSPORTS.iter().find(|(known, _)| *known == name).ok_or_else(error)?;
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if !tag.is_empty() => (path, Some(tag.to_owned())),
            Some(_) => return Err(error()),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(error());
        }
        Ok(Self { transport: *transport, path: path.into(), tag })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = TRANSPORTS
            .iter()
            .find(|(_, transport)| *transport == self.transport)
            .map_or("", |(name, _)| name);
        write!(f, "{name}:{}", self.path.display())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_understood_and_written_back() {
        for text in ["oci-archive:a.tar", "oci:/dir:latest", "docker-archive:f.tar:docker.io/busybox:1.36"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let reference: Reference = "docker-archive:f.tar:busybox:latest".parse().unwrap();
        assert_eq!(reference.path(), Path::new("f.tar"));
        assert_eq!(reference.tag(), Some("busybox:latest"));
    }

    #[test]
    fn anything_else_is_refused_with_the_forms_that_work() {
        for text in ["", "busybox", "docker:busybox", "oci:", "oci-archive::tag", "oci:dir:", "OCI:dir"] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains("oci-archive:FILE") && error.contains("docker-archive:FILE"), "{error}");
        }
    }
}
