//! Names of sandboxes: they become directory names, so they are checked once and carried as a type.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// No name is longer, in bytes: with the state directory before it, the path of a Unix socket must stay below 108 (unix(7)).
const MAX_LEN: usize = 64;

/// A name that is safe as a path component: holding one proves `[A-Za-z0-9][A-Za-z0-9_.-]*`, at most 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SandboxId(String);

#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdError {
    #[error(
        "a name must begin with a letter or digit and go on with letters, digits, '_', '.' or '-': {0:?}"
    )]
    Characters(String),
    #[error("a name has at most {MAX_LEN} characters: this one has {0}")]
    Length(usize),
}

impl SandboxId {
    /// A name nobody chose: 64 random bits in hexadecimal.
    pub fn random() -> io::Result<Self> {
        Ok(Self(format!("{:016x}", u64::from_le_bytes(random_bytes()?))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The host's randomness.
pub(crate) fn random_bytes<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl TryFrom<String> for SandboxId {
    type Error = IdError;

    fn try_from(name: String) -> Result<Self, IdError> {
        name.parse()
    }
}

impl FromStr for SandboxId {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        if name.len() > MAX_LEN {
            return Err(IdError::Length(name.len()));
        }
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins_well && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            Ok(Self(name.to_owned()))
        } else {
            Err(IdError::Characters(name.to_owned()))
        }
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for name in ["", ".", "..", "../x", "a/b", "/etc", "-rf", ".hidden", "a\0b", "a b", "ä"] {
            assert!(name.parse::<SandboxId>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn ordinary_names_are_taken() {
        for name in ["a", "web-1", "pod_2.x", "0123"] {
            assert_eq!(name.parse::<SandboxId>().map(|id| id.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn a_name_is_short_enough_for_a_socket_path() {
        assert_eq!("a".repeat(65).parse::<SandboxId>(), Err(IdError::Length(65)));
    }

    #[test]
    fn random_names_are_names_and_differ() {
        let (a, b) = (SandboxId::random().unwrap(), SandboxId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse(), Ok(a));
    }
}
