//! Processes that go on without who started them, and say at first how their beginning went.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
};

use super::record::Records;
use crate::args::{Global, LogFormat};

/// The whole word of a child that has done it; anything else is why it could not.
const READY: &str = "ready";

/// This program, with the same options.
pub(crate) fn again(records: &Records, global: &Global) -> Result<Command> {
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
pub(crate) fn spawn_and_hear(
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
pub(crate) fn report(ready: OwnedFd, outcome: Result<(), &anyhow::Error>) {
    let line = match outcome {
        Ok(()) => READY.to_owned(),
        Err(error) => format!("{error:#}").replace('\n', " "),
    };
    // Who asked may be gone: that is their loss.
    let _ = writeln!(File::from(ready), "{line}");
}
