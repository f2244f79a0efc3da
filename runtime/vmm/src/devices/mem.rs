//! virtio-mem: memory that comes and goes while the guest runs (VirtIO 1.2, section 5.15).
//!
//! The parent says how much, the driver plugs and unplugs blocks until it has it. A block that is plugged opens the chunk that it
//! lies in, the last one that is unplugged closes it; what is unplugged in an open chunk is given back to the host, but the guest
//! could touch it again. So chunks are counted: no more are opened than what is asked for needs. What a guest can make the host
//! back is bounded by what it was booted with and the most that was ever asked for, whatever it does.
//!
//! A guest that is asked to give memory back may keep it.

mod blocks;
mod request;

use std::io;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;

use self::{
    blocks::{BLOCK_LEN, Blocks, Part, Run, State, parts},
    request::{ANSWER_LEN, Alleged, Answer, REQUEST_LEN, Request},
};
use super::{
    News, Progress, ResizeError, StateError, VirtioDevice,
    virtqueue::{Violation, Virtqueue},
};
use crate::memory::{CHUNK_LEN, Chunks, MIB};

/// A chunk's mapping comes, is discarded and goes as the allocator's do. Its [`IOCTL`] has a row of its own in the filter.
pub(super) const SYSCALLS: &[libc::c_long] = &[];

/// KVM_SET_USER_MEMORY_REGION (linux/kvm.h): how a chunk comes and goes.
pub(crate) const IOCTL: u32 = 0x4020_ae46;

const FORMAT: u32 = 1;
const QUEUE_SIZES: &[u16] = &[16];
const MAX_REQUESTS_A_CALL: usize = 16;
/// VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE (section 5.15.3): the driver keeps away from what it has not plugged.
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
const CONFIG_LEN: usize = 56;

pub(super) struct Mem {
    /// The guest's address of the region.
    start: u64,
    chunks: Box<dyn Chunks>,
    blocks: Blocks,
    /// How much the driver is to have, in bytes.
    requested: u64,
    config: [u8; CONFIG_LEN],
    /// The parent has asked and has no answer yet.
    answer_owed: bool,
    /// The parent waits for the driver to have what was asked for.
    is_awaited: bool,
    failure: Option<io::Error>,
}

#[derive(Debug, Serialize, Deserialize)]
struct MemState {
    format: u32,
    start: u64,
    region_len: u64,
}

impl Mem {
    /// With room for so many MiB, a multiple of a chunk.
    pub(super) fn new(start: u64, room_mib: u32, chunks: Box<dyn Chunks>) -> Self {
        // A region has fewer chunks than a usize can count.
        let blocks = Blocks::new((u64::from(room_mib) * MIB / CHUNK_LEN) as usize);
        let mut mem = Self {
            start,
            chunks,
            blocks,
            requested: 0,
            config: [0; CONFIG_LEN],
            answer_owed: false,
            is_awaited: false,
            failure: None,
        };
        mem.write_config();
        mem
    }

