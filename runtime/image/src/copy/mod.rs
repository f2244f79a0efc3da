//! Files between a container and its user, as tar archives. What comes out of a container is hostile, and becomes files of the user:
//! only below the destination, through no link, without devices, and with no rights that were not asked for.

mod pack;
mod place;
mod unpack;

use std::{io, path::PathBuf};

use crate::tar;

pub use pack::Packer;
pub use place::{Destination, open_beneath};

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("cannot copy to {path}")]
    Destination {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}")]
    Source {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the copy is not whole: what the container sends is no archive")]
    Archive(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the copy is not whole: cannot make {name}")]
    Make {
        /// As the archive has it.
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the container has sent nothing")]
    Nothing,
    /// Towards the container.
    #[error("cannot send {path}")]
    Send {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<tar::Error> for CopyError {
    fn from(error: tar::Error) -> Self {
        Self::Archive(error.into())
    }
}

#[cfg(test)]
mod tests;
