//! A terminal on this side for a process whose terminal is in the guest: the engine has the master, and we carry bytes between the
//! slave and the guest. The guest's terminal does all that a terminal does; ours only passes on.

use std::{
    fs::File,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr},
};

/// What runc says the descriptor is.
const NAME: &[u8] = b"/dev/ptmx";

pub(super) struct Console {
    slave: File,
}

impl Console {
    /// Makes a terminal, which becomes this process's own, and sends its master to the engine.
    pub(super) fn open(socket: &Path) -> Result<Self> {
        let (master, slave) = pair().context("make a terminal")?;
        let engine = UnixStream::connect(socket)
            .with_context(|| format!("connect to the console socket {}", socket.display()))?;
        send(&engine, &master).context("hand the terminal over")?;
        Ok(Self { slave })
    }

    /// For the threads that carry its bytes.
    pub(super) fn clones(&self) -> io::Result<(File, File)> {
        Ok((self.slave.try_clone()?, self.slave.try_clone()?))
    }

    pub(super) fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.slave).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    }
}

fn pair() -> io::Result<(OwnedFd, File)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(ptsname(&master, Vec::new())?, flags, Mode::empty())?;
    let mut attributes = tcgetattr(&slave)?;
    attributes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &attributes)?;
    // As its session's leader we hear when the engine changes its size.
    let _ = setsid();
    ioctl_tiocsctty(&slave)?;
    Ok((master, slave.into()))
}

fn send(engine: &UnixStream, master: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(engine, &[IoSlice::new(NAME)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
