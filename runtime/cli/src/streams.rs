//! The container's streams joined to ours. Each direction is a thread with plain reads and writes: our own descriptors may be
//! terminals, pipes or files. Not by `io::copy`: it would splice(2), which holds the lock of a pipe while it waits for the other
//! side, so that whoever reads our output would wait, too.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
};

use rustix::stdio;
use securectr_sandbox::Streams;
use tokio::sync::oneshot;

use crate::timeline::Timeline;

/// As much as a pipe holds, in bytes.
const BUFFER_LEN: usize = 64 * 1024;

/// Output that is still on its way.
pub(crate) struct Output(Vec<oneshot::Receiver<()>>);

/// Where output goes.
pub(crate) type Sink = Box<dyn Write + Send>;

/// Our side of the streams.
pub(crate) struct Ends {
    pub stdin: Box<dyn Read + Send>,
    /// The container's input goes on when ours has ended: it is not ours alone.
    pub lasts: bool,
    pub stdout: Sink,
    /// Where errors do not go to standard output.
    pub stderr: Option<Sink>,
}

impl Ends {
    /// This process's own.
    pub(crate) fn standard() -> io::Result<Self> {
        Ok(Self {
            stdin: Box::new(File::from(stdio::stdin().try_clone_to_owned()?)),
            lasts: false,
            stdout: Box::new(File::from(stdio::stdout().try_clone_to_owned()?)),
            stderr: Some(Box::new(File::from(stdio::stderr().try_clone_to_owned()?))),
        })
    }
}

/// Starts the threads.
pub(crate) fn join(streams: Streams, ends: Ends, timeline: &Timeline) -> io::Result<Output> {
    if let Some(stdin) = streams.stdin {
        let (ours, lasts) = (ends.stdin, ends.lasts);
        // Nobody waits for this one: a read of a terminal does not end with the container.
        thread::Builder::new().name("stdin".into()).spawn(move || feed(ours, &stdin, lasts))?;
    }
    let mut output = Vec::new();
    if let Some(stdout) = streams.stdout {
        output.push(drain("stdout", stdout, ends.stdout, timeline.clone())?);
    }
    if let Some((stderr, ours)) = streams.stderr.zip(ends.stderr) {
        output.push(drain("stderr", stderr, ours, timeline.clone())?);
    }
    Ok(Output(output))
}

impl Output {
    /// Waits until everything that the container wrote is written.
    pub(crate) async fn written(self) {
        for thread in self.0 {
            let _ = thread.await;
        }
    }
}

/// At our end of file, or when the container takes no more, its input ends, unless it lasts.
fn feed(mut ours: impl Read, mut theirs: &UnixStream, lasts: bool) {
    let _ = copy(&mut ours, &mut theirs, || ());
    if !lasts {
        let _ = theirs.shutdown(Shutdown::Write);
    }
}

fn drain(
    name: &str,
    mut theirs: UnixStream,
    mut ours: Sink,
    timeline: Timeline,
) -> io::Result<oneshot::Receiver<()>> {
    let (done, receiver) = oneshot::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        // A reader of ours that is gone must look gone to the container, too: the stream is closed either way.
        let _ = copy(&mut theirs, &mut ours, || timeline.stamp("first_byte"));
        let _ = theirs.shutdown(Shutdown::Both);
        drop(ours);
        let _ = done.send(());
    })?;
    Ok(receiver)
}

/// Copies up to the end of file; `arrived` is called for each piece, before it is written.
fn copy(from: &mut impl Read, to: &mut impl Write, arrived: impl Fn()) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        arrived();
        to.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}
