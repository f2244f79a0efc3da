//! The container's streams joined to ours. Each direction is a thread with plain reads and writes: our own descriptors may be
//! terminals, pipes or files. Not by `io::copy`: it would splice(2), which holds the lock of a pipe while it waits for the other
//! side, so that whoever reads our output would wait, too.

use std::{
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

/// Starts the threads.
pub(crate) fn join(streams: Streams, timeline: &Timeline) -> io::Result<Output> {
    if let Some(stdin) = streams.stdin {
        let ours = stdio::stdin().try_clone_to_owned()?;
        // Nobody waits for this one: a read of a terminal does not end with the container.
        thread::Builder::new().name("stdin".into()).spawn(move || feed(ours.into(), &stdin))?;
    }
    let mut output = Vec::new();
    if let Some(stdout) = streams.stdout {
        let ours = stdio::stdout().try_clone_to_owned()?;
        output.push(drain("stdout", stdout, ours.into(), timeline.clone())?);
    }
    if let Some(stderr) = streams.stderr {
        let ours = stdio::stderr().try_clone_to_owned()?;
        output.push(drain("stderr", stderr, ours.into(), timeline.clone())?);
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

/// At our end of file, or when the container takes no more, its input ends.
fn feed(mut ours: std::fs::File, mut theirs: &UnixStream) {
    let _ = copy(&mut ours, &mut theirs, || ());
    let _ = theirs.shutdown(Shutdown::Write);
}

fn drain(
    name: &str,
    mut theirs: UnixStream,
    mut ours: std::fs::File,
    timeline: Timeline,
) -> io::Result<oneshot::Receiver<()>> {
    let (done, receiver) = oneshot::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        // A reader of ours that is gone must look gone to the container, too: the stream is closed either way.
        let _ = copy(&mut theirs, &mut ours, || timeline.stamp("first_byte"));
        let _ = theirs.shutdown(Shutdown::Both);
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
