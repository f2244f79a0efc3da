//! What a parent says to `securectr-registry`, and what it hears back. The program itself is the binary beside this library.
//!
//! On its standard input the program reads one line, the parent's [`Request`] in JSON, and then waits for the end: when it comes,
//! the parent has gone, and the program ends. On its standard output it writes one [`Event`] a line. When what a registry
//! answers takes more memory than the program gives itself, it aborts (SIGABRT) without a last event.

pub mod program;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The parent's line is not longer, in bytes.
pub const MAX_REQUEST_LEN: usize = 4 << 20;

/// An image to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `host[:port]/repository[:tag][@digest]`, whole: nothing is filled in here, so that there is a tag or a digest. With both,
    /// the digest decides.
    pub image: String,
    /// Asked in this order, under the image's own repository: mirrors, then the registry itself.
    pub hosts: Vec<Host>,
    /// What is taken of an index.
    pub platform: Platform,
    /// A directory that is there, and that becomes an OCI layout; what an interrupted call left in it is gone on with. It is
    /// one call's at a time.
    pub destination: PathBuf,
    /// A directory of blobs, each named by the hexadecimal digits of its SHA-256: those need not be fetched. It may be missing.
    pub present: PathBuf,
    pub limits: Limits,
    #[serde(default)]
    pub patience: Patience,
}

/// Who is asked for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `host[:port]`.
    pub address: String,
    /// HTTP without TLS.
    pub plain_http: bool,
    /// In PEM, each one or several certificates: who may sign for this host, beside those whom the system trusts.
    pub certificates: Vec<String>,
    pub credentials: Option<Credentials>,
}

/// What a host is told of who asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// For the host, or for the token service that it names.
    Basic { username: String, password: String },
    /// Sent to the host as it is, as a bearer token.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}

/// In the words of Go (GOOS, GOARCH), as in an image's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// The newest that will do: `v3` of amd64 runs `v2` and `v1` as well.
    pub variant: Option<String>,
}

/// What an image may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of one index, manifest or configuration.
    pub json_bytes: u64,
    pub layers: usize,
    /// Of all blobs of the image together, as they are fetched.
    pub bytes: u64,
}

/// How long a host is waited for, in milliseconds. The defaults are for all but tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Patience {
    /// Until there is a connection.
    pub connect_ms: u64,
    /// From one piece of a transfer to the next.
    pub stall_ms: u64,
    /// For a token, a manifest, or the begin of a blob, redirects included.
    pub answer_ms: u64,
    /// Before a broken transfer is tried again for the first time; twice as long each time after that.
    pub pause_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect_ms: 10_000, stall_ms: 30_000, answer_ms: 60_000, pause_ms: 500 }
    }
}

/// What the program tells its parent. Texts are short, and have no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// What the name led to, before anything large is fetched; once for each host that got so far.
    Resolved {
        /// The digest of the image's manifest.
        manifest: String,
        /// The digest of the index that the name stands for, if it does.
        index: Option<String>,
        /// The configuration, then the layers from the lowest on, each once.
        blobs: Vec<Blob>,
    },
    /// Of one blob, not more often than ten times a second. Counted from the blob's begin, also when it was gone on with; less than
    /// before when a host could only send it whole.
    Progress { digest: String, done_bytes: u64 },
    /// A blob is in the destination, its size and digest as they should be.
    Fetched { digest: String },
    /// This host did not do; the next is asked.
    HostFailed { address: String, cause: String },
    /// The destination is complete: `oci-layout`, `index.json` with the manifest under the image's name, and below `blobs/sha256` the
    /// manifest, the configuration and each layer that was not present. The last event.
    Done,
    /// The text is the chain of causes. The last event.
    Failed { cause: String },
}

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    pub bytes: u64,
    /// It need not be fetched: it is among the present ones, or in the destination since an earlier call.
    pub is_present: bool,
}
