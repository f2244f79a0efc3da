//! A process's streams: pipes or a terminal on its side (so that /dev/stdout can be opened), a connection each on the host's.
//! Whoever is slow slows the other: a pump holds one buffer and no more.

mod host;

use std::{
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fstat, openat},
    pipe::{PipeFlags, pipe_with},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    sync::watch,
    task::AbortHandle,
};

use self::host::{Host, Successors};
use crate::{reaper::ExitWatch, sys::watch as watch_file};

/// As much as a pipe holds, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// The host's connections; what is not there is `/dev/null`.
#[derive(Default)]
pub(crate) struct HostStreams {
    pub stdin: Option<UnixStream>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

/// What a process is given.
pub(crate) enum ProcessStreams {
    /// Its stdin, stdout and stderr.
    Files([OwnedFd; 3]),
    /// It opens a terminal for itself.
    Terminal,
}

impl ProcessStreams {
    /// Makes its pipes another user's.
    pub(crate) fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        let Self::Files(files) = self else { return Ok(()) };
        for pipe in files.iter().filter(|file| fstat(file).is_ok_and(|stat| is_pipe(stat.st_mode))) {
            fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(())
    }
}

/// `/dev/null` stays whose it is.
fn is_pipe(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::Fifo
}

/// The agent's ends of a process's pipes, and where they lead.
pub(crate) enum AgentStreams {
    Pipes { stdin: Option<Joint>, stdout: Option<Joint>, stderr: Option<Joint> },
    Terminal { stdin: Option<UnixStream>, stdout: Option<UnixStream> },
}

/// One end of a pipe, and the host's stream that it leads to or comes from.
pub(crate) struct Joint {
    end: OwnedFd,
    host: UnixStream,
}

/// Makes pipes that belong to the process's user, so that it may open them again by /proc/self/fd.
pub(crate) fn pipes(host: HostStreams, uid: u32, gid: u32) -> io::Result<(ProcessStreams, AgentStreams)> {
    let own = |end: &OwnedFd| fchown(end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let pipe = |host: Option<UnixStream>, is_input: bool| -> io::Result<(OwnedFd, Option<Joint>)> {
        let Some(host) = host else { return Ok((null()?, None)) };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (theirs, end) = if is_input { (reader, writer) } else { (writer, reader) };
        own(&theirs)?;
        Ok((theirs, Some(Joint { end, host })))
    };
    let (input, stdin) = pipe(host.stdin, true)?;
    let (output, stdout) = pipe(host.stdout, false)?;
    let (errors, stderr) = pipe(host.stderr, false)?;
    Ok((ProcessStreams::Files([input, output, errors]), AgentStreams::Pipes { stdin, stdout, stderr }))
}

/// With a terminal, output and errors are one stream.
pub(crate) fn terminal(host: HostStreams) -> (ProcessStreams, AgentStreams) {
    (ProcessStreams::Terminal, AgentStreams::Terminal { stdin: host.stdin, stdout: host.stdout })
}

fn null() -> io::Result<OwnedFd> {
    Ok(openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Our end of a pipe, or a terminal's master side.
#[derive(Clone, Debug)]
pub(crate) struct End(Arc<AsyncFd<OwnedFd>>);

impl End {
    pub(crate) fn new(file: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self(Arc::new(watch_file(file, Interest::READABLE | Interest::WRITABLE)?)))
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |file| Ok(rustix::io::read(file, &mut *buffer)?)).await
    }

    /// Whether there is nothing to read just now.
    fn is_empty(&self) -> bool {
        rustix::io::ioctl_fionread(self.0.get_ref()).is_ok_and(|len| len == 0)
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                self.0.async_io(Interest::WRITABLE, |file| Ok(rustix::io::write(file, bytes)?)).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for End {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// The running pumps of a process; they stop when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Pumps {
    tasks: Vec<AbortHandle>,
    drained: Vec<watch::Receiver<bool>>,
    stdin: Option<Successors>,
    stdout: Option<Successors>,
    stderr: Option<Successors>,
}

impl Pumps {
    /// Connects the ends. `master` is the terminal's, for a process that has one.
    pub(crate) fn start(streams: AgentStreams, master: Option<&End>, exit: &ExitWatch) -> io::Result<Self> {
        let mut pumps = Self::default();
        match (streams, master) {
            (AgentStreams::Pipes { stdin, stdout, stderr }, _) => {
                let mut output = |joint: Option<Joint>| -> io::Result<Option<Successors>> {
                    let Some(Joint { end, host }) = joint else { return Ok(None) };
                    Ok(Some(pumps.output(End::new(end)?, host, exit.clone(), AfterHost::Close)))
                };
                (pumps.stdout, pumps.stderr) = (output(stdout)?, output(stderr)?);
                if let Some(Joint { end, host }) = stdin {
                    pumps.stdin = Some(pumps.input(host, End::new(end)?));
                }
            }
            (AgentStreams::Terminal { stdin, stdout }, Some(master)) => {
                pumps.stdout =
                    stdout.map(|host| pumps.output(master.clone(), host, exit.clone(), AfterHost::Discard));
                pumps.stdin = stdin.map(|host| pumps.input(host, master.clone()));
            }
            (AgentStreams::Terminal { .. }, None) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(pumps)
    }

    /// Gives the process another host, with these streams. What is not there has an end.
    pub(crate) fn attach(&mut self, host: HostStreams) {
        let places = [&mut self.stdin, &mut self.stdout, &mut self.stderr];
        for (place, stream) in places.into_iter().zip([host.stdin, host.stdout, host.stderr]) {
            *place = place
                .take()
                .zip(stream)
                .and_then(|(successors, stream)| successors.try_send(stream).is_ok().then_some(successors));
        }
    }

    /// Returns when all that the ended process has written is with the host.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let drained = self.drained.clone();
        async move {
            for mut pump in drained {
                // An error says that the pump is gone: nothing will come any more.
                let _ = pump.wait_for(|&drained| drained).await;
            }
        }
    }

    fn output(&mut self, from: End, to: UnixStream, exit: ExitWatch, after: AfterHost) -> Successors {
        let (sender, receiver) = watch::channel(false);
        self.drained.push(receiver);
        let (host, successors) = Host::new(to);
        self.tasks.push(tokio::spawn(pump_out(from, host, exit, after, sender)).abort_handle());
        successors
    }

    fn input(&mut self, from: UnixStream, to: End) -> Successors {
        let (host, successors) = Host::new(from);
        self.tasks.push(tokio::spawn(pump_in(host, to)).abort_handle());
        successors
    }
}

impl Drop for Pumps {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What becomes of a process's output when the host takes no more.
#[derive(Clone, Copy, PartialEq)]
enum AfterHost {
    /// It meets a broken pipe, as behind `head`.
    Close,
    /// It goes on without an audience: a terminal has no broken pipe, and would just be full some time.
    Discard,
}

async fn pump_out(
    from: End,
    mut to: Host,
    mut exit: ExitWatch,
    after: AfterHost,
    drained: watch::Sender<bool>,
) {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let ended = exit.borrow().is_some();
        // A background process may hold the pipe, and write to it, for as long as it likes.
        if ended && from.is_empty() {
            drained.send_replace(true);
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = exit.changed(), if !ended => continue,
        };
        let bytes = match read {
            // EIO: nobody has the terminal open any more.
            Ok(0) | Err(_) => break,
            Ok(len) => buffer.get(..len).unwrap_or_default(),
        };
        if !to.take(bytes).await && after == AfterHost::Close {
            break;
        }
    }
    to.shut().await;
    drained.send_replace(true);
}

async fn pump_in(mut from: Host, to: End) {
    let mut buffer = vec![0; BUFFER_LEN];
    while let len @ 1.. = from.give(&mut buffer).await {
        let bytes = buffer.get(..len).unwrap_or_default();
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
