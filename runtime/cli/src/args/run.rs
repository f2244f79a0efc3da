//! What `run` is told.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args as ClapArgs, error::ErrorKind, parser::ValueSource};
use oci_spec::runtime::{LinuxThrottleDevice, PosixRlimit};
use securectr_sandbox::{Allowed, DEFAULT_DISK_BYTES, SandboxId};

use super::{
    mounts::{Mounted, Tmpfs, Volume, mount, tmpfs, volume},
    rates::{blkio_weight, byte_rate, request_rate},
    values::{
        Network, SecurityOption, UserNamespace, cpu_count, disk_size, host, label, limit, memory_size,
        network, security_option, setting, swap_size, user_namespace,
    },
};
use crate::{
    container::{Budget, LogDriver, LogOption, Restart, log_option},
    images,
    ports::Ports,
    signals,
};

#[derive(Debug, ClapArgs)]
#[command(
    override_usage = "securectr run [OPTIONS] IMAGE [COMMAND [ARG...]]\n       securectr run [OPTIONS] --rootfs DIR [COMMAND [ARG...]]",
    after_help = "IMAGE is the name or id of an image of this machine, or oci-archive:FILE, oci:DIR or docker-archive:FILE, each with an \
                  optional :TAG."
)]
pub(crate) struct Run {
    /// Leave the container behind and print its id; without it, nothing of the container stays
    #[arg(short, long)]
    pub detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// What follows the end of a container that was left behind: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", requires = "detach", conflicts_with = "rm")]
    pub restart: Restart,
    /// Signal by which stop stops it [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signals::number)]
    pub stop_signal: Option<u32>,
    /// How long it may take to stop, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u64>,
    /// Kill the container when it has run for so long, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Kill the container when its machine has used so much of the CPUs, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub cpu_seconds: Option<u64>,
    /// Kill the container when it has written so much to standard output and errors
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub output_limit: Option<i64>,
    /// Size of the container's own disk, without volumes [default: 10g]
    #[arg(long, value_name = "SIZE", value_parser = disk_size, conflicts_with_all = ["read_only", "in_place"])]
    pub disk: Option<u64>,
    /// Mark it with a word and a value, for ps --filter
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Where what a container that stays has written is kept: json-file, or none
    #[arg(long, value_enum, default_value_t, value_name = "DRIVER", hide_possible_values = true)]
    pub log_driver: LogDriver,
    /// Bounds of it: max-size=SIZE of each file, or -1, and max-file=NUMBER of them [default: 20m and 5; of a size alone 1]
    #[arg(long, value_name = "NAME=VALUE", value_parser = log_option)]
    pub log_opt: Vec<LogOption>,
    /// Write the container's id to a file, which must not be there
    #[arg(long, value_name = "FILE", requires = "detach")]
    pub cidfile: Option<PathBuf>,
    /// Write how it ended to a file, as JSON; messages of securectr itself are in it, and not on standard error
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    pub outcome: Option<PathBuf>,
    /// When the image is fetched from its registry
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub pull: images::PullPolicy,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; without a value, take it from this environment
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set environment variables that stand in a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Add a group, by name or number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Let an init be the first process: it passes signals on to the command and reaps what that leaves behind
    #[arg(long)]
    pub init: bool,
    /// Host name of the container
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Replace the image's entry point; empty for none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Memory limit, in bytes or with k, m or g behind the number
    #[arg(short, long, value_name = "SIZE", value_parser = memory_size)]
    pub memory: Option<i64>,
    /// Memory and swap together; as much as --memory is no swap, which is the default
    #[arg(long, value_name = "SIZE", value_parser = swap_size, allow_negative_numbers = true, requires = "memory")]
    pub memory_swap: Option<i64>,
    /// Memory that is not taken away under pressure
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub memory_reservation: Option<i64>,
    /// CPU limit, in CPUs; fractions are fine
    #[arg(long, value_name = "NUMBER", value_parser = cpu_count)]
    pub cpus: Option<f64>,
    /// Share of the CPUs beside other containers of the machine
    #[arg(long, value_name = "SHARES")]
    pub cpu_shares: Option<u64>,
    /// CPUs of the guest that may be used, as in 0-2 or 0,3
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// What the container may read from a block device of this machine in a second, as in /dev/sda:10m; held to on its disks that
    /// lie there
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = byte_rate)]
    pub device_read_bps: Vec<LinuxThrottleDevice>,
    /// What it may write to it
    #[arg(long, value_name = "DEVICE:SIZE", value_parser = byte_rate)]
    pub device_write_bps: Vec<LinuxThrottleDevice>,
    /// How often it may read from it in a second
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = request_rate)]
    pub device_read_iops: Vec<LinuxThrottleDevice>,
    /// How often it may write to it
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = request_rate)]
    pub device_write_iops: Vec<LinuxThrottleDevice>,
    #[arg(long, hide = true, value_name = "WEIGHT", value_parser = blkio_weight)]
    pub blkio_weight: Option<u16>,
    /// Most processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Limit of each process, as in nofile=1024 or nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = limit)]
    pub ulimit: Vec<PosixRlimit>,
    /// Kernel parameter, as in net.ipv4.ip_forward=1
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub sysctl: Vec<(String, String)>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub shm_size: Option<i64>,
    /// How readily the guest's kernel kills it for want of memory: -1000 to 1000
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(-1000..=1000), allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// no-new-privileges, or seccomp=FILE with a profile in docker's format; seccomp=unconfined is the default
    #[arg(long, value_name = "OPTION", value_parser = security_option)]
    pub security_opt: Vec<SecurityOption>,
    /// Add a Linux capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a Linux capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Give it all of its guest: every capability, the guest's devices, and a writable /sys and /proc. The machine around it stays shut
    #[arg(long)]
    pub privileged: bool,
    /// User namespace: host is none, which is so anyway
    #[arg(long, value_name = "host", value_parser = user_namespace)]
    pub userns: Option<UserNamespace>,
    /// Share a directory or a file of this machine with the container, or a volume by its name; options are ro, cow (what the
    /// container writes is kept beside it, see apply and discard), and nocopy, which leaves a new volume empty
    #[arg(short, long, value_name = "SOURCE:PATH[:OPTIONS]", value_parser = volume)]
    pub volume: Vec<Volume>,
    /// The same and more in docker's longer words, as in type=bind,source=/srv,target=/data,readonly; types are bind, volume and tmpfs
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = mount)]
    pub mount: Vec<Mounted>,
    /// A file system in memory, as in /run or /run:size=64m,mode=755
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = tmpfs)]
    pub tmpfs: Vec<Tmpfs>,
    /// Keep the container's root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<SandboxId>,
    /// Network: none, nat (connections become this machine's, by passt), or the path of a network namespace whose interfaces become
    /// the container's [default: none, with -p, -P and --allow-net nat]
    #[arg(long, value_name = "none|nat|NETNS", value_parser = network)]
    pub network: Option<Network>,
    /// Give this machine a port of the container, as in 8080:80, 127.0.0.1:8080:80/udp, 8000-8010:80-90; a free one where none is named
    #[arg(short, long, value_name = "[[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL]")]
    pub publish: Vec<Ports>,
    /// The same for all ports that the image exposes, with free ones of this machine
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Let the container reach only this by TCP and UDP, and what else is so named; what it tries besides is told. HOST is a name,
    /// *.name, an address or a network, as in *.example.org:443 or 192.0.2.0/24
    #[arg(long, value_name = "HOST[:PORT[-PORT]]")]
    pub allow_net: Vec<Allowed>,
    /// Another name in /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = host)]
    pub add_host: Vec<(String, IpAddr)>,
    /// A name server for /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// Where /etc/resolv.conf looks for names without dots
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option for /etc/resolv.conf
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Boot this kernel, an uncompressed vmlinux
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Go on from a checkpoint, as its container was: of the other options only -d, --rm, --name and --cidfile go with it
    #[arg(long, value_name = "CHECKPOINT")]
    pub from: Option<SandboxId>,
    /// Use a directory in place of an image
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Share the directory of --rootfs instead of copying it: what the container writes is written there. Meanwhile nobody else
    /// may change it. Users by number only
    #[arg(long, requires = "rootfs")]
    pub in_place: bool,
    /// Print what would be done, as JSON, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print how long each step of the start took, as JSON, to standard error
    #[arg(long)]
    pub timings: bool,
    /// Append the steps of the start to a file as OpenTelemetry spans, a line of OTLP's JSON a start; they go on with the trace of the
    /// environment's TRACEPARENT
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    pub otlp: Option<PathBuf>,
    /// The image, unless --rootfs is given, then the command and its arguments
    #[arg(trailing_var_arg = true, value_name = "IMAGE [COMMAND [ARG...]]")]
    pub words: Vec<OsString>,
}

