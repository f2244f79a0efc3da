//! Which machines an image is for, by Go's names (OCI image spec, image-index.md): `linux/amd64`, `linux/arm64/v8`.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// What an image says nothing of fits any.
    pub variant: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no platform (as in linux/amd64 or linux/arm64/v8)")]
pub struct ParsePlatformError(String);

impl Platform {
    /// Guests run Linux on the host's processor.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether an image that says so of itself is for this.
    pub(crate) fn takes(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let fits = match (&self.variant, variant) {
            (Some(wanted), Some(variant)) => wanted == variant,
            _ => true,
        };
        (self.os.as_str(), self.architecture.as_str()) == (os, architecture) && fits
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/').map(str::to_owned);
        let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if [&os, &architecture].into_iter().chain(&variant).all(|part| is_word(part)) =>
            {
                Ok(Self { os, architecture, variant })
            }
            _ => Err(ParsePlatformError(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_written() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm64/v8/x", "li nux/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_variant_counts_when_both_have_one() {
        let any: Platform = "linux/arm64".parse().unwrap();
        let v8: Platform = "linux/arm64/v8".parse().unwrap();
        assert!(any.takes("linux", "arm64", Some("v8")) && v8.takes("linux", "arm64", None));
        assert!(!v8.takes("linux", "arm64", Some("v9")) && !v8.takes("linux", "amd64", None));
    }
}
