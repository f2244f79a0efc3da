//! What is decided of private copies.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make what a container has changed of its :cow mounts so on this machine
    Apply(Apply),
    /// Forget what a container has changed of its :cow mounts
    Discard(Discard),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Apply {
    /// Also over what was changed on this machine since
    #[arg(short, long)]
    pub force: bool,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Only these, as they are called in the container, and what is below them
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Discard {
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Only these, as they are called in the container, and what is below them
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}
