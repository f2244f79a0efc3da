//! virtio-balloon, for its free page reporting alone (VirtIO 1.2, section 5.5.6.7): the driver tells of memory that nobody in the guest
//! uses, and the host has it back until it is touched again. The balloon itself stays empty.
//!
//! What the guest then finds there is what was saved, for a guest that goes on from a file, and zeroes otherwise: a driver that relies on
//! one of them would ask for VIRTIO_BALLOON_F_PAGE_POISON, which is not offered.

use std::io;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use super::{
    Progress, StateError, VirtioDevice,
    virtqueue::{Violation, Virtqueue},
};

/// madvise(2) is the allocator's, too.
pub(super) const SYSCALLS: &[libc::c_long] = &[];

const FORMAT: u32 = 1;
/// To inflate, to deflate, and to report: queues of features that are not offered have no number (as all drivers have it).
const QUEUE_SIZES: &[u16] = &[64, 64, 64];
const REPORTS: usize = 2;
/// VIRTIO_BALLOON_F_PAGE_REPORTING
const PAGE_REPORTING: u64 = 1 << 5;
/// `struct virtio_balloon_config`: how many pages the balloon is to have, how many it has, and two of features that are not offered.
const CONFIG: [u8; 16] = [0; 16];
/// A report has 32 ranges with Linux, and to take back what is not there costs little.
const MAX_REPORTS_A_CALL: usize = 8;

#[derive(Debug)]
pub(super) struct Balloon;

#[derive(Debug, Serialize, Deserialize)]
struct BalloonState {
    format: u32,
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &CONFIG
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, queues: &mut [Virtqueue<'_>]) -> Result<Progress, Violation> {
        let mut progress = Progress::Done;
        for (index, queue) in queues.iter_mut().enumerate() {
            progress = progress.and(serve(queue, index == REPORTS)?);
        }
        Ok(progress)
    }

    fn reset(&mut self) {}

    fn save(&self) -> Result<serde_json::Value, StateError> {
        serde_json::to_value(BalloonState { format: FORMAT }).map_err(StateError::Device)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), StateError> {
        let state = BalloonState::deserialize(state).map_err(StateError::Device)?;
        StateError::unless_format(state.format, FORMAT)
    }
}

/// Nobody has asked for pages in the other queues, so that nothing follows from them.
fn serve(queue: &mut Virtqueue<'_>, has_reports: bool) -> Result<Progress, Violation> {
    for _ in 0..MAX_REPORTS_A_CALL {
        let Some(chain) = queue.pop()? else { return Ok(Progress::Done) };
        if has_reports {
            queue.discard(&chain.places)?;
        }
        queue.push(chain.head, 0)?;
    }
    Ok(Progress::More)
}

#[cfg(test)]
mod tests;
