//! `test-host`: an emulated machine with a real `/dev/kvm`, for machines whose own cannot run Linux guests.

mod assets;
mod console;
mod initrd;
mod job;
mod modules;
mod programs;
mod qemu;
mod session;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, value_parser};
use kvm_ioctls::Kvm;

use crate::assets::Assets;
use crate::job::{Job, TerminalSize};
use crate::qemu::Machine;
use crate::session::{Limits, Session};

/// The test host's own failure, as with `docker run`.
const FAILURE: u8 = 125;

/// What a command gets of the caller's environment without asking.
const PASSED_ENV: [&str; 5] = ["PATH", "HOME", "TERM", "CI", "RUST_BACKTRACE"];

const ONE_DAY_S: u64 = 24 * 60 * 60;

/// Boots Debian's kernel in QEMU, which emulates a processor with hardware virtualization, and runs commands there as root.
///
/// The command sees this machine's file system. What it writes goes to memory and is lost, except below a --share; /tmp,
/// /run and /var/lib/containerd start empty. An ordinary user who may use KVM is there too: `runuser -u tester -- COMMAND`.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch what the other verbs need, into ${SECURECTR_CACHE:-~/.cache/securectr}/test-host
    Prepare,
    /// Run a command in the current directory; its stdin is empty, its exit code becomes this one's (125: the test host itself failed)
    Run {
        #[command(flatten)]
        options: Options,
        /// Kill the test host after this time
        #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
        timeout: u64,
        /// Kill the test host when the command says nothing for this time
        #[arg(long, value_name = "SECONDS", default_value_t = ONE_DAY_S)]
        silence: u64,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Open a shell on this terminal
    Shell {
        #[command(flatten)]
        options: Options,
    },
    /// Keep a VM that never runs, until killed: run by the test host in itself
    #[command(hide = true)]
    HoldVm,
}

#[derive(Args)]
struct Options {
    /// Let virtual time count instructions, a nanosecond each, on one CPU: timings repeat within about one per cent
    #[arg(long)]
    icount: bool,
    #[arg(long, value_name = "MIB", default_value_t = 6144, value_parser = value_parser!(u32).range(512..))]
    memory: u32,
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = value_parser!(u8).range(1..), conflicts_with = "icount")]
    cpus: u8,
    /// Copy a file or directory into memory first, so that no time goes by waiting for it
    #[arg(long, value_name = "PATH")]
    copy_to_tmpfs: Vec<PathBuf>,
    /// Let the command write to this directory
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// Pass on a variable of the caller, or set one
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Show the kernel's console, and how long the boot took
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("test-host: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn act(cli: Cli) -> Result<u8> {
    match cli.verb {
        Verb::Prepare => {
            println!("kernel {}", Assets::obtain()?.release());
            Ok(0)
        }
        Verb::Run { options, timeout, silence, command } => {
            let limits = Limits { timeout: seconds(timeout), silence: seconds(silence) };
            in_test_host(&options, command, None, limits)
        }
        Verb::Shell { options } => {
            let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
            let limits = Limits { timeout: seconds(ONE_DAY_S), silence: seconds(ONE_DAY_S) };
            in_test_host(&options, vec![shell], Some(terminal_size()?), limits)
        }
        Verb::HoldVm => hold_vm(),
    }
}

/// The first VM of a machine, and the end of the last, make KVM patch code of the scheduler. An emulated CPU that runs it at that
/// moment was seen to crash; while this VM is there, no other is the first or the last.
fn hold_vm() -> Result<u8> {
    let _vm = Kvm::new().context("open /dev/kvm")?.create_vm().context("create a VM")?;
    println!("held");
    loop {
        thread::park();
    }
}

fn in_test_host(
    options: &Options,
    command: Vec<OsString>,
    terminal: Option<TerminalSize>,
    limits: Limits,
) -> Result<u8> {
    let shares = options.share.iter().map(|dir| existing(dir)).collect::<Result<Vec<_>>>()?;
    let job = Job {
        test_host: env::current_exe().context("find this program")?,
        command,
        cwd: env::current_dir().context("find the current directory")?,
        env: job_env(&options.env),
        shares: shares.clone(),
        copies: options.copy_to_tmpfs.iter().map(|path| existing(path)).collect::<Result<_>>()?,
        terminal,
    };
    refuse_too_large(&job.copies, options.memory)?;
    let assets = Assets::obtain()?;
    let machine = Machine {
        memory_mib: options.memory,
        cpus: if options.icount { 1 } else { options.cpus },
        icount: options.icount,
        shares,
        kernel: assets.kernel(),
        initrd: initrd::build(&assets, &job)?,
        terminal: terminal.is_some(),
    };
    Session { limits, verbose: options.verbose }.run(&machine)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn existing(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("find {}", path.display()))
}

/// A tmpfs holds half of the memory. To find out inside would take minutes.
fn refuse_too_large(copies: &[PathBuf], memory_mib: u32) -> Result<()> {
    let sizes = copies.iter().map(|path| size(path)).collect::<Result<Vec<u64>>>()?;
    let size_mib = sizes.iter().sum::<u64>().div_ceil(1 << 20);
    if size_mib > u64::from(memory_mib / 2) {
        bail!(
            "the copies take {size_mib} MiB, more than half of the {memory_mib} MiB of memory: raise --memory"
        );
    }
    Ok(())
}

/// The bytes in all files below.
fn size(path: &Path) -> Result<u64> {
    let metadata = path.symlink_metadata().with_context(|| format!("find {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in path.read_dir().with_context(|| format!("read {}", path.display()))? {
        bytes += size(&entry?.path())?;
    }
    Ok(bytes)
}

fn job_env(asked: &[String]) -> Vec<(OsString, OsString)> {
    let from_caller = |name: &str| env::var_os(name).map(|value| (name.into(), value));
    let mut variables: Vec<_> = PASSED_ENV.into_iter().filter_map(from_caller).collect();
    variables.extend(asked.iter().filter_map(|variable| match variable.split_once('=') {
        Some((name, value)) => Some((name.into(), value.into())),
        None => from_caller(variable),
    }));
    variables
}

fn terminal_size() -> Result<TerminalSize> {
    let output = Command::new(programs::find("stty")?)
        .arg("size")
        .stdin(Stdio::inherit())
        .output()
        .context("start stty")?;
    let size = String::from_utf8_lossy(&output.stdout);
    let mut numbers = size.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(rows)), Some(Ok(columns))) => Ok(TerminalSize { rows, columns }),
        _ => bail!("a shell needs a terminal on stdin"),
    }
}