    /// `struct virtio_mem_config` (section 5.15.4). There are no nodes, and all of the region is usable: what holds a driver back
    /// is what is asked for.
    fn write_config(&mut self) {
        let region_len = self.blocks.region_len();
        let words =
            [BLOCK_LEN, 0, self.start, region_len, region_len, self.blocks.plugged_len(), self.requested];
        for (place, word) in self.config.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn obey(&mut self, request: Option<Request>) -> Answer {
        let answer = match request {
            Some(Request::Plug(alleged)) => self.run(alleged).map(|run| self.plug(run)),
            Some(Request::Unplug(alleged)) => self.run(alleged).map(|run| self.unplug(run)),
            Some(Request::UnplugAll) => Some(self.unplug_all()),
            Some(Request::State(alleged)) => {
                self.run(alleged).map(|run| Answer::State(self.blocks.state(run)))
            }
            None => None,
        };
        self.write_config();
        answer.unwrap_or(Answer::Wrong)
    }

    fn run(&self, alleged: Alleged) -> Option<Run> {
        self.blocks.run(alleged.address.checked_sub(self.start)?, alleged.count)
    }

    fn plug(&mut self, run: Run) -> Answer {
        if self.blocks.state(run) != State::Unplugged {
            return Answer::Wrong;
        }
        let new: Vec<Part> = parts(run).filter(|&part| !self.blocks.is_open(part)).collect();
        let open_len = (self.blocks.open_count() + new.len() as u64) * CHUNK_LEN;
        let is_too_much = self.blocks.plugged_len() + run.len() > self.requested;
        if is_too_much || !new.is_empty() && open_len > self.requested.next_multiple_of(CHUNK_LEN) {
            return Answer::Refused;
        }
        for (done, part) in new.iter().enumerate() {
            if self.chunks.open(part.chunk).is_err() {
                // The host has no memory, or KVM no memslot: all or nothing.
                new.iter().take(done).for_each(|part| self.close(part.chunk));
                return Answer::Busy;
            }
        }
        parts(run).for_each(|part| self.blocks.plug(part));
        Answer::Done
    }

    fn unplug(&mut self, run: Run) -> Answer {
        if self.blocks.state(run) != State::Plugged {
            return Answer::Wrong;
        }
        parts(run).for_each(|part| self.unplug_part(part));
        Answer::Done
    }

    fn unplug_all(&mut self) -> Answer {
        self.blocks.open_parts().into_iter().for_each(|part| self.unplug_part(part));
        Answer::Done
    }

    fn unplug_part(&mut self, part: Part) {
        self.blocks.unplug(part);
        if !self.blocks.is_open(part) {
            self.close(part.chunk);
        } else if let Err(error) = self.chunks.discard(part.chunk, &part.range()) {
            self.failure = Some(error);
        }
    }

    fn close(&mut self, chunk: usize) {
        if let Err(error) = self.chunks.close(chunk) {
            self.failure = Some(error);
        }
    }
}

impl VirtioDevice for Mem {
    fn kind(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn features(&self) -> u64 {
        UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        let [requests] = queues else { return Ok(Progress::Done) };
        for _ in 0..MAX_REQUESTS_A_CALL {
            let Some(chain) = requests.pop()? else { return Ok(Progress::Done) };
            let mut request = [0; REQUEST_LEN];
            if chain.readable.read(&mut request) < REQUEST_LEN {
                return Err(Violation::NoHeader);
            }
            if chain.writable.len() < ANSWER_LEN {
                return Err(Violation::NoAnswer);
            }
            let answer = self.obey(Request::parse(request));
            // ANSWER_LEN.
            let written = chain.writable.write(&answer.bytes()) as u32;
            requests.push(chain.head, written)?;
        }
        Ok(Progress::More)
    }

    /// What is plugged stays (section 5.15.6.2): another driver finds it by STATE requests.
    fn reset(&mut self) {}

    fn resize(&mut self, bytes: u64) -> Result<(), ResizeError> {
        let most = self.blocks.region_len();
        if bytes > most || bytes % BLOCK_LEN != 0 {
            return Err(ResizeError::Size { asked: bytes, most });
        }
        self.requested = bytes;
        self.write_config();
        self.answer_owed = true;
        self.is_awaited = self.blocks.plugged_len() != bytes;
        Ok(())
    }

    /// As often as the parent asks, so that a guest that plugs and unplugs for ever floods nobody.
    fn take_news(&mut self) -> Option<News> {
        if let Some(error) = self.failure.take() {
            return Some(News::Failure(format!("take memory from the guest: {error}")));
        }
        let plugged = self.blocks.plugged_len();
        let is_there = self.is_awaited && plugged == self.requested;
        if !self.answer_owed && !is_there {
            return None;
        }
        self.is_awaited &= !is_there;
        self.answer_owed = false;
        Some(News::Memory { plugged, requested: self.requested })
    }

    /// Memory that was plugged is not in a saved state.
    fn save(&self) -> Result<serde_json::Value, StateError> {
        if self.blocks.open_count() > 0 {
            return Err(StateError::Busy("plugged memory"));
        }
        let state = MemState { format: FORMAT, start: self.start, region_len: self.blocks.region_len() };
        serde_json::to_value(state).map_err(StateError::Device)
    }

    /// The guest knows where the region is.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = MemState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)?;
        if (state.start, state.region_len) == (self.start, self.blocks.region_len()) {
            Ok(())
        } else {
            Err(StateError::Differs("region of memory"))
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
