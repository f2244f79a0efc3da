//! The name of an image: `host[:port]/repository[:tag][@digest]`.

use oci_spec::{distribution::Reference, image::Digest};
use thiserror::Error;

use crate::blobs::{DigestError, sha256};

/// Holding one proves that its parts can stand in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    repository: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Tag(String),
    Digest(Digest),
}

#[derive(Debug, Error)]
pub(crate) enum NameError {
    #[error("'{0}' is no name of an image")]
    Form(String, #[source] oci_spec::distribution::ParseError),
    #[error("'{0}' is not whole: HOST[:PORT]/REPOSITORY with :TAG or @DIGEST")]
    NotWhole(String),
    #[error("'{0}' has a digest that is not understood")]
    Digest(String, #[source] DigestError),
}

impl Name {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let parsed: Reference = text.parse().map_err(|error| NameError::Form(text.to_owned(), error))?;
        // The parser fills in what is missing; then the whole is another.
        if parsed.whole() != text {
            return Err(NameError::NotWhole(text.to_owned()));
        }
        let what = match (parsed.digest(), parsed.tag()) {
            (Some(digest), _) => {
                What::Digest(sha256(digest).map_err(|error| NameError::Digest(text.to_owned(), error))?)
            }
            (None, Some(tag)) => What::Tag(tag.to_owned()),
            (None, None) => return Err(NameError::NotWhole(text.to_owned())),
        };
        Ok(Self { repository: parsed.repository().to_owned(), what })
    }

    pub(crate) fn what(&self) -> &What {
        &self.what
    }

    /// As the host at that address is asked for it.
    pub(crate) fn at(&self, address: &str) -> Reference {
        let (address, repository) = (address.to_owned(), self.repository.clone());
        match &self.what {
            What::Tag(tag) => Reference::with_tag(address, repository, tag.clone()),
            What::Digest(digest) => Reference::with_digest(address, repository, digest.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_decides_over_a_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let name = Name::parse(&format!("registry.example.com:5000/team/app:1@{digest}")).unwrap();
        assert_eq!(name.what().clone(), What::Digest(sha256(&digest).unwrap()));
        assert_eq!(name.at("mirror.example.com").whole(), format!("mirror.example.com/team/app@{digest}"));
    }

    #[test]
    fn nothing_is_filled_in() {
        for text in
            ["app", "app:1", "team/app:1", "registry.example.com/app", "registry.example.com:5000/app"]
        {
            assert!(matches!(Name::parse(text), Err(NameError::NotWhole(_))), "{text}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let long = format!("registry.example.com/app@sha512:{}", "a".repeat(128));
        let upper = format!("registry.example.com/app@sha256:{}", "A".repeat(64));
        for text in [
            "",
            "registry.example.com/../app:1",
            "registry.example.com/app:1?x=y",
            "registry.example.com/app:1#",
            "registry.example.com/a b:1",
            "user@registry.example.com/app:1",
            "registry.example.com/app:../1",
            &long,
            &upper,
        ] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }
}
