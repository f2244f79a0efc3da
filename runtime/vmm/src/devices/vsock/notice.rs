//! The notice that all connections are gone, after a restore (VirtIO 1.2, section 5.10.6.7: VIRTIO_VSOCK_EVENT_TRANSPORT_RESET).

use crate::devices::virtqueue::{Violation, Virtqueue};

/// `struct virtio_vsock_event` with the only id that there is.
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();

/// How far the guest is with it. It resets every connection that it has when it hears the notice, so none may begin before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Notice {
    /// There was nothing to tell, or the guest has heard it.
    #[default]
    Heard,
    Owed,
    /// The guest has it, and had given so many buffers by then; it gives the buffer back when it has acted.
    Told {
        given: u16,
    },
}

impl Notice {
    pub(super) fn is_heard(self) -> bool {
        self == Self::Heard
    }

    pub(super) fn advance(&mut self, queue: &mut Virtqueue<'_>) -> Result<(), Violation> {
        match *self {
            Self::Heard => {}
            Self::Owed => {
                let Some(chain) = queue.pop()? else { return Ok(()) };
                if chain.writable.write(&TRANSPORT_RESET) < TRANSPORT_RESET.len() {
                    return Err(Violation::NoAnswer);
                }
                *self = Self::Told { given: queue.given()? };
                queue.push(chain.head, TRANSPORT_RESET.len() as u32)?;
                // The driver announces a buffer only when we have seen all others.
                let mut seen = 0;
                while queue.pop()?.is_some() {
                    seen += 1;
                }
                queue.unpop(seen);
            }
            Self::Told { given } => {
                if queue.given()? != given {
                    *self = Self::Heard;
                }
            }
        }
        Ok(())
    }
}
