//! From the guest to a stream: what the stream does not take at once is kept, up to what the guest was allowed to send.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use super::packet::Room;
use crate::devices::{sys, virtqueue::Buffers};

/// What the guest may have under way, in bytes: two packets of the greatest size. So much memory a connection can cost.
pub(super) const BUF_ALLOC: u32 = 128 * 1024;

#[derive(Debug)]
pub(super) struct Outlet {
    /// Accepted from the guest and not yet taken by the stream.
    kept: VecDeque<u8>,
    /// Bytes that have left us, modulo 2^32: the `fwd_cnt` that the guest is told.
    forwarded: u32,
    /// As the guest knows it.
    told: u32,
    /// The stream has taken all that it was given since its last event.
    writable: bool,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The guest sends no more; what is kept still goes out.
    Finishing,
    /// The guest sends no more, and all has gone out.
    Finished,
    /// There is nobody to take it.
    Broken,
}

/// The guest has sent more than it may, or after its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

impl Outlet {
    pub(super) fn new() -> Self {
        Self { kept: VecDeque::new(), forwarded: 0, told: 0, writable: true, end: End::Open }
    }

    /// Takes the data of a packet.
    pub(super) fn accept(&mut self, stream: &UnixStream, data: &Buffers<'_>) -> Result<(), Overrun> {
        if matches!(self.end, End::Finishing | End::Finished)
            || self.kept.len() + data.len() > BUF_ALLOC as usize
        {
            return Err(Overrun);
        }
        let passes = self.writable && self.kept.is_empty() && self.end == End::Open && data.len() > 0;
        let sent = if passes { self.sent(sys::send(stream, data.slices())) } else { 0 };
        let mut rest = vec![0; data.len() - sent];
        data.after(sent).read(&mut rest);
        self.kept.extend(rest);
        self.flush(stream);
        Ok(())
    }

    /// The stream may take more again.
    pub(super) fn stream_is_writable(&mut self, stream: &UnixStream) {
        self.writable = true;
        self.flush(stream);
    }

    /// The guest sends no more.
    pub(super) fn finish(&mut self, stream: &UnixStream) {
        if self.end == End::Open {
            self.end = End::Finishing;
            self.flush(stream);
        }
    }

    /// There is nobody to take what the guest sends.
    pub(super) fn is_broken(&self) -> bool {
        self.end == End::Broken
    }

    /// Nothing will go out any more.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.end, End::Finished | End::Broken)
    }

    /// What the guest should know, and will by the packet that this goes into.
    pub(super) fn tell_room(&mut self) -> Room {
        self.told = self.forwarded;
        Room { buf_alloc: BUF_ALLOC, fwd_cnt: self.forwarded }
    }

    /// The guest believes us to be at least half full, and we are not.
    pub(super) fn has_room_to_tell(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUF_ALLOC / 2
    }

    fn flush(&mut self, stream: &UnixStream) {
        while self.writable && self.end != End::Broken && !self.kept.is_empty() {
            let sent = self.sent(sys::send_bytes(stream, self.kept.as_slices().0));
            self.kept.drain(..sent);
        }
        if self.end == End::Broken {
            // The guest has not heard yet that nobody listens.
            self.forward(self.kept.len());
            self.kept.clear();
        }
        if self.kept.is_empty() {
            self.kept.shrink_to(0);
            if self.end == End::Finishing {
                self.end = End::Finished;
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// Notes what came of sending; returns the bytes that were sent.
    fn sent(&mut self, outcome: io::Result<usize>) -> usize {
        match outcome {
            Ok(count) => {
                self.forward(count);
                count
            }
            Err(error) => {
                self.writable = false;
                if error.kind() != ErrorKind::WouldBlock {
                    self.end = End::Broken;
                }
                0
            }
        }
    }

    fn forward(&mut self, count: usize) {
        // Less than 2^32, by BUF_ALLOC; and the sum is meant to wrap.
        self.forwarded = self.forwarded.wrapping_add(count as u32);
    }
}
