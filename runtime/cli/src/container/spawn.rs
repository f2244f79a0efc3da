//! Processes that go on without who started them, and say at first how their beginning went.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command},
};

use anyhow::{Context, Result, bail};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
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
    if let Some(store) = &global.store {
        command.arg("--store").arg(std::path::absolute(store).context("find the store")?);
    }
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
    let mut child = finish(command).spawn().context("start the monitor")?;
    drop(writer);
    let mut said = String::new();
    BufReader::new(File::from(reader)).read_line(&mut said).context("hear the monitor")?;
    match said.trim_end() {
        READY => Ok(child),
        "" => bail!("the monitor ended without a word"),
        words => {
            let code = child.wait().context("wait for the monitor's end")?.code();
            let code = code.and_then(|code| code.try_into().ok()).unwrap_or(1);
            Err(NotBegun { words: words.to_owned(), code }.into())
        }
    }
}

/// Our own streams are nobody's then. Who waits for their end, as containerd's shim for runc does, would wait for the container's.
pub(crate) fn let_go_of_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// A child that could not do it: in its words, and with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(crate) struct NotBegun {
    words: String,
    pub code: u8,
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
