//! The socket on which requests come, a datagram each. Several threads read it: a request goes to whichever is free.

use std::{error::Error, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketType, recv, send, sockopt::socket_type},
};
use securectr_files::MAX_MESSAGE_LEN;
use thiserror::Error;

use crate::{
    fuse::{Reply, Request},
    server::Server,
};

#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error("the requests' descriptor is not a socket of type SOCK_SEQPACKET")]
    NotASocket,
    #[error("receive a request")]
    Receive(#[source] Errno),
    #[error("send a reply")]
    Send(#[source] Errno),
}

pub(crate) struct Connection(OwnedFd);

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, ConnectionError> {
        match socket_type(&socket) {
            Ok(SocketType::SEQPACKET) => Ok(Self(socket)),
            _ => Err(ConnectionError::NotASocket),
        }
    }

    /// Answers requests until the client goes.
    pub(crate) fn serve(&self, server: &Server) -> Result<(), Box<dyn Error>> {
        let mut buffer = vec![0; MAX_MESSAGE_LEN];
        let mut reply = Reply::default();
        loop {
            let len = self.receive(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            let answer = match buffer.get(..len).and_then(Request::parse) {
                Some(request) => server.answer(&request, &mut reply),
                // Longer than any, or not as long as it says. Who sends less than a header is not told.
                None => buffer.get(..len.min(MAX_MESSAGE_LEN)).and_then(|bytes| reply.refuse(bytes)),
            };
            if let Some(bytes) = answer {
                self.send(bytes)?;
            }
        }
    }

    /// The whole length of the next request; 0 when the client has gone.
    fn receive(&self, buffer: &mut [u8]) -> Result<usize, ConnectionError> {
        loop {
            match recv(&self.0, &mut *buffer, RecvFlags::TRUNC) {
                Ok((_, len)) => return Ok(len),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(0),
                Err(errno) => return Err(ConnectionError::Receive(errno)),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), ConnectionError> {
        loop {
            match send(&self.0, bytes, SendFlags::NOSIGNAL) {
                // Reading tells that the client has gone.
                Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ConnectionError::Send(errno)),
            }
        }
    }
}
