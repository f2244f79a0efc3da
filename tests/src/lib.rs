//! What the tests of the built programs share: where they are, and a container run in three lines.

mod bundle;
mod containerd;
pub mod cri;
mod lan;
mod run;
mod terminal;

use std::path::{Path, PathBuf};

pub use bundle::Bundle;
pub use containerd::{Containerd, Detached, Runtime, containerd, eventually, on_each};
pub use lan::Lan;
pub use run::{Finished, Started, run, run_in, securectr};
pub use terminal::Terminal;

/// The top of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A program of the release build, which is what the tests drive.
pub fn program(name: &str) -> PathBuf {
    checkout().join("target/release").join(name)
}

/// `oci-archive:` and the path of a demo image: "busybox" or "debian".
pub fn image(name: &str) -> String {
    format!("oci-archive:{}", containerd::image_archive(name).display())
}
