//! A logging program, as containerd's `binary://` starts it: standard output on its descriptor 3, errors on 4; it closes 5 when it is
//! ready.

use std::{io, path::PathBuf, process::Stdio, time::Duration};

use command_fds::{CommandFdExt, FdMapping};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::{Receiver, Sender},
    process::{Child, Command},
    time::timeout,
};

use super::{Owner, StdioError, pipe};

/// How long it may take to say that it is ready, and to end after its input has.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Logger(Child);

impl Logger {
    /// `uri` is what follows `binary://`: a path, and arguments as a query.
    pub(super) async fn start(uri: &str, owner: Owner<'_>) -> Result<(Self, Sender, Sender), StdioError> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = PathBuf::from(path);
        let failed = |source| StdioError::Logger { path: path.clone(), source };
        let (its_stdout, stdout) = pipe().map_err(failed)?;
        let (its_stderr, stderr) = pipe().map_err(failed)?;
        let (ready, its_ready) = pipe().map_err(failed)?;
        let mut program = std::process::Command::new(&path);
        program
            .args(query.split('&').filter(|word| !word.is_empty()).flat_map(|word| word.splitn(2, '=')))
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let fds = [its_stdout, its_stderr, its_ready];
        let mappings =
            (3..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        program.fd_mappings(mappings).map_err(|error| failed(io::Error::other(error)))?;
        let child = Command::from(program).spawn().map_err(failed)?;
        let mut ready = Receiver::from_owned_fd(ready).map_err(failed)?;
        let told = timeout(PATIENCE, ready.read_u8()).await;
        if told.is_err() {
            return Err(StdioError::LoggerSilent(path));
        }
        let stdout = Sender::from_owned_fd(stdout).map_err(failed)?;
        let stderr = Sender::from_owned_fd(stderr).map_err(failed)?;
        Ok((Self(child), stdout, stderr))
    }

    /// Its input has ended; it may write what it has.
    pub(super) async fn finish(mut self) {
        if timeout(PATIENCE, self.0.wait()).await.is_err() {
            let _ = self.0.kill().await;
        }
    }
}
