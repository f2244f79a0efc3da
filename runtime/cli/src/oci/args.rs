//! runc's verbs and options, as far as engines use them.

use std::{path::PathBuf, time::SystemTime};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use securectr_sandbox::SandboxId;

use crate::{
    args::{cpu_count, swap_size},
    container::Restart,
    kept, output, signals,
};

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Options {
    /// Where containers made by `create` are recorded [default: /run/securectr-containers]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write messages to a file, too
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Accepted for runc's sake: a guest has cgroups of its own
    #[arg(long, global = true, hide = true)]
    pub systemd_cgroup: bool,
    /// Accepted for runc's sake: who runs it decides
    #[arg(long, global = true, hide = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub rootless: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a container from an OCI bundle; `start` lets it run
    Create(Create),
    #[command(hide = true)]
    Monitor(Monitor),
    /// Start containers that were created, or that have ended
    Start(Start),
    /// Send a signal to containers
    Kill(Kill),
    /// Stop all processes of containers where they are
    Pause(Several),
    /// Let them go on
    #[command(visible_alias = "unpause")]
    Resume(Several),
    /// Change the limits of a container
    Update(Box<Update>),
    /// Tell what happens to containers; of one by its name, print what it uses, as JSON, again and again
    Events(Box<Events>),
    /// Remove a container that has ended
    Delete(Delete),
    /// Print a container's state as JSON
    State(Named),
    /// List the containers that were created
    List(List),
    /// List containers that stay, or print the pid that stands for one
    Ps(Ps),
    /// Run another process in a container
    Exec(Box<Exec>),
    /// Print what this runtime can do, as JSON
    Features,
    /// Write an example config.json
    Spec(Spec),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Several {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Start {
    /// Show what it writes, and end with its exit code
    #[arg(short, long)]
    pub attach: bool,
    /// Join this terminal to it
    #[arg(short, long)]
    pub interactive: bool,
    #[command(flatten)]
    pub several: Several,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Named {
    #[arg(value_name = "ID")]
    pub id: SandboxId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Create {
    /// The bundle
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Write the container's pid to a file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Send the container's terminal to this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Accepted for runc's sake: nothing pivots on this side
    #[arg(long, hide = true)]
    pub no_pivot: bool,
    /// Accepted for runc's sake: a guest has keyrings of its own
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
    /// Descriptors to hand on: a guest cannot be given any
    #[arg(long, default_value_t = 0, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=0))]
    pub preserve_fds: u32,
    #[arg(value_name = "ID")]
    pub id: SandboxId,
}

/// Called by `create` alone.
#[derive(Debug, ClapArgs)]
pub(crate) struct Monitor {
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// A pipe that is told how the creation went.
    #[arg(long)]
    pub ready_fd: i32,
    pub id: SandboxId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Kill {
    /// All processes of the container
    #[arg(short, long)]
    pub all: bool,
    /// Name or number of the signal [default: KILL, and TERM for a container of the OCI command line]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signals::number)]
    pub signal: Option<u32>,
    /// Names or ids; as with runc, the signal may stand behind one
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Update {
    /// The limits as a JSON object of the runtime spec, in a file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Memory limit, in bytes or with k, m or g behind the number; -1 is none
    #[arg(short, long, value_name = "SIZE", value_parser = swap_size, allow_negative_numbers = true)]
    pub memory: Option<i64>,
    /// Memory that is not taken away
    #[arg(long, value_name = "SIZE", value_parser = swap_size, allow_negative_numbers = true)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together; -1 is no limit
    #[arg(long, value_name = "SIZE", value_parser = swap_size, allow_negative_numbers = true)]
    pub memory_swap: Option<i64>,
    /// CPU limit, in CPUs; fractions are fine
    #[arg(long, value_name = "NUMBER", value_parser = cpu_count, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub cpus: Option<f64>,
    /// CPU time in each period, in microseconds; -1 is no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Length of a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Share of the CPU beside other containers
    #[arg(long, visible_alias = "cpu-shares", value_name = "SHARES")]
    pub cpu_share: Option<u64>,
    /// CPUs that may be used
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Number of processes; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// What follows its end from now on: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<Restart>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Events {
    /// Once, and no more
    #[arg(long, requires = "name")]
    pub stats: bool,
    /// From one time to the next
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub interval: std::time::Duration,
    /// Only what has happened since then, as in 2026-01-31T12:00:00Z or 10m
    #[arg(long, value_name = "TIME", value_parser = kept::moment, conflicts_with = "name")]
    pub since: Option<SystemTime>,
    /// Only what happens before then
    #[arg(long, value_name = "TIME", value_parser = kept::moment, conflicts_with = "name")]
    pub until: Option<SystemTime>,
    /// Only some: event=, container=, image= or label=
    #[arg(short, long, value_name = "KEY=VALUE", conflicts_with = "name")]
    pub filter: Vec<String>,
    /// json, or a template as in '{{.Action}} {{.Actor.Attributes.name}}'
    #[arg(long, value_name = "FORMAT", conflicts_with = "name")]
    pub format: Option<output::Format>,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Delete {
    /// Kill it first, and be content when there is none
    #[arg(short, long)]
    pub force: bool,
    #[arg(value_name = "ID")]
    pub id: SandboxId,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// How the list is written
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ps {
    /// How the list is written
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: output::Format,
    /// Those that have ended, too
    #[arg(short, long)]
    pub all: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub no_trunc: bool,
    /// Only some: name=, id=, status=, ancestor= or label=
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// A container whose pid is to be printed
    #[arg(value_name = "CONTAINER")]
    pub name: Option<String>,
    /// Accepted for runc's sake
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub ps_options: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Spec {
    /// Where config.json is written
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Exec {
    /// The process as a JSON object of the runtime spec, in a file
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Do not wait for it
    #[arg(short, long)]
    pub detach: bool,
    /// Write its pid to a file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Send its terminal to this Unix socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keep standard input open (it is, where the OCI command line has made the container)
    #[arg(short, long)]
    pub interactive: bool,
    /// Working directory
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set an environment variable; without a value, take it from this environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set environment variables that stand in a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give it all capabilities
    #[arg(long)]
    pub privileged: bool,
    /// Descriptors to hand on: a guest cannot be given any
    #[arg(long, default_value_t = 0, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=0))]
    pub preserve_fds: u32,
    /// A pipe that is told how it went; set by `exec --detach` alone.
    #[arg(long, hide = true)]
    pub ready_fd: Option<i32>,
    /// A name or id
    #[arg(value_name = "CONTAINER")]
    pub name: String,
    /// The command, unless --process is given
    #[arg(trailing_var_arg = true, value_name = "COMMAND [ARG...]")]
    pub command: Vec<String>,
}
