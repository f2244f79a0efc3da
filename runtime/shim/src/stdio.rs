//! A process's streams on the host's side: FIFOs that containerd's clients made, files, or a logging program's pipes; joined with the
//! connections into the guest.

mod logger;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use securectr_sandbox::{Streams, StreamsWanted};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::pipe::{OpenOptions, Receiver, Sender},
    },
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};

use logger::Logger;

/// How long output that nobody reads may hold up the removal of its process. On a machine that is short of CPUs, output takes longer
/// than one would think, and what is given up here is lost.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

const CHUNK_LEN: usize = 64 * 1024;

#[derive(Debug, Error)]
pub(crate) enum StdioError {
    #[error("open {path} for the container's streams")]
    Open { path: PathBuf, source: io::Error },
    #[error("start the logging program {path}")]
    Logger { path: PathBuf, source: io::Error },
    #[error("the logging program {0} did not say that it is ready")]
    LoggerSilent(PathBuf),
    #[error("{0} is no place for a container's streams: a FIFO, file:// or binary://")]
    Scheme(String),
    #[error("join the container's streams")]
    Join(#[source] io::Error),
}

/// What containerd asks for, in its words: empty is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// Whose streams they are, for a logging program.
pub(crate) struct Owner<'a> {
    pub namespace: &'a str,
    pub id: &'a str,
}

/// Open, and not yet joined.
#[derive(Default)]
pub(crate) struct Opened {
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
    stderr: Option<Sender>,
    kept: Kept,
}

/// What stays open until the process is removed: readers that come late find what was written, and a writer is not told that nobody
/// reads.
#[derive(Default)]
struct Kept {
    fifos: Vec<OwnedFd>,
    logger: Option<Logger>,
}

impl Request {
    pub(crate) fn wanted(&self) -> StreamsWanted {
        StreamsWanted {
            stdin: !self.stdin.is_empty(),
            stdout: !self.stdout.is_empty(),
            stderr: !self.terminal && !self.stderr.is_empty(),
        }
    }

    pub(crate) async fn open(&self, owner: Owner<'_>) -> Result<Opened, StdioError> {
        let wanted = self.wanted();
        let mut opened = Opened::default();
        if wanted.stdin {
            opened.stdin = Some(open_input(Path::new(&self.stdin))?);
        }
        if let Some(uri) = self.stdout.strip_prefix("binary://").filter(|_| wanted.stdout) {
            let (logger, stdout, stderr) = Logger::start(uri, owner).await?;
            opened.stdout = Some(stdout);
            opened.stderr = wanted.stderr.then_some(stderr);
            opened.kept.logger = Some(logger);
            return Ok(opened);
        }
        if wanted.stdout {
            opened.stdout = Some(opened.kept.output(&self.stdout)?);
        }
        if wanted.stderr {
            opened.stderr = Some(opened.kept.output(&self.stderr)?);
        }
        Ok(opened)
    }
}

/// Waits for no writer; the end of file comes when the last of those who came has gone (fifo(7)).
fn open_input(path: &Path) -> Result<Receiver, StdioError> {
    OpenOptions::new()
        .open_receiver(path)
        .map_err(|source| StdioError::Open { path: path.to_owned(), source })
}

impl Kept {
    fn output(&mut self, name: &str) -> Result<Sender, StdioError> {
        let path = Path::new(name.strip_prefix("file://").unwrap_or(name));
        let failed = |source| StdioError::Open { path: path.to_owned(), source };
        if name.starts_with("file://") {
            return file(path).map_err(failed);
        }
        if name.contains("://") {
            return Err(StdioError::Scheme(name.to_owned()));
        }
        let sender = OpenOptions::new().read_write(true).open_sender(path).map_err(failed)?;
        let reader = OpenOptions::new().open_receiver(path).map_err(failed)?;
        self.fifos.push(reader.into_nonblocking_fd().map_err(failed)?);
        Ok(sender)
    }
}

/// A pipe whose other end a thread appends to the file: files are not to be waited for.
fn file(path: &Path) -> io::Result<Sender> {
    let mut file = File::options().append(true).create(true).open(path)?;
    let (reader, writer) = pipe()?;
    let mut reader = File::from(reader);
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK_LEN];
        while let Ok(len @ 1..) = io::Read::read(&mut reader, &mut chunk) {
            if io::Write::write_all(&mut file, chunk.get(..len).unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    Sender::from_owned_fd(writer)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

/// Streams on their way.
pub(crate) struct Joined {
    closing: Arc<Notify>,
    input: Option<JoinHandle<()>>,
    output: Vec<JoinHandle<()>>,
    kept: Kept,
}

impl Opened {
    /// Must be called in a tokio runtime.
    pub(crate) fn join(self, streams: Streams) -> Result<Joined, StdioError> {
        let closing = Arc::new(Notify::new());
        let connected = |stream: Option<std::os::unix::net::UnixStream>| {
            stream
                .map(|stream| {
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream)
                })
                .transpose()
                .map_err(StdioError::Join)
        };
        let input = self.stdin.zip(connected(streams.stdin)?);
        let input = input.map(|(from, to)| tokio::spawn(feed(from, to, Arc::clone(&closing))));
        let outputs = [(self.stdout, connected(streams.stdout)?), (self.stderr, connected(streams.stderr)?)];
        let output =
            outputs.into_iter().filter_map(|(to, from)| Some(tokio::spawn(carry(from?, to?)))).collect();
        Ok(Joined { closing, input, output, kept: self.kept })
    }
}

impl Joined {
    /// The process reads what was written before, and then an end of file.
    pub(crate) fn close_stdin(&self) {
        self.closing.notify_one();
    }

    /// Waits, for a while, until all output has been taken, and closes everything.
    pub(crate) async fn finish(mut self) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
        for mut output in self.output.drain(..) {
            if timeout(DRAIN_LIMIT, &mut output).await.is_err() {
                output.abort();
            }
        }
        self.kept.fifos.clear();
        if let Some(logger) = self.kept.logger.take() {
            logger.finish().await;
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.input.iter().chain(&self.output).for_each(JoinHandle::abort);
    }
}

/// From a FIFO to the process, until the FIFO's end or `closing`.
async fn feed(mut from: Receiver, mut to: UnixStream, closing: Arc<Notify>) {
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            // What was written before the call is there by now.
            () = closing.notified() => match from.try_read(&mut chunk) {
                Ok(len) => {
                    closing.notify_one();
                    Ok(len)
                }
                Err(_) => Ok(0),
            },
        };
        match read {
            Ok(len @ 1..) if to.write_all(chunk.get(..len).unwrap_or_default()).await.is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown().await;
}

/// From the process to a reader, until the process's end of file. A reader that has gone does not stop the process.
async fn carry(mut from: UnixStream, mut to: Sender) {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut reader_gone = false;
    while let Ok(len @ 1..) = from.read(&mut chunk).await {
        if !reader_gone {
            reader_gone = to.write_all(chunk.get(..len).unwrap_or_default()).await.is_err();
        }
    }
}