impl Run {
    pub(crate) fn budget(&self) -> Budget {
        Budget {
            time: self.timeout.map(Duration::from_secs),
            cpu_time: self.cpu_seconds.map(Duration::from_secs),
            output_bytes: self.output_limit.map(i64::unsigned_abs),
        }
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk.unwrap_or(DEFAULT_DISK_BYTES)
    }

    /// All that is shared with the container.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        let mounted = self.mount.iter().filter_map(|mounted| match mounted {
            Mounted::Volume(volume) => Some(volume),
            Mounted::Tmpfs(_) => None,
        });
        self.volume.iter().chain(mounted)
    }

    pub(crate) fn tmpfs(&self) -> impl Iterator<Item = &Tmpfs> {
        let mounted = self.mount.iter().filter_map(|mounted| match mounted {
            Mounted::Tmpfs(tmpfs) => Some(tmpfs),
            Mounted::Volume(_) => None,
        });
        self.tmpfs.iter().chain(mounted)
    }

    pub(crate) fn has_no_new_privileges(&self) -> bool {
        self.security_opt.contains(&SecurityOption::NoNewPrivileges)
    }

    /// The file of the profile that was asked for at last.
    pub(crate) fn seccomp(&self) -> Option<&Path> {
        let asked = self.security_opt.iter().rev().find(|option| **option != SecurityOption::NoNewPrivileges);
        match asked {
            Some(SecurityOption::Seccomp(path)) => Some(path),
            _ => None,
        }
    }
}

