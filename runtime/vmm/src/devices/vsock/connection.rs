//! One connection between a stream on the host and a port in the guest (VirtIO 1.2, section 5.10.6).

use std::{io::ErrorKind, net::Shutdown, os::unix::net::UnixStream};

use vmm_sys_util::epoll::EventSet;

use super::{
    outlet::Outlet,
    packet::{Address, Message, Op, Room, SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
};
use crate::devices::{sys, virtqueue::Buffers};

/// Linux gives packets of 4 KiB: a read fills at most 64 KiB of them, and the next connection comes.
const MAX_BURST: usize = 16;
/// More than Linux lets a Unix socket hold by default (net.core.wmem_max), in bytes.
const MAX_UNREAD_LEN: usize = 512 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: Address,
    /// It waits in the line of those that have something for the guest.
    pub(super) in_line: bool,
    stream: UnixStream,
    phase: Phase,
    outlet: Outlet,
    /// Bytes of data sent to the guest, modulo 2^32.
    sent: u32,
    /// The guest's.
    room: Room,
    /// The stream has had something to read at each try since its last event.
    readable: bool,
    /// No more comes from the stream.
    ended: bool,
    /// The stream's peer has closed it for both directions.
    hung_up: bool,
    /// What the guest has said of its ends, as flags of a shutdown.
    guest_ends: u32,
    owed: Owed,
    /// What the guest has heard of our ends, as flags of a shutdown.
    told_ends: u32,
    /// How many packets the next read may fill: more after one that filled all of them.
    burst: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A client of ours waits for the guest's answer.
    Requested,
    Established,
}

/// Packets for the guest that wait for a place.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
}

/// What is to become of a connection after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// It is over, and the guest knows.
    Over,
    /// It is over, and the guest is to be told.
    Reset,
}

/// What a connection has for the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Packet(Message),
    /// Data, if the stream has any.
    Data {
        max_len: usize,
        max_packets: usize,
    },
}

/// What a read from the stream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes(usize),
    Nothing,
}

impl Connection {
    /// For a client that wants to reach a port in the guest.
    pub(super) fn requested(stream: UnixStream, address: Address) -> Self {
        let owed = Owed { request: true, ..Owed::default() };
        Self::new(stream, address, Phase::Requested, owed)
    }

    /// For a guest that has asked for one of the host's ports.
    pub(super) fn accepted(stream: UnixStream, request: &Message) -> Self {
        let owed = Owed { response: true, ..Owed::default() };
        Self { room: request.room, ..Self::new(stream, request.address, Phase::Established, owed) }
    }

    fn new(stream: UnixStream, address: Address, phase: Phase, owed: Owed) -> Self {
        Self {
            address,
            in_line: false,
            stream,
            phase,
            outlet: Outlet::new(),
            sent: 0,
            room: Room::default(),
            readable: true,
            ended: false,
            hung_up: false,
            guest_ends: 0,
            owed,
            told_ends: 0,
            burst: 1,
        }
    }

    /// A packet from the guest.
    pub(super) fn packet(&mut self, message: &Message, data: &Buffers<'_>) -> Verdict {
        self.room = message.room;
        match (message.op, self.phase) {
            (Op::Reset, _) => Verdict::Over,
            (Op::Response, Phase::Requested) => self.established(),
            (Op::Data, Phase::Established) => match self.outlet.accept(&self.stream, data) {
                Ok(()) => Verdict::Keep,
                Err(_) => Verdict::Reset,
            },
            (Op::CreditUpdate, Phase::Established) => Verdict::Keep,
            (Op::CreditRequest, Phase::Established) => {
                self.owed.credit_update = true;
                Verdict::Keep
            }
            (Op::Shutdown, Phase::Established) => self.shut_down(message.flags),
            _ => Verdict::Reset,
        }
    }

