//! Packets between guest and host (VirtIO 1.2, section 5.10.6).

use crate::devices::virtqueue::Buffers;

pub(super) const GUEST_CID: u64 = 3;
const HOST_CID: u64 = 2;
/// VIRTIO_VSOCK_TYPE_STREAM
const STREAM: u16 = 1;

pub(super) const HEADER_LEN: usize = 44;
/// No packet carries more, in bytes (Linux' VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
pub(super) const MAX_DATA_LEN: usize = 64 * 1024;

/// "Will not receive any more" and "will not send any more" (VIRTIO_VSOCK_SHUTDOWN_F_*).
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// The two ports that tell a connection from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// VIRTIO_VSOCK_OP_*
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    fn of(number: u16) -> Option<Self> {
        [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ]
        .into_iter()
        .find(|&op| op as u16 == number)
    }
}

/// How much a side has room for, and how much it has taken in and passed on; both in bytes, the second modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

/// What a packet says, beside its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) address: Address,
    pub(super) op: Op,
    pub(super) flags: u32,
    /// Bytes of data.
    pub(super) len: u32,
    /// The sender's.
    pub(super) room: Room,
}

/// What came from the guest.
#[derive(Debug)]
pub(super) enum Incoming<'m> {
    Packet(Message, Buffers<'m>),
    /// It makes no sense, but it is clear which connection it belongs to.
    Senseless(Address),
    /// It is not for us, or not from whom it says.
    Stray,
}

impl<'m> Incoming<'m> {
    /// `None` when there is not even a header.
    pub(super) fn parse(readable: &Buffers<'m>) -> Option<Self> {
        let (header, data) = readable.split_at(HEADER_LEN)?;
        let mut bytes = [0; HEADER_LEN];
        header.read(&mut bytes);
        let mut fields = Fields(&bytes);
        let (src_cid, dst_cid) = (fields.u64()?, fields.u64()?);
        let (guest_port, host_port) = (fields.u32()?, fields.u32()?);
        let len = fields.u32()?;
        let (kind, op) = (fields.u16()?, fields.u16()?);
        let flags = fields.u32()?;
        let room = Room { buf_alloc: fields.u32()?, fwd_cnt: fields.u32()? };
        let address = Address { host_port, guest_port };
        if src_cid != GUEST_CID || dst_cid != HOST_CID {
            return Some(Self::Stray);
        }
        let data_len = usize::try_from(len).ok()?;
        let Some(op) = Op::of(op).filter(|_| kind == STREAM && data_len <= MAX_DATA_LEN) else {
            return Some(Self::Senseless(address));
        };
        // Whatever else the buffers hold, the packet ends where its header says.
        Some(match data.split_at(data_len) {
            Some((data, _)) => Self::Packet(Message { address, op, flags, len, room }, data),
            None => Self::Senseless(address),
        })
    }
}

impl Message {
    /// The header of a packet to the guest.
    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let fields: [&[u8]; 10] = [
            &HOST_CID.to_le_bytes(),
            &GUEST_CID.to_le_bytes(),
            &self.address.host_port.to_le_bytes(),
            &self.address.guest_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &STREAM.to_le_bytes(),
            &(self.op as u16).to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.room.buf_alloc.to_le_bytes(),
            &self.room.fwd_cnt.to_le_bytes(),
        ];
        for (byte, &value) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = value;
        }
        bytes
    }

    /// Tells the guest that there is no such connection.
    pub(super) fn reset(address: Address) -> Self {
        Self { address, op: Op::Reset, flags: 0, len: 0, room: Room::default() }
    }
}

/// Little-endian numbers, one after another.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.next().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.next().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.next().map(u64::from_le_bytes)
    }
}
