//! A stream socket to passt(1): each frame stands behind its length, which is of 32 bits, big endian. There are no headers.
//!
//! The other end is another process's, which may stall, die or be taken over: all that is kept for it is one frame on its way out
//! and a bounded piece of what comes in. A length that no frame has is its last word.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, Shutdown},
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{
    MAX_FRAME_LEN, NetError,
    backend::Backend,
    header::{HEADER_LEN, Header},
};
use crate::devices::{sys, virtqueue::Buffers};

const LENGTH_LEN: usize = 4;
/// Addresses and type.
const ETHERNET_LEN: usize = 14;
/// As much as is read at once: more than the longest frame.
const INPUT_LEN: usize = 128 * 1024;

pub(super) struct Stream {
    socket: UnixStream,
    /// Edge-triggered: nothing is ever switched off, and another end that stalls causes no events.
    epoll: Epoll,
    readable: bool,
    writable: bool,
    /// What was read and not yet taken.
    input: Vec<u8>,
    held: Range<usize>,
    /// A frame with its length, and what of it was not sent yet.
    output: Vec<u8>,
    unsent: Range<usize>,
    /// The longest frame that the driver may send, in bytes.
    most: usize,
}

impl Stream {
    pub(super) fn new(socket: OwnedFd, mtu: u16) -> Result<Self, NetError> {
        if !sys::is_unix_socket(socket.as_fd(), libc::SOCK_STREAM, false) {
            return Err(NetError::NotAStream);
        }
        let socket = UnixStream::from(socket);
        let epoll = Epoll::new().map_err(NetError::Epoll)?;
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        epoll
            .ctl(ControlOperation::Add, socket.as_raw_fd(), EpollEvent::new(events, 0))
            .map_err(NetError::Epoll)?;
        Ok(Self {
            socket,
            epoll,
            readable: true,
            writable: true,
            input: vec![0; INPUT_LEN],
            held: 0..0,
            output: vec![0; LENGTH_LEN + MAX_FRAME_LEN],
            unsent: 0..0,
            most: ETHERNET_LEN + usize::from(mtu),
        })
    }

    fn listen(&mut self) {
        let mut events = [EpollEvent::default()];
        // It does not wait, so it fails only when a signal comes; the events stay.
        if let Ok(1) = self.epoll.wait(0, &mut events) {
            let [event] = events;
            let events = EventSet::from_bits_truncate(event.events());
            self.writable |= events.contains(EventSet::OUT);
            // Also when it hangs up: reading tells so.
            self.readable |= events.bits() & !EventSet::OUT.bits() != 0;
        }
    }

    /// Sends what can be sent now.
    fn flush(&mut self) -> io::Result<()> {
        while self.writable && !self.unsent.is_empty() {
            let unsent = self.output.get(self.unsent.clone()).unwrap_or_default();
            match sys::send_bytes(&self.socket, unsent) {
                Ok(sent) => self.unsent.start += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => {
                    // Reading tells that nobody is there; until then, frames are lost.
                    self.unsent = 0..0;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The next frame of what was read, if all of it is there.
    fn next(&self) -> io::Result<Option<Range<usize>>> {
        let held = self.input.get(self.held.clone()).unwrap_or_default();
        let Some((length, rest)) = held.split_first_chunk() else { return Ok(None) };
        // No usize is shorter.
        let len = u32::from_be_bytes(*length) as usize;
        if !(ETHERNET_LEN..=MAX_FRAME_LEN - HEADER_LEN).contains(&len) {
            // passt(1) ends with its connection, and its parent tells of it.
            let _ = self.socket.shutdown(Shutdown::Both);
            return Err(ErrorKind::InvalidData.into());
        }
        let start = self.held.start + LENGTH_LEN;
        Ok((rest.len() >= len).then_some(start..start + len))
    }

    /// Whether more has come.
    fn read(&mut self) -> io::Result<bool> {
        if !self.readable {
            return Ok(false);
        }
        // Less than a frame is left.
        self.input.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        let room = self.input.get_mut(self.held.end..).unwrap_or_default();
        match sys::receive_bytes(&self.socket, room, false) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                self.held.end += len;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Backend for Stream {
    fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn has_room(&mut self) -> bool {
        if !self.unsent.is_empty() {
            self.listen();
            // What cannot be sent any more makes room, too.
            let _ = self.flush();
        }
        self.unsent.is_empty()
    }

    /// There are none, and the driver was offered none.
    fn set_offloads(&mut self, _: libc::c_uint) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _: &Header, frame: &Buffers<'_>) -> io::Result<()> {
        let len = frame.len();
        if !(ETHERNET_LEN..=self.most).contains(&len) || !self.unsent.is_empty() {
            return Err(ErrorKind::InvalidInput.into());
        }
        // A copy, since the driver can change the frame while it is looked at.
        let Some((length, room)) = self.output.split_first_chunk_mut() else { return Ok(()) };
        // At most 65,549.
        *length = (len as u32).to_be_bytes();
        let room = room.get_mut(..len).unwrap_or_default();
        if frame.read(room) != len || is_of_the_other_end(room) {
            return Err(ErrorKind::InvalidInput.into());
        }
        self.unsent = 0..LENGTH_LEN + len;
        self.flush()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        self.listen();
        self.flush()?;
        loop {
            if let Some(found) = self.next()? {
                let bytes = self.input.get(found.clone()).unwrap_or_default();
                let Some((header, room)) = frame.split_at_mut_checked(HEADER_LEN) else { return Ok(None) };
                header.fill(0);
                let room = room.get_mut(..bytes.len()).ok_or(ErrorKind::InvalidData)?;
                room.copy_from_slice(bytes);
                self.held.start = found.end;
                return Ok(Some(HEADER_LEN + found.len()));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }
}

/// Whether a frame is for or from the loopback, or nobody, in which case the host takes it for itself too. passt(1) connects to what
/// it is told: Debian 12's also to the services that the host keeps to itself.
fn is_of_the_other_end(frame: &[u8]) -> bool {
    fn field<const LEN: usize>(frame: &[u8], at: usize) -> Option<[u8; LEN]> {
        frame.get(at..at + LEN)?.try_into().ok()
    }
    match field(frame, 12) {
        Some([0x08, 0x00]) => {
            let of_host = |address: Ipv4Addr| address.is_loopback() || address.octets().starts_with(&[0]);
            let source = field(frame, 26).map(Ipv4Addr::from);
            // Who has no address yet asks for one from none.
            let is_from = source.is_none_or(|source| of_host(source) && !source.is_unspecified());
            is_from || field(frame, 30).map(Ipv4Addr::from).is_none_or(of_host)
        }
        Some([0x86, 0xdd]) => {
            // ::/96 with its loopback, and IPv4's addresses in disguise, by which an IPv6 socket connects to them.
            let of_host = |address: Ipv6Addr| matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..]);
            let source = field(frame, 22).map(Ipv6Addr::from);
            let is_from = source.is_none_or(|source| of_host(source) && !source.is_unspecified());
            is_from || field(frame, 38).map(Ipv6Addr::from).is_none_or(of_host)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
