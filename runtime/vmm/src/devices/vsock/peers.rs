//! All peers of the device on the host, by token and by address, and the line of those that have something for the guest.

use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::net::UnixStream,
};

use super::{
    connection::{Connection, Draining},
    packet::Address,
};

/// Names a peer, never again another; `u64::MAX` names none.
pub(super) type Token = u64;

/// Each costs a descriptor, and its buffer when it stalls.
pub(super) const MAX_PEERS: usize = 1024;
/// Clients that have not said yet where they want to go. The oldest makes room for the next.
const MAX_GREETING: usize = 32;
/// Host ports of connections into the guest: above any that a guest may ask for, below 2^31.
const FIRST_PORT: u32 = 1 << 30;

#[derive(Debug)]
pub(super) enum Peer {
    /// A client that has not said yet where it wants to go.
    Greeting(UnixStream),
    Connection(Connection),
    Draining(Draining),
}

#[derive(Debug)]
pub(super) struct Peers {
    next_token: Token,
    next_port: u32,
    by_token: BTreeMap<Token, Peer>,
    by_address: BTreeMap<Address, Token>,
    /// Oldest first; some may have gone on.
    greeting: VecDeque<Token>,
    /// Connections that may have something for the guest, each once.
    line: VecDeque<Token>,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            next_token: 0,
            next_port: FIRST_PORT,
            by_token: BTreeMap::new(),
            by_address: BTreeMap::new(),
            greeting: VecDeque::new(),
            line: VecDeque::new(),
        }
    }
}

impl Peers {
    /// `next_port` is that of earlier peers of the same guest; `None` when it is not one that could have been.
    pub(super) fn starting_at(next_port: u32) -> Option<Self> {
        (next_port & !(FIRST_PORT - 1) == FIRST_PORT).then(|| Self { next_port, ..Self::default() })
    }

    /// Of the next connection into the guest.
    pub(super) fn next_port(&self) -> u32 {
        self.next_port
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_token.len() >= MAX_PEERS
    }

    pub(super) fn new_token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    pub(super) fn greet(&mut self, token: Token, stream: UnixStream) {
        self.greeting.retain(|token| matches!(self.by_token.get(token), Some(Peer::Greeting(_))));
        if self.greeting.len() >= MAX_GREETING {
            if let Some(oldest) = self.greeting.pop_front() {
                self.by_token.remove(&oldest);
            }
        }
        self.greeting.push_back(token);
        self.by_token.insert(token, Peer::Greeting(stream));
    }

    /// An address for a client's connection to a port in the guest.
    pub(super) fn new_address(&mut self, guest_port: u32) -> Address {
        loop {
            let address = Address { host_port: self.next_port, guest_port };
            self.next_port = FIRST_PORT | self.next_port.wrapping_add(1) & (FIRST_PORT - 1);
            // Of 2^30 ports at most MAX_PEERS are taken.
            if !self.by_address.contains_key(&address) {
                return address;
            }
        }
    }

    pub(super) fn connect(&mut self, token: Token, connection: Connection) {
        self.by_address.insert(connection.address, token);
        self.by_token.insert(token, Peer::Connection(connection));
        self.line_up(token);
    }

    pub(super) fn drain(&mut self, token: Token, draining: Draining) {
        self.by_token.insert(token, Peer::Draining(draining));
    }

    pub(super) fn at(&mut self, address: Address) -> Option<(Token, &mut Connection)> {
        let token = *self.by_address.get(&address)?;
        self.connection(token).map(|connection| (token, connection))
    }

    pub(super) fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        match self.by_token.get_mut(&token)? {
            Peer::Connection(connection) => Some(connection),
            Peer::Greeting(_) | Peer::Draining(_) => None,
        }
    }

    pub(super) fn get(&self, token: Token) -> Option<&Peer> {
        self.by_token.get(&token)
    }

    /// Takes a peer out.
    pub(super) fn take(&mut self, token: Token) -> Option<Peer> {
        let peer = self.by_token.remove(&token)?;
        if let Peer::Connection(connection) = &peer {
            self.by_address.remove(&connection.address);
        }
        Some(peer)
    }

    /// Puts a connection at the end of the line, if it is not in it.
    pub(super) fn line_up(&mut self, token: Token) {
        if let Some(connection) = self.connection(token).filter(|connection| !connection.in_line) {
            connection.in_line = true;
            self.line.push_back(token);
        }
    }

    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// The first in the line that is still connected leaves the line.
    pub(super) fn next_in_line(&mut self) -> Option<(Token, &mut Connection)> {
        let in_line = |token: &Token| matches!(self.by_token.get(token), Some(Peer::Connection(_)));
        let position = self.line.iter().position(in_line)?;
        let token = self.line.drain(..=position).next_back()?;
        let connection = self.connection(token)?;
        connection.in_line = false;
        Some((token, connection))
    }
}
