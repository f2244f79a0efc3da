//! The guest's serial console: drained as long as the VMM lives, its tail kept for the cause of an end.

use std::{collections::VecDeque, io::Write, os::fd::OwnedFd};

use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle};

/// What is kept, in bytes: a panic with its registers and call trace.
const TAIL_LEN: usize = 16 * 1024;

/// A task that reads the console to its end and answers with its tail.
pub(crate) fn drain(reader: OwnedFd, echo: bool) -> std::io::Result<JoinHandle<String>> {
    let mut reader = pipe::Receiver::from_owned_fd(reader)?;
    Ok(tokio::spawn(async move {
        let mut tail = VecDeque::with_capacity(TAIL_LEN);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            let bytes = buffer.get(..length).unwrap_or_default();
            if echo {
                // A console that cannot be shown is no reason to end the container.
                let _ = std::io::stderr().write_all(bytes);
            }
            tail.extend(bytes);
            tail.drain(..tail.len().saturating_sub(TAIL_LEN));
        }
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }))
}
