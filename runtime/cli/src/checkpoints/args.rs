//! What is typed about checkpoints and forks.

use clap::{Args as ClapArgs, Subcommand};
use securectr_sandbox::SandboxId;

use crate::output::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Manage checkpoints: containers that were saved with all their processes
    Checkpoint(Group),
    /// Let a container go on from a checkpoint, as one that stays
    Restore(Restore),
    /// Let copies of a running container go on beside it, each with its processes, memory and disk
    Fork(Fork),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Group {
    #[command(subcommand)]
    pub verb: OfCheckpoints,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OfCheckpoints {
    /// Save a running container and end it, so that it can go on from there
    Create(Create),
    /// List checkpoints
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove checkpoints; containers that came from them go on
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Read checkpoints as a whole and compare them with their checksums
    Verify(Remove),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Create {
    /// Let the container run on
    #[arg(short = 'R', long)]
    pub leave_running: bool,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Name of the checkpoint
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: SandboxId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
    /// table, json, or a template as in '{{.Name}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    #[arg(required = true, value_name = "CHECKPOINT")]
    pub checkpoints: Vec<SandboxId>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Restore {
    /// Name of the container [default: as it was called, where that name is free]
    #[arg(long, value_name = "NAME")]
    pub name: Option<SandboxId>,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: SandboxId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Fork {
    /// How many
    #[arg(short, long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub number: u16,
    /// What their names begin with, before a number [default: the container's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<SandboxId>,
    /// Remove them when they end
    #[arg(long)]
    pub rm: bool,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
