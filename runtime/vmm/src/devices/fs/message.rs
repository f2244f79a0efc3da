//! The headers of FUSE messages (`fuse_in_header` and `fuse_out_header` of linux/fuse.h): all of FUSE that the VMM knows.

use crate::devices::virtqueue::{Buffers, Violation};

pub(super) const REQUEST_HEADER_LEN: usize = 40;
pub(super) const REPLY_HEADER_LEN: usize = 16;
/// A request of INTERRUPT names another one by its number.
const INTERRUPT_LEN: usize = REQUEST_HEADER_LEN + 8;

const FUSE_FORGET: u32 = 2;
const FUSE_INIT: u32 = 26;
const FUSE_INTERRUPT: u32 = 36;
const FUSE_BATCH_FORGET: u32 = 42;

/// The beginning of a request, copied out of guest memory, where it may change at any time.
pub(super) struct Request {
    bytes: [u8; INTERRUPT_LEN],
    /// As much of `bytes` as is part of the request and goes before what stays in guest memory.
    copied: usize,
}

impl Request {
    pub(super) fn read(readable: &Buffers<'_>) -> Result<Self, Violation> {
        let mut bytes = [0; INTERRUPT_LEN];
        let copied = readable.read(&mut bytes);
        if copied < REQUEST_HEADER_LEN {
            return Err(Violation::NoHeader);
        }
        let mut request = Self { bytes, copied };
        if request.opcode() != FUSE_INTERRUPT {
            request.copied = REQUEST_HEADER_LEN;
        }
        Ok(request)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.copied).unwrap_or_default()
    }

    /// In bytes, header and all.
    pub(super) fn len(&self) -> u32 {
        u32_at(&self.bytes, 0)
    }

    fn opcode(&self) -> u32 {
        u32_at(&self.bytes, 4)
    }

    pub(super) fn unique(&self) -> u64 {
        u64_at(&self.bytes, 8)
    }

    pub(super) fn set_unique(&mut self, unique: u64) {
        set_u64(&mut self.bytes, 8, unique);
    }

    /// Begins a session.
    pub(super) fn is_init(&self) -> bool {
        self.opcode() == FUSE_INIT
    }

    pub(super) fn is_interrupt(&self) -> bool {
        self.opcode() == FUSE_INTERRUPT
    }

    /// Forgetting is not answered, nor is an interrupt (linux/Documentation/filesystems/fuse.rst).
    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.opcode(), FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT)
    }

    /// The request that an INTERRUPT is about.
    pub(super) fn target(&self) -> u64 {
        u64_at(&self.bytes, REQUEST_HEADER_LEN)
    }

    pub(super) fn set_target(&mut self, unique: u64) {
        set_u64(&mut self.bytes, REQUEST_HEADER_LEN, unique);
    }
}

/// The header of a reply.
pub(super) struct Reply(pub(super) [u8; REPLY_HEADER_LEN]);

impl Reply {
    /// A request has failed; `errno` as in errno.h.
    pub(super) fn failure(unique: u64, errno: i32) -> Self {
        let mut reply = Self([0; REPLY_HEADER_LEN]);
        let length = (REPLY_HEADER_LEN as u32).to_le_bytes();
        let error = (-errno).to_le_bytes();
        for (byte, value) in reply.0.iter_mut().zip(length.into_iter().chain(error)) {
            *byte = value;
        }
        reply.set_unique(unique);
        reply
    }

    /// In bytes, header and all.
    pub(super) fn len(&self) -> u32 {
        u32_at(&self.0, 0)
    }

    pub(super) fn unique(&self) -> u64 {
        u64_at(&self.0, 8)
    }

    pub(super) fn set_unique(&mut self, unique: u64) {
        set_u64(&mut self.0, 8, unique);
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes.get(offset..offset + 4).and_then(|field| field.try_into().ok());
    u32::from_le_bytes(field.unwrap_or_default())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let field = bytes.get(offset..offset + 8).and_then(|field| field.try_into().ok());
    u64::from_le_bytes(field.unwrap_or_default())
}

fn set_u64(bytes: &mut [u8], offset: usize, value: u64) {
    if let Some(field) = bytes.get_mut(offset..offset + 8) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}
