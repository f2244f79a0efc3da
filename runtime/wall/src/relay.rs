//! Frames from one side to the other: each stands behind its length, which is of 32 bits, big endian. For each direction there is one
//! piece of what was read and one frame on its way out; who does not read is not read from.

use std::{
    io::{self, ErrorKind, Read, Write},
    ops::Range,
    os::{fd::AsFd, unix::net::UnixStream},
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, poll};
use securectr_wall::Denial;
use thiserror::Error;

use crate::judge::{Judge, Verdict};

const LENGTH_LEN: usize = 4;
/// Addresses and type.
const ETHERNET_LEN: usize = 14;
/// An IP packet of 65,535 bytes behind the addresses and the type.
const MAX_FRAME_LEN: usize = 65_549;
/// As much as is read at once: more than the longest frame.
const INPUT_LEN: usize = 128 * 1024;

#[derive(Debug, Error)]
pub(crate) enum RelayError {
    #[error("wait for frames")]
    Wait(#[source] io::Error),
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("read from {0}")]
    Read(&'static str, #[source] io::Error),
    #[error("write to {0}")]
    Write(&'static str, #[source] io::Error),
}

/// One side: what has come from it, and what goes to it.
struct Side {
    name: &'static str,
    socket: UnixStream,
    input: Vec<u8>,
    held: Range<usize>,
    output: Vec<u8>,
}

/// Who has gone.
pub(crate) enum Gone {
    Guest,
    World,
    Parent,
}

/// Relays until one of them goes. All sockets do not wait.
pub(crate) fn relay(
    guest: UnixStream,
    world: UnixStream,
    parent: &UnixStream,
    judge: &mut Judge,
) -> Result<Gone, RelayError> {
    let mut guest = Side::new("the guest", guest);
    let mut world = Side::new("passt", world);
    loop {
        let (of_guest, of_world, of_parent) = wait(&guest, &world, parent)?;
        if !of_parent.is_empty() {
            return Ok(Gone::Parent);
        }
        // Nobody reads what waits, or will be told of it.
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        if of_guest.intersects(gone) && !world.has_room() {
            return Ok(Gone::Guest);
        }
        if of_world.intersects(gone) && !guest.has_room() {
            return Ok(Gone::World);
        }
        guest.flush()?;
        world.flush()?;
        if !of_guest.is_empty() && world.has_room() && !guest.read()? {
            return Ok(Gone::Guest);
        }
        if !of_world.is_empty() && guest.has_room() && !world.read()? {
            return Ok(Gone::World);
        }
        let now = Instant::now();
        while world.has_room() {
            let Some(frame) = guest.next()? else { break };
            match judge.outgoing(guest.frame(&frame), now) {
                Verdict::Pass => world.send(guest.frame(&frame))?,
                Verdict::Drop => {}
                // One for which there is no room is lost: the guest asks again.
                Verdict::Answer(answer) if guest.has_room() => guest.send(&answer)?,
                Verdict::Answer(_) => {}
            }
        }
        while guest.has_room() {
            let Some(frame) = world.next()? else { break };
            if judge.incoming(world.frame(&frame), now) {
                guest.send(world.frame(&frame))?;
            }
        }
        tell(parent, judge.take_denials());
    }
}

/// Which of them have something. A side is read from only when the other takes what comes.
fn wait(
    guest: &Side,
    world: &Side,
    parent: &UnixStream,
) -> Result<(PollFlags, PollFlags, PollFlags), RelayError> {
    let wanted = |side: &Side, other: &Side| {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, other.has_room());
        wanted.set(PollFlags::OUT, !side.has_room());
        wanted
    };
    let mut all = [
        PollFd::new(&guest.socket, wanted(guest, world)),
        PollFd::new(&world.socket, wanted(world, guest)),
        PollFd::from_borrowed_fd(parent.as_fd(), PollFlags::IN),
    ];
    loop {
        match poll(&mut all, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(RelayError::Wait(errno.into())),
            Ok(_) => {
                let [guest, world, parent] = all.map(|one| one.revents());
                return Ok((guest, world, parent));
            }
        }
    }
}

impl Side {
    fn new(name: &'static str, socket: UnixStream) -> Self {
        Self { name, socket, input: vec![0; INPUT_LEN], held: 0..0, output: Vec::new() }
    }

    fn has_room(&self) -> bool {
        self.output.is_empty()
    }

    /// Whether it is still there.
    fn read(&mut self) -> Result<bool, RelayError> {
        self.input.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        let room = self.input.get_mut(self.held.end..).unwrap_or_default();
        match (&self.socket).read(room) {
            Ok(0) => Ok(room.is_empty()),
            Ok(len) => {
                self.held.end += len;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(RelayError::Read(self.name, error)),
        }
    }

    /// The next frame that is there as a whole, with its length; it is taken.
    fn next(&mut self) -> Result<Option<Range<usize>>, RelayError> {
        let held = self.input.get(self.held.clone()).unwrap_or_default();
        let Some((length, rest)) = held.split_first_chunk() else { return Ok(None) };
        // No usize is shorter.
        let len = u32::from_be_bytes(*length) as usize;
        if !(ETHERNET_LEN..=MAX_FRAME_LEN).contains(&len) {
            return Err(RelayError::Length(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let start = self.held.start + LENGTH_LEN;
        self.held.start = start + len;
        Ok(Some(start..start + len))
    }

    fn frame(&self, frame: &Range<usize>) -> &[u8] {
        self.input.get(frame.clone()).unwrap_or_default()
    }

    /// There is room.
    fn send(&mut self, frame: &[u8]) -> Result<(), RelayError> {
        // At most MAX_FRAME_LEN.
        self.output.extend((frame.len() as u32).to_be_bytes());
        self.output.extend(frame);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), RelayError> {
        while !self.output.is_empty() {
            match (&self.socket).write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reading tells that nobody is there.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.output.clear(),
                Err(error) => return Err(RelayError::Write(self.name, error)),
            }
        }
        Ok(())
    }
}

/// What a parent that does not listen is not told is lost.
fn tell(mut parent: &UnixStream, denials: Vec<Denial>) {
    for denial in denials {
        if let Ok(mut line) = serde_json::to_vec(&denial) {
            line.push(b'\n');
            let _ = parent.write(&line);
        }
    }
}

#[cfg(test)]
mod tests;
