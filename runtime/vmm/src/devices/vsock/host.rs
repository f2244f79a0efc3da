//! The host's side: clients that come by the listener, and the streams that wait for the guest to ask for them.

use std::{
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use securectr_vmm::spec::VsockSpec;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{VsockError, peers::Token};
use crate::{
    descriptors::Descriptors,
    devices::{DeviceError, Progress, sys},
};

/// The listener's events; no peer ever has this token.
const LISTENER: Token = Token::MAX;
const EVENTS_A_CALL: usize = 64;
/// "CONNECT 4294967295\n" and room to spare, in bytes.
const MAX_LINE_LEN: usize = 64;
/// VMADDR_PORT_ANY
const NO_PORT: u32 = u32::MAX;

pub(super) struct Host {
    listener: UnixListener,
    /// Clients may wait at the listener.
    clients: bool,
    /// Edge-triggered for all: nothing is ever switched off, and a peer that stalls causes no events.
    epoll: Epoll,
    dial_out: Vec<(u32, UnixStream)>,
}

/// What a client has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `CONNECT <port>`
    Connect(u32),
    /// Not a whole line yet.
    Part,
    /// Anything else, or the end.
    Refused,
}

impl Host {
    pub(super) fn open(spec: &VsockSpec, descriptors: &mut Descriptors) -> Result<Self, DeviceError> {
        let mut dial_out = Vec::new();
        let listener = descriptors.take(spec.listener)?;
        for dial in &spec.dial_out {
            dial_out.push((dial.port, descriptors.take(dial.stream)?));
        }
        Self::new(listener, dial_out).map_err(DeviceError::Vsock)
    }

    pub(super) fn new(listener: OwnedFd, dial_out: Vec<(u32, OwnedFd)>) -> Result<Self, VsockError> {
        if !sys::is_unix_socket(listener.as_fd(), libc::SOCK_STREAM, true) {
            return Err(VsockError::NotAListener);
        }
        for (port, stream) in &dial_out {
            if !sys::is_unix_socket(stream.as_fd(), libc::SOCK_STREAM, false) {
                return Err(VsockError::NotAStream(*port));
            }
        }
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true).map_err(VsockError::Listener)?;
        let epoll = Epoll::new().map_err(VsockError::Epoll)?;
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, LISTENER);
        epoll.ctl(ControlOperation::Add, listener.as_raw_fd(), event).map_err(VsockError::Epoll)?;
        let dial_out = dial_out.into_iter().map(|(port, stream)| (port, stream.into())).collect();
        Ok(Self { listener, clients: true, epoll, dial_out })
    }

    /// Readable when [`Host::events`] has something.
    pub(super) fn poll_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// What has happened to peers since the last call, up to a bound; and whether there may be more.
    pub(super) fn events(&mut self) -> (Vec<(Token, EventSet)>, Progress) {
        let mut events = [EpollEvent::default(); EVENTS_A_CALL];
        // It does not wait, so it fails only when a signal comes; the events stay.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        let mut of_peers = Vec::with_capacity(count);
        for event in events.iter().take(count) {
            if event.data() == LISTENER {
                self.clients = true;
            } else {
                of_peers.push((event.data(), EventSet::from_bits_truncate(event.events())));
            }
        }
        (of_peers, if count == EVENTS_A_CALL { Progress::More } else { Progress::Done })
    }

    /// The next client at the listener, if there is one.
    pub(super) fn client(&mut self) -> Option<UnixStream> {
        while self.clients {
            match self.listener.accept() {
                Ok((stream, _)) => return Some(stream),
                // It has gone before we came.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // No more, or no descriptors left: a later client brings another event.
                Err(_) => self.clients = false,
            }
        }
        None
    }

    /// Watches a peer's stream until it is closed.
    pub(super) fn watch(&self, token: Token, stream: &UnixStream) -> io::Result<()> {
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.epoll.ctl(ControlOperation::Add, stream.as_raw_fd(), EpollEvent::new(events, token))
    }

    /// The stream for a guest that asks for this port: each once.
    pub(super) fn dial(&mut self, port: u32) -> Option<UnixStream> {
        let index = self.dial_out.iter().position(|&(offered, _)| offered == port)?;
        Some(self.dial_out.remove(index).1)
    }
}

/// Reads a client's line and not a byte more: what follows is for the guest.
pub(super) fn read_line(stream: &UnixStream) -> Line {
    let mut bytes = [0; MAX_LINE_LEN];
    let seen = match sys::receive_bytes(stream, &mut bytes, true) {
        Ok(count) => bytes.get(..count).unwrap_or_default(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Line::Part,
        Err(_) => return Line::Refused,
    };
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return if seen.is_empty() || seen.len() == MAX_LINE_LEN { Line::Refused } else { Line::Part };
    };
    let line = seen.get(..end).unwrap_or_default();
    let Some(port) = port(line) else { return Line::Refused };
    let mut consumed = [0; MAX_LINE_LEN];
    match sys::receive_bytes(stream, consumed.get_mut(..=end).unwrap_or_default(), false) {
        Ok(count) if count == end + 1 => Line::Connect(port),
        _ => Line::Refused,
    }
}

fn port(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|&port| port != NO_PORT)
}
