//! Hooks in a container. The image is hostile, so a hook has no more rights than the container's own program.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SeekFrom, memfd_create, seek},
    io::retry_on_intr,
    process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open, waitpid},
    stdio::dup2_stdin,
};

use super::{
    credentials,
    failure::{During, Failure},
    sys,
};
use crate::{
    plan::{Hook, Hooks, ProcessPlan},
    sys::copy_self,
};

/// Exit code of a hook that never ran.
const NOT_EXECUTED: i32 = 127;

/// Runs those of the container's start, one after the other; the first that fails is the last.
pub(super) fn run_all(hooks: &Hooks, id: &str, process: &ProcessPlan) -> Result<(), Failure> {
    if hooks.start_container.is_empty() {
        return Ok(());
    }
    let state = state_file(hooks, id).during(|| "tell the hooks of the container's state".into())?;
    hooks.start_container.iter().try_for_each(|hook| {
        run(hook, process, &state).during(|| format!("run the hook {}", hook.path.to_string_lossy()))
    })
}

/// A file, as a hook that does not read a pipe would hold the container up.
fn state_file(hooks: &Hooks, id: &str) -> io::Result<File> {
    let pid = getpid().as_raw_nonzero().get().unsigned_abs();
    let mut file = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(&hooks.state_json(id, pid).map_err(io::Error::other)?)?;
    Ok(file)
}

fn run(hook: &Hook, process: &ProcessPlan, state: &File) -> io::Result<()> {
    seek(state, SeekFrom::Start(0))?;
    let pid = copy_self(0, None, || become_hook(hook, process, state))?;
    let status = wait(pid, hook.timeout)?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(io::Error::other(format!("it ended with {code}"))),
        (None, signal) => Err(io::Error::other(format!("signal {} ended it", signal.unwrap_or_default()))),
    }
}

/// What it returns is the exit code of a process that did not become the hook.
fn become_hook(hook: &Hook, process: &ProcessPlan, state: &File) -> i32 {
    if dup2_stdin(state).is_ok() && credentials::assume(process).is_ok() {
        sys::execve(&hook.path, &hook.args, &hook.env);
    }
    NOT_EXECUTED
}

fn wait(pid: Pid, limit: Option<Duration>) -> io::Result<WaitStatus> {
    let limit = limit.map(Timespec::try_from).transpose().map_err(|_| io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut ends = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let has_ended = retry_on_intr(|| poll(&mut ends, limit.as_ref()))? > 0;
    if !has_ended {
        kill_process(pid, Signal::KILL)?;
    }
    let waited = retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()))?;
    match waited {
        Some((_, status)) if has_ended => Ok(status),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}
