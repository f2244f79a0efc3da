//! What a manifest names, each by digest and size.

use std::str::FromStr;

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum DigestError {
    #[error("'{}' is no digest", crate::error::quote(.0))]
    Form(String, #[source] oci_spec::OciSpecError),
    #[error("a digest is made by {}, but only sha256 is understood", crate::error::quote(.0))]
    Algorithm(String),
}

/// A blob as a manifest describes it. The digest is a SHA-256: it can stand in a URL and name a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl Part {
    pub(crate) fn of(descriptor: &Descriptor) -> Result<Self, DigestError> {
        let digest = only_sha256(descriptor.digest().clone())?;
        Ok(Self { digest, bytes: descriptor.size() })
    }

    /// The digest's 64 hexadecimal digits, in lower case.
    pub(crate) fn hex(&self) -> &str {
        self.digest.digest()
    }
}

pub(crate) fn sha256(text: &str) -> Result<Digest, DigestError> {
    let digest = Digest::from_str(text).map_err(|error| DigestError::Form(text.to_owned(), error))?;
    only_sha256(digest)
}

fn only_sha256(digest: Digest) -> Result<Digest, DigestError> {
    match digest.algorithm() {
        DigestAlgorithm::Sha256 => Ok(digest),
        other => Err(DigestError::Algorithm(other.to_string())),
    }
}

/// Adds up a digest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Whether the digest of what was added is this one.
    pub(crate) fn has_led_to(&self, digest: &Digest) -> bool {
        hex(self) == digest.digest()
    }
}

/// The digest of these bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Result<Digest, DigestError> {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    sha256(&format!("sha256:{}", hex(&hasher)))
}

fn hex(hasher: &Hasher) -> String {
    hasher.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest_of(b"").unwrap().to_string(), nothing);
        assert!(Hasher::default().has_led_to(&sha256(nothing).unwrap()));
    }

    #[test]
    fn other_algorithms_are_named_in_the_refusal() {
        let error = sha256(&format!("sha512:{}", "a".repeat(128))).unwrap_err().to_string();
        assert!(error.contains("sha512") && error.contains("only sha256"), "{error}");
        assert!(sha256("sha256:../../../etc/passwd").is_err());
    }
}
