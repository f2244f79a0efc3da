//! A process's streams: vsock connections of their own, made before the process is.

use std::{io, os::unix::net::UnixStream as StdUnixStream, path::Path, time::Duration};

use securectr_protocol::{STDIO_PORT, agent::Stdio};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// How long the VMM and the agent may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// `OK <port>\n` is no longer than this, in bytes.
const MAX_ANSWER_LEN: usize = 16;

/// Which streams a process is to have; the others are `/dev/null`. With a terminal, output and errors are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamsWanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The host's ends: write to `stdin`, read from the others. Shutting `stdin` for writing is the process's end of file.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<StdUnixStream>,
    pub stdout: Option<StdUnixStream>,
    pub stderr: Option<StdUnixStream>,
}

/// Connects the streams and tells how the agent knows them.
pub(crate) async fn connect(vsock: &Path, wanted: StreamsWanted) -> io::Result<(Streams, Stdio)> {
    let (stdin, stdout, stderr) = tokio::try_join!(
        connect_if(wanted.stdin, vsock),
        connect_if(wanted.stdout, vsock),
        connect_if(wanted.stderr, vsock)
    )?;
    let (stdin, stdin_port) = stdin.unzip();
    let (stdout, stdout_port) = stdout.unzip();
    let (stderr, stderr_port) = stderr.unzip();
    let names = Stdio {
        stdin_port: stdin_port.unwrap_or(0),
        stdout_port: stdout_port.unwrap_or(0),
        stderr_port: stderr_port.unwrap_or(0),
        ..Default::default()
    };
    Ok((Streams { stdin, stdout, stderr }, names))
}

async fn connect_if(wanted: bool, vsock: &Path) -> io::Result<Option<(StdUnixStream, u32)>> {
    if !wanted {
        return Ok(None);
    }
    let connected = timeout(CONNECT_LIMIT, async {
        let mut stream = UnixStream::connect(vsock).await?;
        stream.write_all(format!("CONNECT {STDIO_PORT}\n").as_bytes()).await?;
        let port = read_answer(&mut stream).await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok((stream, port))
    });
    connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(Some)
}

/// Reads byte by byte: what follows the line is the process's.
async fn read_answer(stream: &mut UnixStream) -> io::Result<u32> {
    let mut line = String::new();
    while line.len() < MAX_ANSWER_LEN {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte.into()),
        }
    }
    line.strip_prefix("OK ")
        .and_then(|port| port.parse().ok())
        .filter(|&port| port != 0)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the answer of a VMM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(bytes: &[u8]) -> io::Result<u32> {
        let (mut ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(bytes).await?;
        drop(theirs);
        read_answer(&mut ours).await
    }

    #[tokio::test]
    async fn an_answer_names_the_port() {
        assert_eq!(answered(b"OK 4711\nbytes of the process").await.unwrap(), 4711);
    }

    #[tokio::test]
    async fn other_answers_are_refused() {
        for bytes in
            [&b"OK 0\n"[..], b"OK\n", b"OK 99999999999\n", b"", b"NO 1\n", b"OK 1111111111111111111111"]
        {
            assert!(answered(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
