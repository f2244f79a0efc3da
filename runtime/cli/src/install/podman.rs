//! podman's configuration: a drop-in, which it merges key by key.

use anyhow::{Result, bail};

use super::{Site, Wanted, block::block, change::Content, programs};

const DROP_IN: &str = "etc/containers/containers.conf.d/securectr.conf";

/// The first podman whose drop-ins were seen to work.
const DROP_INS_SINCE: u32 = 4;

pub(super) fn wanted(site: &Site) -> Result<Vec<Wanted>> {
    if let Some(major) = programs::major_version("podman").filter(|&major| major < DROP_INS_SINCE) {
        bail!(
            "podman {major} is too old: add securectr to [engine.runtimes] in /etc/containers/containers.conf by hand"
        )
    }
    // A string in JSON is one in TOML.
    let program = serde_json::to_string(&site.program("securectr")?)?;
    let text = block(&["[engine.runtimes]".to_owned(), format!("securectr = [{program}]")], "\n");
    Ok(vec![Wanted { path: site.path(DROP_IN), content: Content::File(text) }])
}
