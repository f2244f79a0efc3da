//! Docker's verbs for containers that stay.

use std::{path::PathBuf, time::SystemTime};

use clap::{Args as ClapArgs, Subcommand};
use securectr_sandbox::Protocol;

use super::attach::Keys;
use crate::output::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Stop containers: by a signal, and by SIGKILL when they take too long
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Stop),
    /// Remove containers that have ended
    Rm(Remove),
    /// Show what a container has written
    Logs(Logs),
    /// Wait for the end of containers, and print their exit codes
    Wait(Named),
    /// Show what containers use
    Stats(Stats),
    /// Let containers give back memory that their machines only keep for later
    Reclaim(Reclaim),
    /// Tell the cause of a container's end
    Why(Why),
    /// List the ports of this machine that a container has
    Port(Port),
    /// Give a container another name
    Rename(Rename),
    /// Join this terminal to a running container
    Attach(Attach),
    #[command(hide = true)]
    Keep(Keep),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Stop {
    /// How long they may take, in seconds [default: 10, or as told to run]
    #[arg(short = 't', long = "time", visible_alias = "timeout", value_name = "SECONDS")]
    pub time: Option<u64>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Kill them first, and be content when there is none
    #[arg(short, long)]
    pub force: bool,
    /// Accepted for docker's sake: there are no volumes without a name
    #[arg(short, long, hide = true)]
    pub volumes: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Logs {
    /// Go on as long as the container runs
    #[arg(short, long)]
    pub follow: bool,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// Only so many of the last lines
    #[arg(short = 'n', long, value_name = "LINES", value_parser = tail)]
    pub tail: Option<usize>,
    /// Only what was written since then, as in 2026-01-31T12:00:00Z or 10m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<SystemTime>,
    /// Only what was written before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<SystemTime>,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

impl Logs {
    /// Whether what was written at that time (RFC 3339) is wanted.
    pub(super) fn has(&self, time: &str) -> bool {
        let Ok(time) = humantime::parse_rfc3339(time) else { return true };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

/// A number, or `all`, which is no bound.
fn tail(text: &str) -> Result<usize, String> {
    if text == "all" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| format!("not a number of lines: {text}"))
}

/// A time, or how long ago it was.
pub(crate) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text).ok();
    ago.and_then(|ago| SystemTime::now().checked_sub(ago))
        .ok_or_else(|| format!("not a time: {text} (as in 2026-01-31T12:00:00Z or 10m)"))
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Named {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Stats {
    /// Once, and no more
    #[arg(long)]
    pub no_stream: bool,
    /// table, json, or a template as in '{{.Name}} {{.MemUsage}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Names or ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Reclaim {
    /// table, json, or a template as in '{{.Name}} {{.After}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Names or ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Why {
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Port {
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// Only of this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = crate::ports::guest_port)]
    pub port: Option<(u16, Protocol)>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Rename {
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    #[arg(value_name = "NAME")]
    pub new: securectr_sandbox::SandboxId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Attach {
    /// Keep this terminal's input
    #[arg(long)]
    pub no_stdin: bool,
    /// Whether signals to this process are the container's
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub sig_proxy: bool,
    /// Keys that let go of a container with a terminal
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub detach_keys: Keys,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
}

/// Called by `run -d` and `start` alone.
#[derive(Debug, ClapArgs)]
pub(crate) struct Keep {
    /// A pipe that is told how the start went.
    #[arg(long)]
    pub ready_fd: i32,
    /// The container goes on from the checkpoint in this directory.
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// Its processes stand still until somebody lets them go on.
    #[arg(long, requires = "from")]
    pub paused: bool,
    pub id: securectr_sandbox::SandboxId,
}
