//! Where this user's files lie.

use std::path::PathBuf;

use anyhow::{Context, Result};
use securectr_sandbox::default_store;

use crate::args::Global;

/// The store of images: the one asked for, or that of this user.
pub(crate) fn store(global: &Global) -> Result<PathBuf> {
    if let Some(asked) = &global.store {
        // Others find what lies there, wherever they are.
        return std::path::absolute(asked).context("find the store");
    }
    default_store().context("find a place for images: neither XDG_DATA_HOME nor HOME is set; use --store DIR")
}
