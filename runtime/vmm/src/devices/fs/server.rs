//! The socket to the file server: one FUSE message a datagram.

use std::{
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{
    FsError,
    message::{REPLY_HEADER_LEN, Reply, Request},
};
use crate::devices::{sys, virtqueue::Buffers};

pub(super) struct Server {
    /// SOCK_SEQPACKET; the standard library has no type for it.
    socket: UnixStream,
    /// Edge-triggered: nothing is ever switched off, and a server that stalls causes no events.
    epoll: Epoll,
    /// Replies may wait.
    readable: bool,
    /// There may be room for a request.
    writable: bool,
    gone: bool,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// The socket is full; [`Server::listen`] tells when to try again.
    Later,
    /// The kernel has no memory for this one.
    Refused,
}

impl Server {
    pub(super) fn new(socket: OwnedFd) -> Result<Self, FsError> {
        if !sys::is_unix_socket(socket.as_fd(), libc::SOCK_SEQPACKET, false) {
            return Err(FsError::NotASocket);
        }
        let socket = UnixStream::from(socket);
        let epoll = Epoll::new().map_err(FsError::Epoll)?;
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        epoll
            .ctl(ControlOperation::Add, socket.as_raw_fd(), EpollEvent::new(events, 0))
            .map_err(FsError::Epoll)?;
        Ok(Self { socket, epoll, readable: true, writable: true, gone: false })
    }

    /// Readable when [`Server::listen`] has something to learn.
    pub(super) fn poll_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    pub(super) fn listen(&mut self) {
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

    /// Nobody is at the other end any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether a request may be sent, as far as is known.
    pub(super) fn is_writable(&self) -> bool {
        self.writable && !self.gone
    }

    pub(super) fn send(&mut self, request: &Request, rest: &Buffers<'_>) -> Sent {
        match sys::send_datagram(&self.socket, request.bytes(), rest.slices()) {
            Ok(_) => Sent::Yes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                Sent::Later
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => Sent::Refused,
            Err(_) => {
                self.gone = true;
                Sent::Later
            }
        }
    }

    /// The header of the next reply, which stays in the socket; `None` when there is none now. A reply that is too short for
    /// a header is told as one of length 0.
    pub(super) fn next(&mut self) -> Option<Reply> {
        let mut reply = Reply([0; REPLY_HEADER_LEN]);
        while self.readable && !self.gone {
            match sys::receive_bytes(&self.socket, &mut reply.0, true) {
                Ok(0) => self.gone = true,
                Ok(REPLY_HEADER_LEN) => return Some(reply),
                Ok(_) => return Some(Reply([0; REPLY_HEADER_LEN])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(_) => self.gone = true,
            }
        }
        None
    }

    /// Takes the next reply out of the socket: its header, and the rest into guest memory. Answers with its whole length in
    /// bytes, which may be more than there was room for.
    pub(super) fn take(&mut self, rest: &Buffers<'_>) -> io::Result<(Reply, usize)> {
        let mut reply = Reply([0; REPLY_HEADER_LEN]);
        let len = sys::receive_datagram(&self.socket, &mut reply.0, rest.slices())?;
        Ok((reply, len))
    }

    /// Drops the next reply.
    pub(super) fn skip(&mut self) {
        // What does not fit is dropped by the kernel (recv(2), "Message-based sockets").
        let _ = sys::receive_bytes(&self.socket, &mut [0; REPLY_HEADER_LEN], false);
    }
}
