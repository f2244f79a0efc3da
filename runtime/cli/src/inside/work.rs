//! Work that a container's agent does, with its streams: a connection to the monitor for each.

use std::{
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use anyhow::{Context, Result, bail};
use securectr_sandbox::{Addition, Job};

use crate::{
    args::Global,
    container::{Answer, Client, Located, Request, Status, Wanted},
    kept::Idle,
};

/// As much of its complaint as is shown, in bytes.
const MAX_COMPLAINT_LEN: u64 = 2048;

/// No line of the guest's is longer, in bytes.
const MAX_LINE_LEN: u64 = 64 * 1024;

pub(super) struct Work {
    client: Client,
    /// Behind the client, which is dropped before.
    _idle: Option<Idle>,
    input: Option<UnixStream>,
    output: UnixStream,
    complaint: UnixStream,
}

impl Work {
    /// In a container that has ended, too, unless it is about processes: only a guest reads its disk, so that one is booted.
    pub(super) fn begin(located: &Located, job: Job, has_input: bool, global: &Global) -> Result<Self> {
        let place = located.place()?;
        let record = place.read()?;
        let (idle, client) = match record.status {
            Status::Running | Status::Paused => (None, Client::connect(&place)?),
            Status::Stopped if record.kept.is_some() && job != Job::Processes => {
                let (idle, client) = Idle::boot(located, global)?;
                (Some(idle), client)
            }
            status => bail!("container {} is {}: this needs one that runs", located.id, status.name()),
        };
        let wanted = Wanted { stdin: has_input, stdout: true, stderr: true };
        let (_, fds) = client.ask(&Request::Exec { addition: Addition::Job(job), wanted })?;
        client.ask(&Request::StartExec)?;
        let mut fds = fds.into_iter();
        let mut next = || take(fds.next());
        let input = if has_input { Some(next()?) } else { None };
        Ok(Self { client, _idle: idle, input, output: next()?, complaint: next()? })
    }

    /// What it reads, once. Dropping it is the end of it.
    pub(super) fn input(&mut self) -> Result<UnixStream> {
        self.input.take().context("work without an input")
    }

    /// What it writes, which is to be read to its end.
    pub(super) fn output(&self) -> &UnixStream {
        &self.output
    }

    /// Hands over each line that it writes.
    pub(super) fn lines(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut reader = BufReader::new(&self.output);
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(MAX_LINE_LEN).read_until(b'\n', &mut line);
            if read.context("hear the container's agent")? == 0 {
                return Ok(());
            }
            if line.pop() != Some(b'\n') {
                bail!("the container's agent said a line that has no end");
            }
            take(&line)?;
        }
    }

    /// Waits for its end; what it could not do is an error in its words.
    pub(super) fn end(self) -> Result<()> {
        drop(self.input);
        // Nobody reads any more.
        let _ = self.output.shutdown(std::net::Shutdown::Both);
        let mut words = Vec::new();
        let heard = (&self.complaint).take(MAX_COMPLAINT_LEN).read_to_end(&mut words);
        heard.context("hear the container's agent")?;
        match self.client.ask(&Request::WaitExec)?.0 {
            Answer::Exited(0) => Ok(()),
            _ if words.is_empty() => bail!("the work in the container did not come to its end"),
            _ => bail!(plain(&words)),
        }
    }
}

/// A guest's words could drive the terminal.
pub(super) fn plain(words: &[u8]) -> String {
    String::from_utf8_lossy(words).trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn take(fd: Option<OwnedFd>) -> Result<UnixStream> {
    fd.map(UnixStream::from).context("the monitor sent fewer streams than were asked for")
}