    fn established(&mut self) -> Verdict {
        self.phase = Phase::Established;
        let line = format!("OK {}\n", self.address.host_port);
        // Nothing was written before, so the line fits, unless the client has gone.
        match sys::send_bytes(&self.stream, line.as_bytes()) {
            Ok(count) if count == line.len() => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    fn shut_down(&mut self, ends: u32) -> Verdict {
        if ends & SHUTDOWN_SEND != 0 {
            self.outlet.finish(&self.stream);
        }
        if ends & SHUTDOWN_RECEIVE != 0 {
            // What our peer goes on to write is an error on its side.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.guest_ends |= ends;
        let both = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
        if self.guest_ends & both == both { Verdict::Reset } else { Verdict::Keep }
    }

    /// Something has happened to the stream. False when the connection makes no sense any more.
    pub(super) fn stream_event(&mut self, events: EventSet) -> bool {
        let input = EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        self.readable |= events.intersects(input);
        self.hung_up |= events.contains(EventSet::HANG_UP);
        if self.phase == Phase::Requested {
            // The client did not wait for the answer.
            return !self.hung_up;
        }
        if events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            self.outlet.stream_is_writable(&self.stream);
        }
        true
    }

    /// What comes next for the guest. A packet counts as sent.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        if std::mem::take(&mut self.owed.request) {
            return Some(self.control(Op::Request, 0));
        }
        if std::mem::take(&mut self.owed.response) {
            return Some(self.control(Op::Response, 0));
        }
        if self.phase != Phase::Established {
            return None;
        }
        let ends = self.ends();
        if ends & !self.told_ends != 0 {
            self.told_ends |= ends;
            return Some(self.control(Op::Shutdown, ends));
        }
        let wants_to_send = self.readable && !self.ended && self.guest_ends & SHUTDOWN_RECEIVE == 0;
        let credit = self.credit();
        if wants_to_send && credit > 0 {
            self.owed.credit_request = true;
            return Some(Outgoing::Data { max_len: credit, max_packets: self.burst });
        }
        if std::mem::take(&mut self.owed.credit_update) || self.outlet.has_room_to_tell() {
            return Some(self.control(Op::CreditUpdate, 0));
        }
        if wants_to_send && std::mem::take(&mut self.owed.credit_request) {
            return Some(self.control(Op::CreditRequest, 0));
        }
        None
    }

    /// Reads from the stream into guest memory.
    pub(super) fn receive(&mut self, room: &Buffers<'_>) -> Received {
        match sys::receive(&self.stream, room.slices()) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.burst = if count == room.len() { (self.burst * 2).min(MAX_BURST) } else { 1 };
                return Received::Bytes(count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                self.burst = 1;
            }
            // A peer that closed with something unread is an error once; it means both ends (unix(7)).
            Err(_) => (self.ended, self.hung_up) = (true, true),
        }
        Received::Nothing
    }

    /// The packet for so many bytes that were received.
    pub(super) fn data(&mut self, len: u32) -> Message {
        self.sent = self.sent.wrapping_add(len);
        self.message(Op::Data, 0, len)
    }

    /// Lets go of the guest. What it has sent still goes out: the stream and its outlet, unless all is done.
    pub(super) fn drain(self) -> Option<Draining> {
        let mut draining = Draining { stream: self.stream, outlet: self.outlet };
        if self.phase == Phase::Requested {
            draining.close();
            return None;
        }
        draining.outlet.finish(&draining.stream);
        draining.go_on()
    }

    /// What the guest has room for. A guest that says nonsense has none.
    fn credit(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.room.fwd_cnt);
        self.room.buf_alloc.saturating_sub(under_way) as usize
    }

    /// Which ends are over on our side: nothing more comes from the stream, or nobody takes what goes into it.
    fn ends(&self) -> u32 {
        let nobody_takes = self.outlet.is_broken() || self.ended && self.hung_up;
        (if self.ended { SHUTDOWN_SEND } else { 0 }) | (if nobody_takes { SHUTDOWN_RECEIVE } else { 0 })
    }

    fn control(&mut self, op: Op, flags: u32) -> Outgoing {
        Outgoing::Packet(self.message(op, flags, 0))
    }

    fn message(&mut self, op: Op, flags: u32, len: u32) -> Message {
        Message { address: self.address, op, flags, len, room: self.outlet.tell_room() }
    }
}

/// What is left of a connection that the guest has ended: a stream that has not taken everything yet.
#[derive(Debug)]
pub(super) struct Draining {
    stream: UnixStream,
    outlet: Outlet,
}

impl Draining {
    /// Something has happened to the stream. `None` when all is done.
    pub(super) fn stream_event(mut self) -> Option<Self> {
        self.outlet.stream_is_writable(&self.stream);
        self.go_on()
    }

    fn go_on(mut self) -> Option<Self> {
        if self.outlet.is_done() {
            self.close();
            return None;
        }
        Some(self)
    }

    /// Closing a Unix socket with something unread turns the peer's end of file into an error (unix(7)), even after
    /// everything was sent to it. So what nobody will read is read here; it is bounded by the socket's buffer.
    fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let mut unread = [0; 4096];
        for _ in 0..MAX_UNREAD_LEN / unread.len() {
            match sys::receive_bytes(&self.stream, &mut unread, false) {
                Ok(1..) => {}
                _ => break,
            }
        }
    }
}
