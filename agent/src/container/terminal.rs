//! A process's terminal: made in the container's own devpts, so that it has a name there.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{FileType, Gid, OFlags, Uid, fchown, fstat, fstatfs, major, minor},
    process::{ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{Winsize, tcsetwinsize},
};

use super::root::Root;
use crate::plan::WindowSize;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: u64 = 0x1cd1;

/// Where terminals are multiplied, as major and minor number.
const PTMX: (u32, u32) = (5, 2);

pub(super) struct Terminal {
    /// For the agent.
    pub master: OwnedFd,
    /// For the process.
    pub slave: OwnedFd,
}

/// Opens a new terminal. A container may have put something else in the place of the multiplexer: that is refused.
pub(super) fn open(root: &Root, size: WindowSize, owner: u32) -> io::Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = root.open(Path::new("/dev/pts/ptmx"), flags)?;
    let file = fstat(&master)?;
    let is_ptmx = FileType::from_raw_mode(file.st_mode) == FileType::CharacterDevice
        && (major(file.st_rdev), minor(file.st_rdev)) == PTMX
        && fstatfs(&master)?.f_type as u64 == DEVPTS;
    if !is_ptmx {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    unlockpt(&master)?;
    let peer_flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, peer_flags)?;
    fchown(&slave, Some(Uid::from_raw(owner)), None::<Gid>)?;
    resize(&master, size)?;
    Ok(Terminal { master, slave })
}

pub(super) fn resize(master: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_col: size.columns, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}

/// Makes it this process's controlling terminal and its three streams.
pub(super) fn control(slave: &OwnedFd) -> io::Result<()> {
    ioctl_tiocsctty(slave)?;
    take_streams([slave.as_fd(), slave.as_fd(), slave.as_fd()])
}

/// A session of its own: no signal meant for a terminal's job reaches it from outside.
pub(super) fn new_session() -> io::Result<()> {
    setsid()?;
    Ok(())
}

pub(super) fn take_streams([stdin, stdout, stderr]: [impl AsFd; 3]) -> io::Result<()> {
    dup2_stdin(stdin)?;
    dup2_stdout(stdout)?;
    Ok(dup2_stderr(stderr)?)
}