/// What goes with `--from`, beside the options of every command.
const WITH_FROM: [&str; 5] = ["from", "detach", "rm", "name", "cidfile"];

/// Refuses options that would say what a checkpoint has said already.
pub(super) fn check_from(mut command: clap::Command) -> Result<(), clap::Error> {
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    let Some((name, run)) = matches.subcommand() else { return Ok(()) };
    let arguments = command.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
    let conflict = { arguments }.find(|argument| {
        let id = argument.get_id().as_str();
        let is_free = argument.is_global_set() || WITH_FROM.contains(&id);
        !is_free && run.value_source(id) == Some(ValueSource::CommandLine)
    });
    let named = |argument: &clap::Arg| {
        argument.get_long().map_or("another command".to_owned(), |long| format!("--{long}"))
    };
    let Some(what) = conflict.map(named) else { return Ok(()) };
    let words = format!("a container goes on with --from as it was: {what} does not go with it\n");
    Err(command.error(ErrorKind::ArgumentConflict, words))
}

/// What these words behind `run` mean, for tests.
#[cfg(test)]
pub(crate) fn typed(words: &[&str]) -> Run {
    use clap::Parser;

    let argv = ["securectr", "run"].iter().chain(words);
    match super::Args::try_parse_from(argv).unwrap().command {
        super::Command::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}
