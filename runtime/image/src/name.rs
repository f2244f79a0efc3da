//! Names of images as registries have them: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, with what Docker's users leave out.
//!
//! The grammar is that of the distribution project (reference.go); it is small, and compiling it as a regular expression takes longer
//! than all else that a start does with a name.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

const DEFAULT_HOST: &str = "docker.io";
/// What docker.io calls itself in old configurations.
const LEGACY_HOST: &str = "index.docker.io";
/// Where Docker's own images are.
const DEFAULT_PROJECT: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// Of host and path together, in characters.
const MAX_REPOSITORY_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;

/// A whole name: nothing is left to be filled in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is no name of an image (as in nginx, nginx:1.27, registry.example:5000/team/app or app@sha256:...)"
)]
pub struct ParseNameError(String);

impl Name {
    /// The registry, with its port if it has one of its own.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// None only beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository by another digest, without a tag.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// As a person knows the repository: without what goes without saying.
    pub fn familiar_repository(&self) -> String {
        match self.path.strip_prefix(DEFAULT_PROJECT).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) if self.host == DEFAULT_HOST && !rest.contains('/') => rest.to_owned(),
            _ if self.host == DEFAULT_HOST => self.path.clone(),
            _ => format!("{}/{}", self.host, self.path),
        }
    }
}

impl FromStr for Name {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseNameError(text.chars().take(300).collect()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn parse(text: &str) -> Option<Name> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().ok()?)),
        None => (text, None),
    };
    // A colon behind the last slash is a tag's; one before it is a port's.
    let last_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match rest.get(last_start..)?.split_once(':') {
        Some((last, tag)) => (rest.get(..last_start + last.len())?, Some(tag)),
        None => (rest, None),
    };
    let (host, path) = match repository.split_once('/') {
        Some((first, path)) if is_host(first) => (first, path.to_owned()),
        Some(_) => (DEFAULT_HOST, repository.to_owned()),
        None => (DEFAULT_HOST, format!("{DEFAULT_PROJECT}/{repository}")),
    };
    let host = if host == LEGACY_HOST { DEFAULT_HOST } else { host };
    let path = match path.contains('/') {
        false if host == DEFAULT_HOST => format!("{DEFAULT_PROJECT}/{path}"),
        _ => path,
    };
    let is_good = is_host_well_formed(host)
        && path.split('/').all(is_component)
        && host.len() + 1 + path.len() <= MAX_REPOSITORY_LEN
        // What looks like an image's id names one.
        && !(repository.len() == 64 && repository.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && tag.is_none_or(is_tag);
    let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    is_good.then(|| Name { host: host.to_owned(), path, tag, digest })
}

/// Whether the first part of a name is a host, as Docker tells: the others have neither dots nor ports nor capitals.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host_well_formed(host: &str) -> bool {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Small letters and digits, in between one dot, one or two underscores, or dashes.
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_separator = |part: &str| matches!(part, "." | "_" | "__") || part.bytes().all(|byte| byte == b'-');
    let bytes = component.as_bytes();
    bytes.first().copied().is_some_and(is_word)
        && bytes.last().copied().is_some_and(is_word)
        && component
            .split(|c: char| u8::try_from(c).is_ok_and(is_word))
            .filter(|between| !between.is_empty())
            .all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_LEN
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use oci_spec::distribution::Reference;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_is_filled_in() {
        let digest = format!("app@{DIGEST}");
        for (text, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
            ("Registry.example/app", "Registry.example/app:latest"),
            (digest.as_str(), &format!("docker.io/library/app@{DIGEST}")),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!(name.to_string(), whole);
            assert_eq!(whole.parse::<Name>().unwrap(), name);
        }
    }

    #[test]
    fn a_person_sees_what_a_person_would_type() {
        for (text, repository) in [
            ("docker.io/library/nginx", "nginx"),
            ("docker.io/team/app", "team/app"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("example.com/library/app", "example.com/library/app"),
            ("docker.io/library/a/b", "library/a/b"),
        ] {
            assert_eq!(text.parse::<Name>().unwrap().familiar_repository(), repository);
        }
    }

    /// The specification's own crate as the judge.
    #[test]
    fn names_are_those_of_the_specification() {
        let long = format!("a/{}", "b".repeat(255));
        let long_tag = format!("a:{}", "t".repeat(129));
        let with_digest = format!("x.y:80/a:t@{DIGEST}");
        let names = [
            "a",
            "a-b",
            "a--b",
            "a.b",
            "a..b",
            "a_b",
            "a__b",
            "a___b",
            "-a",
            "a-",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "a:",
            "a:-t",
            "a:.t",
            "a:_t",
            "a:T.t-1",
            "a@",
            "a@b",
            "a b",
            "a\nb",
            "é",
            "x:80/a",
            "x.y/a",
            "x.y:/a",
            "x.y:port/a",
            "-x.y/a",
            "x-.y/a",
            "x..y/a",
            "a.-b",
            "",
            ":",
            "@",
            "a:b:c",
            "a/b:c/d",
            "../a",
            "a/../b",
            &long,
            &long_tag,
            &with_digest,
        ];
        for text in names {
            let (ours, theirs) = (text.parse::<Name>(), text.parse::<Reference>());
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{text:?}: {ours:?}, {theirs:?}");
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                assert_eq!(ours.to_string(), theirs.whole(), "{text:?}");
            }
        }
    }

    #[test]
    fn an_id_is_no_name() {
        assert!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse::<Name>().is_err());
    }
}
