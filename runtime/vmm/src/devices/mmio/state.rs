//! The transport's saved state. It is as hostile as the guest that it came from: what it says goes through the same checks.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::{virtio_mmio::VIRTIO_MMIO_INT_CONFIG, virtio_ring::VIRTIO_RING_F_EVENT_IDX};

use super::{Mmio, TRANSPORT_FEATURES, negotiation::Negotiation, signal};
use crate::devices::virtqueue::Violation;

/// Changes whenever the meaning of a field does.
const FORMAT: u32 = 1;

/// A transport and its device at rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MmioState {
    format: u32,
    /// Device id.
    kind: u32,
    negotiation: NegotiationState,
    interrupt_status: u32,
    selected_queue: u32,
    queues: Vec<QueueState>,
    /// The configuration space that the driver knows.
    config: Vec<u8>,
    /// The device's own state, in its own format.
    device: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NegotiationState {
    pub(super) accepted: u64,
    pub(super) offered_half: u32,
    pub(super) accepted_half: u32,
    pub(super) status: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct QueueState {
    pub(super) size: u32,
    pub(super) descriptors: u64,
    pub(super) driver_area: u64,
    pub(super) device_area: u64,
    pub(super) ready: bool,
    pub(super) next_available: u16,
    pub(super) next_used: u16,
}

#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error("saved state has format {saved}, this program reads {own}")]
    Format { saved: u32, own: u32 },
    #[error("saved state is of device id {saved}, the device here is {own}")]
    Kind { saved: u32, own: u32 },
    #[error("saved negotiation could not have come about")]
    Negotiation,
    #[error("saved state has {saved} queues, the device here {own}")]
    QueueCount { saved: usize, own: usize },
    #[error("saved queue {0}")]
    Queue(usize, #[source] Violation),
    #[error("saved state of the device itself")]
    Device(#[source] serde_json::Error),
    #[error("saved state was made with another {0}")]
    Differs(&'static str),
    #[error("{0} cannot be saved")]
    Busy(&'static str),
}

impl StateError {
    /// Refuses what was saved in another format.
    pub(crate) fn unless_format(saved: u32, own: u32) -> Result<(), Self> {
        if saved == own { Ok(()) } else { Err(Self::Format { saved, own }) }
    }
}

impl Mmio {
    /// The caller has stopped the vCPUs and the event loop: nothing is under way.
    pub(crate) fn save(&self) -> Result<MmioState, StateError> {
        let (selected_queue, queues) = self.queues.saved();
        Ok(MmioState {
            format: FORMAT,
            kind: self.device.kind(),
            negotiation: self.negotiation.saved(),
            interrupt_status: self.interrupt_status,
            selected_queue,
            queues,
            config: self.device.config().to_vec(),
            device: self.device.save()?,
        })
    }

    /// Takes up a saved state. The transport is fresh and not yet in the event loop; after an error it is of no use.
    pub(crate) fn restore(&mut self, state: &MmioState) -> Result<(), StateError> {
        StateError::unless_format(state.format, FORMAT)?;
        if state.kind != self.device.kind() {
            return Err(StateError::Kind { saved: state.kind, own: self.device.kind() });
        }
        let offered = self.device.features() | TRANSPORT_FEATURES;
        self.negotiation =
            Negotiation::resumed(offered, &state.negotiation).ok_or(StateError::Negotiation)?;
        let event_idx = self.negotiation.has_accepted(VIRTIO_RING_F_EVENT_IDX);
        self.queues.resume(state.selected_queue, &state.queues, &self.memory.now(), event_idx)?;
        self.device.restore(&state.device)?;
        self.interrupt_status = state.interrupt_status;
        // A disk that was empty has a file now, say.
        if self.device.config() != state.config {
            self.config_generation = self.config_generation.wrapping_add(1);
            if self.negotiation.is_live() {
                self.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
            }
        }
        if self.interrupt_status != 0 {
            // It may have been on its way to the vCPU; one too many is harmless.
            signal(&self.interrupt);
        }
        Ok(())
    }
}
