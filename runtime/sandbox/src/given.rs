//! Files of our making in a container: what others find in `/etc` of every container, whoever made its image.

use serde::{Deserialize, Serialize};

/// Readable by all, root's, and not part of the container's layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenFile {
    /// In the container.
    pub path: String,
    pub content: String,
}

impl GivenFile {
    pub fn new(path: &str, content: String) -> Self {
        Self { path: path.to_owned(), content }
    }

    /// The names that a container knows by itself: its own (hosts(5), hostname(5)).
    pub fn names(hostname: &str) -> [Self; 2] {
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
        );
        [Self::new("/etc/hosts", hosts), Self::new("/etc/hostname", format!("{hostname}\n"))]
    }
}
