//! What this program tells of itself: its version, and what a shell and man(1) want to know.

use std::{io, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::{
    args::Args,
    output::{self, Format},
};

const NAME: &str = "securectr";

#[derive(Debug, ClapArgs)]
pub(crate) struct Version {
    /// json, or a template as in '{{.Version}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<Format>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Completion {
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Man {
    /// Where the pages are written
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

pub(crate) fn version(version: &Version) -> Result<u8> {
    let facts = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": std::env::consts::OS,
        "Arch": std::env::consts::ARCH,
        "OciVersion": crate::container::OCI_VERSION,
    });
    match &version.format {
        Some(format) => output::documents(Some(format), vec![facts])?,
        None => output::lines([format!("{NAME} {}", env!("CARGO_PKG_VERSION"))])?,
    }
    Ok(0)
}

pub(crate) fn completion(completion: &Completion) -> Result<u8> {
    clap_complete::generate(completion.shell, &mut Args::command(), NAME, &mut io::stdout());
    Ok(0)
}

/// A page for each verb.
pub(crate) fn man(man: &Man) -> Result<u8> {
    std::fs::create_dir_all(&man.directory).with_context(|| format!("make {}", man.directory.display()))?;
    clap_mangen::generate_to(Args::command(), &man.directory)
        .with_context(|| format!("write manual pages to {}", man.directory.display()))?;
    Ok(0)
}
