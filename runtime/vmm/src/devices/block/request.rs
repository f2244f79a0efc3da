//! A driver's request (VirtIO 1.2, section 5.2.6), checked against the disk before anything is done.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::{Cost, MAX_DATA_LEN, MAX_HOLE_SECTORS, MAX_HOLES, SECTOR_LEN};
use crate::devices::virtqueue::{Buffers, Violation};

/// Bytes of the string that identifies a disk.
pub(super) const ID_LEN: usize = 20;
const HEADER_LEN: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`
const RANGE_LEN: usize = 16;
const STATUS_LEN: usize = 1;

/// A request that lies within the disk.
#[derive(Debug)]
pub(super) struct Request<'m> {
    pub(super) operation: Operation,
    /// What the driver sends beyond the header.
    pub(super) data: Buffers<'m>,
    /// Where the answer goes, without its status.
    pub(super) answer: Buffers<'m>,
}

/// Offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read(u64),
    Write(u64),
    Flush,
    Identify,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
}

/// A run of bytes within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) may_unmap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Unsupported,
    Invalid,
}

/// The last writable byte is the status, wherever the driver has cut its buffers.
pub(super) fn answer_and_status<'m>(writable: &Buffers<'m>) -> Result<(Buffers<'m>, Buffers<'m>), Violation> {
    let answer_len = writable.len().checked_sub(STATUS_LEN).ok_or(Violation::NoAnswer)?;
    writable.split_at(answer_len).ok_or(Violation::NoAnswer)
}

impl<'m> Request<'m> {
    pub(super) fn parse(readable: &Buffers<'m>, answer: Buffers<'m>, sectors: u64) -> Result<Self, Refusal> {
        let (header, data) = readable.split_at(HEADER_LEN).ok_or(Refusal::Invalid)?;
        let mut bytes = [0; HEADER_LEN];
        header.read(&mut bytes);
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        let sector = u64::from_le_bytes(sector);
        let operation = match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => Operation::Read(transfer_offset(sector, answer.len(), sectors)?),
            VIRTIO_BLK_T_OUT => Operation::Write(transfer_offset(sector, data.len(), sectors)?),
            VIRTIO_BLK_T_FLUSH => Operation::Flush,
            VIRTIO_BLK_T_GET_ID if answer.len() >= ID_LEN => Operation::Identify,
            VIRTIO_BLK_T_GET_ID => return Err(Refusal::Invalid),
            VIRTIO_BLK_T_DISCARD => Operation::Discard(ranges(&data, sectors, 0)?),
            VIRTIO_BLK_T_WRITE_ZEROES => {
                Operation::WriteZeroes(ranges(&data, sectors, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)?)
            }
            _ => return Err(Refusal::Unsupported),
        };
        Ok(Self { operation, data, answer })
    }

    /// What counts against limits, as with the kernel's: what is not of sectors is free, and a hole is a sector.
    pub(super) fn cost(&self) -> Option<Cost> {
        match self.operation {
            Operation::Read(_) => Some(Cost::Read(self.answer.len())),
            Operation::Write(_) => Some(Cost::Written(self.data.len())),
            Operation::Discard(_) | Operation::WriteZeroes(_) => Some(Cost::Written(SECTOR_LEN as usize)),
            Operation::Flush | Operation::Identify => None,
        }
    }
}

/// Where a transfer of whole sectors begins that ends within the disk.
fn transfer_offset(sector: u64, len: usize, sectors: u64) -> Result<u64, Refusal> {
    let count = len as u64 / SECTOR_LEN;
    if len > MAX_DATA_LEN || len as u64 % SECTOR_LEN != 0 {
        return Err(Refusal::Invalid);
    }
    byte_offset(sector, count, sectors)
}

fn byte_offset(sector: u64, count: u64, sectors: u64) -> Result<u64, Refusal> {
    let end = sector.checked_add(count).ok_or(Refusal::Invalid)?;
    if end > sectors {
        return Err(Refusal::Invalid);
    }
    // `sectors` come from a file's length in bytes, so this cannot overflow.
    sector.checked_mul(SECTOR_LEN).ok_or(Refusal::Invalid)
}

/// The ranges of a discard or write-zeroes request; flags other than `known_flags` are refused (section 5.2.6.2).
fn ranges(data: &Buffers<'_>, sectors: u64, known_flags: u32) -> Result<Vec<Range>, Refusal> {
    let count = data.len() / RANGE_LEN;
    if count == 0 || count > MAX_HOLES as usize || data.len() % RANGE_LEN != 0 {
        return Err(Refusal::Invalid);
    }
    let mut bytes = [0; RANGE_LEN * MAX_HOLES as usize];
    data.read(&mut bytes);
    bytes.chunks_exact(RANGE_LEN).take(count).map(|bytes| range(bytes, sectors, known_flags)).collect()
}

fn range(bytes: &[u8], sectors: u64, known_flags: u32) -> Result<Range, Refusal> {
    let Ok([s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..]) = <[u8; RANGE_LEN]>::try_from(bytes)
    else {
        return Err(Refusal::Invalid);
    };
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let count = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes(flags);
    if flags & !known_flags != 0 {
        return Err(Refusal::Unsupported);
    }
    if count > MAX_HOLE_SECTORS {
        return Err(Refusal::Invalid);
    }
    Ok(Range {
        offset: byte_offset(sector, count.into(), sectors)?,
        len: u64::from(count) * SECTOR_LEN,
        may_unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
    })
}
