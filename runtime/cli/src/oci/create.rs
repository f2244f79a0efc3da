//! `create`: leaves a monitor behind, and waits until it has made the container.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
};

use super::{args::Create, record::Records};
use crate::args::{Global, LogFormat};

/// The whole word of a child that has done it; anything else is why it could not.
pub(super) const READY: &str = "ready";

pub(super) fn create(create: &Create, records: &Records, global: &Global) -> Result<u8> {
    let bundle = create.bundle.canonicalize();
    let bundle = bundle.with_context(|| format!("find the bundle {}", create.bundle.display()))?;
    let place = records.create(&create.id)?;
    let mut monitor = again(records, global)?;
    monitor.arg("monitor").current_dir(bundle);
    if let Some(socket) = &create.console_socket {
        let socket = std::path::absolute(socket).context("find the console socket")?;
        monitor.arg("--console-socket").arg(socket);
    }
    let made = spawn_and_hear(&mut monitor, |command| command.arg(create.id.as_str()))
        .and_then(|child| write_pid(create.pid_file.as_deref(), child.id()).inspect_err(|_| kill(child)));
    made.inspect_err(|_| drop(place.remove()))?;
    Ok(0)
}

/// This program, with the same options.
pub(super) fn again(records: &Records, global: &Global) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("find this program")?);
    let root = std::path::absolute(records.path()).context("find the records")?;
    command.arg("--root").arg(root);
    if let Some(log) = &global.oci.log {
        command.arg("--log").arg(std::path::absolute(log).context("find the log")?);
    }
    if matches!(global.log_format, LogFormat::Json) {
        command.args(["--log-format", "json"]);
    }
    if global.debug {
        command.arg("--debug");
    }
    Ok(command)
}

/// Starts a process that goes on without us, and waits until it has said how its beginning went.
pub(super) fn spawn_and_hear(
    command: &mut Command,
    finish: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Child> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    fcntl_setfd(&writer, FdFlags::empty()).context("hand a pipe on")?;
    command.args(["--ready-fd", &writer.as_raw_fd().to_string()]);
    let child = finish(command).spawn().context("start the monitor")?;
    drop(writer);
    let mut said = String::new();
    BufReader::new(File::from(reader)).read_line(&mut said).context("hear the monitor")?;
    match said.trim_end() {
        READY => Ok(child),
        "" => bail!("the monitor ended without a word"),
        words => Err(anyhow!(words.to_owned())),
    }
}

/// Says how it went, in one line.
pub(super) fn report(ready: OwnedFd, outcome: Result<(), &anyhow::Error>) {
    let line = match outcome {
        Ok(()) => READY.to_owned(),
        Err(error) => format!("{error:#}").replace('\n', " "),
    };
    // Who asked may be gone: that is their loss.
    let _ = writeln!(File::from(ready), "{line}");
}

pub(super) fn write_pid(path: Option<&Path>, pid: u32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, pid.to_string()).with_context(|| format!("write {}", path.display()))
}

fn kill(mut child: Child) {
    let _ = child.kill();
}
