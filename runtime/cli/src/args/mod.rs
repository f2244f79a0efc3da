//! What was typed.

mod mounts;
mod rates;
mod run;
mod values;

use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};

pub(crate) use mounts::{Tmpfs, Volume, VolumeSource};
pub(crate) use run::Run;
#[cfg(test)]
pub(crate) use run::typed;
pub(crate) use values::{Network, cpu_count, memory_size, network, swap_size};

use crate::{
    checkpoints, copies, images, inside, inspect, install, kept, oci, system, templates, version, volumes,
};

/// Run containers, each in a microVM with a kernel of its own
#[derive(Debug, Parser)]
#[command(name = "securectr", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten, next_help_heading = "Global options")]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What `run` needs of all this. It is waited for, and the tree of all words takes a while to build.
#[derive(Debug, Parser)]
#[command(name = "securectr")]
struct OnlyRun {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    Run(Box<Run>),
}

impl Args {
    /// What was typed: a command, or the words about it that clap has.
    pub(crate) fn typed() -> Result<Self, clap::Error> {
        match OnlyRun::try_parse() {
            Ok(OnlyRun { global, command: RunCommand::Run(run) }) => {
                if run.from.is_some() {
                    run::check_from(OnlyRun::command())?;
                }
                Ok(Self { global, command: Command::Run(run) })
            }
            // Another command, or words of help, which the whole tree has.
            Err(_) => Self::try_parse(),
        }
    }
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Global {
    /// How messages of securectr itself are written to standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Show the guest's console on standard error
    #[arg(long, global = true)]
    pub debug: bool,
    /// Where images are kept [default: /var/lib/securectr, without root ~/.local/share/securectr]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
    #[command(flatten)]
    pub oci: oci::Options,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new container
    Run(Box<Run>),
    /// Say whether this machine can run securectr, by booting a guest
    Check(Check),
    /// Make this runtime known to the container engines of this machine [default: those that are found]
    Install(install::Install),
    /// Take back what install did
    Uninstall(install::Setup),
    /// Print the version
    Version(version::Version),
    /// Print what a shell needs to complete words of this program
    Completion(version::Completion),
    /// Write manual pages
    Man(version::Man),
    /// Manage volumes with names
    Volume(volumes::Group),
    /// Manage the booted machines that containers start from
    Template(templates::Group),
    /// Print all that is known of containers and images, as JSON
    Inspect(inspect::Inspect),
    /// Manage containers
    Container(system::Containers),
    /// See and tidy what is kept on this machine
    System(system::Group),
    /// Say what this program and this machine are
    Info(system::Info),
    #[command(flatten)]
    Kept(kept::Verb),
    #[command(flatten)]
    Checkpoints(checkpoints::Verb),
    #[command(flatten)]
    Inside(inside::Verb),
    #[command(flatten)]
    Copies(copies::Verb),
    #[command(flatten)]
    Image(images::Verb),
    #[command(flatten)]
    Oci(oci::Verb),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    /// How the findings are written to standard output
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: LogFormat,
}
