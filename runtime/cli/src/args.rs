//! What was typed.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use securectr_sandbox::SandboxId;

use crate::{container::Restart, images, inspect, install, kept, oci, signals};

/// Run containers, each in a microVM with a kernel of its own
#[derive(Debug, Parser)]
#[command(name = "securectr", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, ClapArgs)]
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
    /// Print all that is known of containers and images, as JSON
    Inspect(inspect::Inspect),
    #[command(flatten)]
    Kept(kept::Verb),
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
    /// Mark it with a word and a value, for ps --filter
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = label)]
    pub label: Vec<(String, String)>,
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
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Host name of the container
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Replace the image's entry point; empty for none
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Memory limit, in bytes or with k, m or g behind the number
    #[arg(short, long, value_name = "SIZE", value_parser = memory_size)]
    pub memory: Option<i64>,
    /// CPU limit, in CPUs; fractions are fine
    #[arg(long, value_name = "NUMBER", value_parser = cpu_count)]
    pub cpus: Option<f64>,
    /// Add a Linux capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a Linux capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Share a directory or a file of this machine with the container
    #[arg(short, long, value_name = "SOURCE:PATH[:ro]", value_parser = volume)]
    pub volume: Vec<Volume>,
    /// Keep the container's root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<SandboxId>,
    /// Network: none, or the path of a network namespace whose interfaces become the container's
    #[arg(long, value_name = "none|NETNS", default_value = "none", value_parser = network)]
    pub network: Network,
    /// Boot this kernel, an uncompressed vmlinux
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
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
    /// The image, unless --rootfs is given, then the command and its arguments
    #[arg(trailing_var_arg = true, value_name = "IMAGE [COMMAND [ARG...]]")]
    pub words: Vec<OsString>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() { Err("a label has a name".to_owned()) } else { Ok((name.into(), value.into())) }
}

/// Where a container's network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    None,
    Namespace(PathBuf),
}

impl Network {
    pub(crate) fn namespace(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Namespace(path) => Some(path),
        }
    }
}

fn network(text: &str) -> Result<Network, String> {
    match text {
        "none" => Ok(Network::None),
        "host" => Err("the host's network cannot be given to a guest".to_owned()),
        path if path.starts_with('/') => Ok(Network::Namespace(path.into())),
        _ => Err("neither none nor the absolute path of a network namespace".to_owned()),
    }
}

/// What is shared with a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub source: PathBuf,
    /// In the container.
    pub path: PathBuf,
    pub read_only: bool,
}

/// `SOURCE:PATH[:ro]` as docker reads it; both paths are absolute.
fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, path, read_only) = match parts.as_slice() {
        [source, path] | [source, path, "rw"] => (source, path, false),
        [source, path, "ro"] => (source, path, true),
        _ => return Err(format!("not a volume: {text} (as in /srv/data:/data or /srv/data:/data:ro)")),
    };
    for path in [source, path] {
        if !Path::new(path).is_absolute() {
            return Err(format!("not an absolute path: {path}"));
        }
    }
    Ok(Volume { source: source.into(), path: path.into(), read_only })
}

/// `128m` as docker reads it: a number, with a power of 1024 behind it.
fn memory_size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match trimmed.as_bytes().last() {
        Some(b'k') => (trimmed.trim_end_matches('k'), 10),
        Some(b'm') => (trimmed.trim_end_matches('m'), 20),
        Some(b'g') => (trimmed.trim_end_matches('g'), 30),
        _ => (trimmed, 0),
    };
    let number: i64 = digits.parse().map_err(|_| format!("not a size: {text} (as in 512m or 2g)"))?;
    match number.checked_mul(1 << shift) {
        Some(bytes @ 1..) => Ok(bytes),
        _ => Err(format!("out of range: {text}")),
    }
}

fn cpu_count(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(count) if count.is_finite() && (0.01..=1024.0).contains(&count) => Ok(count),
        _ => Err(format!("not a number of CPUs: {text} (from 0.01, as in 1 or 1.5)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Run {
        let argv = ["securectr", "run"].iter().chain(words);
        match Args::try_parse_from(argv).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_behind_the_image_belong_to_the_command() {
        let run = run(&["-i", "oci:x", "ls", "-t", "--rm"]);
        assert!(run.interactive && !run.tty && !run.rm);
        assert_eq!(run.words, ["oci:x", "ls", "-t", "--rm"]);
    }

    #[test]
    fn short_options_can_be_joined() {
        let run = run(&["-it", "-eA=1", "-e", "B", "oci:x"]);
        assert!(run.interactive && run.tty);
        assert_eq!(run.env, ["A=1", "B"]);
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in
            [("64", 64), ("4k", 4096), ("128m", 128 << 20), ("1G", 1 << 30), ("2gb", 2 << 30)]
        {
            assert_eq!(memory_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1.5g", "1t", "99999999999g", "0"] {
            assert!(memory_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_none_or_a_path() {
        assert_eq!(run(&["oci:x"]).network, Network::None);
        assert_eq!(
            run(&["--network", "/run/netns/x", "oci:x"]).network.namespace(),
            Some(Path::new("/run/netns/x"))
        );
        for text in ["host", "bridge", "", "netns/x"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_volume_is_two_absolute_paths() {
        let writable = Volume { source: "/a b".into(), path: "/c".into(), read_only: false };
        assert_eq!(run(&["-v", "/a b:/c", "i"]).volume, std::slice::from_ref(&writable));
        let read_only = Volume { read_only: true, ..writable };
        assert_eq!(run(&["--volume", "/a b:/c:ro", "i"]).volume, [read_only]);
        for text in ["", "/a", "/a:", ":/b", "name:/b", "/a:b", "/a:/b:no", "/a:/b:ro:x", "./a:/b"] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_positive_numbers() {
        assert_eq!(cpu_count("1.5"), Ok(1.5));
        for text in ["0", "-1", "nan", "inf", "many", "1e9"] {
            assert!(cpu_count(text).is_err(), "{text}");
        }
    }
}
