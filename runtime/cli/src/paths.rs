//! Where this user's files lie.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};
use rustix::process::geteuid;

use crate::args::Global;

/// The store of images: the one asked for, or that of this user.
pub(crate) fn store(global: &Global) -> Result<PathBuf> {
    if let Some(asked) = &global.store {
        // Others find what lies there, wherever they are.
        return std::path::absolute(asked).context("find the store");
    }
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/securectr"));
    }
    let data = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/share")))
        .context("find a place for images: neither XDG_DATA_HOME nor HOME is set; use --store DIR")?;
    Ok(data.join("securectr"))
}
