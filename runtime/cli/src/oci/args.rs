//! runc's verbs and options, as far as engines use them.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use securectr_sandbox::SandboxId;

#[derive(Debug, ClapArgs)]
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
    /// Start a container that was created
    Start(Named),
    /// Send a signal to a container
    Kill(Kill),
    /// Stop all processes of a container where they are
    Pause(Named),
    /// Let them go on
    Resume(Named),
    /// Change the limits of a container
    Update(Box<Update>),
    /// Print what a container uses, as JSON, again and again
    Events(Events),
    /// Remove a container that has ended
    Delete(Delete),
    /// Print a container's state as JSON
    State(Named),
    /// List the containers that were created
    List(List),
    /// Print the pid that stands for a container
    Ps(Ps),
    /// Run another process in a container
    Exec(Box<Exec>),
    /// Print what this runtime can do, as JSON
    Features,
    /// Write an example config.json
    Spec(Spec),
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
    #[arg(value_name = "ID")]
    pub id: SandboxId,
    /// Name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM", value_parser = signal)]
    pub signal: u32,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Update {
    /// The limits as a JSON object of the runtime spec, in a file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Memory limit in bytes; -1 is none
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory: Option<i64>,
    /// Memory that is not taken away, in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together, in bytes; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_swap: Option<i64>,
    /// CPU time in each period, in microseconds; -1 is no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Length of a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Share of the CPU beside other containers
    #[arg(long, value_name = "SHARES")]
    pub cpu_share: Option<u64>,
    /// CPUs that may be used
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Number of processes; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    #[arg(value_name = "ID")]
    pub id: SandboxId,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Events {
    /// Once, and no more
    #[arg(long)]
    pub stats: bool,
    /// Seconds from one time to the next
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub interval: std::time::Duration,
    #[arg(value_name = "ID")]
    pub id: SandboxId,
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
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    #[arg(value_name = "ID")]
    pub id: SandboxId,
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
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// User, by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Descriptors to hand on: a guest cannot be given any
    #[arg(long, default_value_t = 0, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=0))]
    pub preserve_fds: u32,
    /// A pipe that is told how it went; set by `exec --detach` alone.
    #[arg(long, hide = true)]
    pub ready_fd: Option<i32>,
    #[arg(value_name = "ID")]
    pub id: SandboxId,
    /// The command, unless --process is given
    #[arg(trailing_var_arg = true, value_name = "COMMAND [ARG...]")]
    pub command: Vec<String>,
}

/// As kill(1) takes it: `9`, `KILL` or `SIGKILL`.
fn signal(text: &str) -> Result<u32, String> {
    let unknown = || format!("there is no signal {text:?}");
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse::<nix::sys::signal::Signal>().map(|signal| signal as u32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_taken_in_each_of_its_spellings() {
        assert_eq!(signal("9"), Ok(9));
        assert_eq!(signal("KILL"), Ok(9));
        assert_eq!(signal("sigterm"), Ok(15));
        assert_eq!(signal("64"), Ok(64));
        for bad in ["", "0", "65", "SIGNOTHING", "-9"] {
            assert!(signal(bad).is_err(), "{bad:?}");
        }
    }
}
