//! virtio-rng: the host's random numbers (VirtIO 1.2, section 5.4).

use std::io;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::VolatileSlice;

use super::{Progress, StateError, VirtioDevice, sys, virtqueue::Violation, virtqueue::Virtqueue};

pub(super) const SYSCALLS: &[libc::c_long] = &[libc::SYS_getrandom];

const FORMAT: u32 = 1;
const QUEUE_SIZES: &[u16] = &[16];
/// A chain can name gigabytes, and filling them would hold up the event loop (firecracker's MAX_ENTROPY_BYTES).
const MAX_REQUEST_LEN: usize = 64 * 1024;
const MAX_REQUESTS_A_CALL: usize = 4;

#[derive(Debug)]
pub(super) struct Rng;

#[derive(Debug, Serialize, Deserialize)]
struct RngState {
    format: u32,
}

impl VirtioDevice for Rng {
    fn kind(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        let [requests] = queues else { return Ok(Progress::Done) };
        for _ in 0..MAX_REQUESTS_A_CALL {
            let Some(chain) = requests.pop()? else { return Ok(Progress::Done) };
            let room = chain.writable.up_to(MAX_REQUEST_LEN);
            if room.len() == 0 {
                // The device must use at least one byte (section 5.4.6.2).
                return Err(Violation::NoAnswer);
            }
            requests.push(chain.head, fill(room.slices()))?;
        }
        Ok(Progress::More)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<serde_json::Value, StateError> {
        serde_json::to_value(RngState { format: FORMAT }).map_err(StateError::Device)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = RngState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)
    }
}

/// Fills from the beginning; returns the length of what is random.
fn fill(slices: &[VolatileSlice<'_>]) -> u32 {
    let mut filled = 0;
    for slice in slices {
        let Ok(count) = sys::random(slice) else { break };
        filled += count;
        if count < slice.len() {
            break;
        }
    }
    // At most MAX_REQUEST_LEN.
    filled as u32
}

#[cfg(test)]
mod tests;
