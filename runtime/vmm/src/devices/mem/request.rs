//! `struct virtio_mem_req` and `struct virtio_mem_resp` (VirtIO 1.2, section 5.15.6).

use super::blocks::State;

pub(super) const REQUEST_LEN: usize = 24;
pub(super) const ANSWER_LEN: usize = 10;

/// Blocks as the driver names them: nothing of it is checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alleged {
    pub(super) address: u64,
    pub(super) count: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Plug(Alleged),
    Unplug(Alleged),
    UnplugAll,
    State(Alleged),
}

impl Request {
    /// `None` for a type that there is not. All have the blocks at the same place.
    pub(super) fn parse(bytes: [u8; REQUEST_LEN]) -> Option<Self> {
        let [t0, t1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, c0, c1, ..] = bytes;
        let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        let alleged = Alleged { address, count: u16::from_le_bytes([c0, c1]) };
        match u16::from_le_bytes([t0, t1]) {
            0 => Some(Self::Plug(alleged)),
            1 => Some(Self::Unplug(alleged)),
            2 => Some(Self::UnplugAll),
            3 => Some(Self::State(alleged)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    State(State),
    /// More than is asked of the driver.
    Refused,
    /// The host cannot now.
    Busy,
    /// The request makes no sense.
    Wrong,
}

impl Answer {
    pub(super) fn bytes(self) -> [u8; ANSWER_LEN] {
        let (kind, state) = match self {
            Self::Done | Self::State(State::Plugged) => (0, 0),
            Self::State(State::Unplugged) => (0, 1),
            Self::State(State::Mixed) => (0, 2),
            Self::Refused => (1, 0),
            Self::Busy => (2, 0),
            Self::Wrong => (3, 0),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}
