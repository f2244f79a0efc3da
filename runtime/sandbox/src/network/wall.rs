//! The process of the wall: started between a guest and its passt, and heard of what it does not let through. It is not to be trusted
//! once the guest runs: what it says is bounded, and without control characters.

use std::{
    ffi::CString,
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream as StdUnixStream},
    },
    path::Path,
    sync::Arc,
};

use nix::sys::socket::{setsockopt, sockopt};
use securectr_wall::{Denial, WallSpec};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::broadcast,
};

use crate::{
    silence, sys,
    vmm::{exit_of, jail_identity},
};

/// As many denials wait for who is slow.
const BACKLOG: usize = 256;
/// No denial is longer, in bytes.
const MAX_DENIAL_LEN: u64 = 4096;
/// The longest name of the DNS, and more than any protocol's.
const MAX_WORD_LEN: usize = 256;
/// As passt's.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

#[derive(Debug, Error)]
pub enum WallError {
    #[error("make the wall's {0}")]
    Descriptor(&'static str, #[source] io::Error),
    #[error("start securectr-wall")]
    Start(#[source] io::Error),
}

/// A started wall. When this is dropped, it is killed.
#[derive(Debug)]
pub(super) struct Wall {
    pidfd: Arc<OwnedFd>,
    denials: broadcast::Sender<Denial>,
}

impl Wall {
    /// Puts it before `world`, a socket to passt. Answers also with the guest's side.
    pub(super) async fn start(
        program: &Path,
        spec: WallSpec,
        world: OwnedFd,
    ) -> Result<(Self, OwnedFd), WallError> {
        let program =
            CString::new(program.as_os_str().as_bytes()).map_err(|error| WallError::Start(error.into()))?;
        let descriptor = |what| move |error| WallError::Descriptor(what, error);
        let (ours, theirs) = StdUnixStream::pair().map_err(descriptor("control socket"))?;
        ours.set_nonblocking(true).map_err(descriptor("control socket"))?;
        let mut control = UnixStream::from_std(ours).map_err(descriptor("control socket"))?;
        let (for_guest, guest) = StdUnixStream::pair().map_err(descriptor("socket to the guest"))?;
        for socket in [&for_guest, &guest] {
            let _ = setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_LEN)
                .or_else(|_| setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_LEN));
        }
        let [stdin, stdout, stderr] = silence::streams().map_err(descriptor("standard streams"))?;
        let fds = [stdin, stdout, stderr, theirs.into(), guest.into(), world];
        let launched = sys::launch(&sys::Launch { program: &program, fds: &fds, identity: jail_identity() })
            .map_err(WallError::Start)?;
        drop(fds);
        let mut line = serde_json::to_vec(&spec).map_err(|error| WallError::Start(error.into()))?;
        line.push(b'\n');
        control.write_all(&line).await.map_err(WallError::Start)?;
        let pidfd = Arc::new(launched.pidfd);
        let denials = broadcast::Sender::new(BACKLOG);
        let (told, watched) = (denials.clone(), Arc::clone(&pidfd));
        tokio::spawn(async move {
            hear(control, &told).await;
            sys::kill(&watched);
            let _ = exit_of(&watched).await;
        });
        Ok((Self { pidfd, denials }, for_guest.into()))
    }

    pub(super) fn denials(&self) -> broadcast::Receiver<Denial> {
        self.denials.subscribe()
    }
}

impl Drop for Wall {
    fn drop(&mut self) {
        sys::kill(&self.pidfd);
    }
}

/// Until its end; a line that is no denial counts as that.
async fn hear(control: UnixStream, told: &broadcast::Sender<Denial>) {
    let mut reader = BufReader::new(control);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_DENIAL_LEN).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            _ => return,
        }
        let Ok(denial) = serde_json::from_slice::<Denial>(&line) else { return };
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_WORD_LEN).collect();
        // Nobody may be interested.
        let _ =
            told.send(Denial { protocol: clean(denial.protocol), name: denial.name.map(clean), ..denial });
    }
}
