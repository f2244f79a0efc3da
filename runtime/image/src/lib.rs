//! Images: archives and layouts, layers merged into one EROFS image, the store.
//!
//! ```text
//! Reference -> source (find, check) -> layer (decompress, verify) -> tar -> tree (merge) -> erofs (write) -> store
//! ```
//! Everything that comes out of an image is hostile. No entry of a layer ever becomes a file of the host: layers are merged in
//! memory, and the file system image is written directly. Device nodes, set-user-ID bits and owners are data like any other;
//! the guest, not the host, gives them a meaning. `copy` has the only files of strangers that become the user's, because they ask for them.

mod config;
mod copy;
mod digest;
mod erofs;
mod import;
mod layer;
mod limits;
mod name;
mod pack;
mod platform;
mod reference;
mod section;
mod source;
mod store;
mod tar;
mod tree;
mod user;

pub use config::ImageConfig;
pub use copy::{CopyError, Destination, Packer, open_beneath};
pub use digest::{Digest, ParseDigestError};
pub use limits::{Exceeded, Limits};
pub use name::{Name, ParseNameError};
pub use platform::{ParsePlatformError, Platform};
pub use reference::{ParseReferenceError, Reference};
pub use store::{Addition, Commit, Description, Error, Image, Listed, Progress, Pulling, Removed, Store};
pub use user::{ResolveUserError, User};
