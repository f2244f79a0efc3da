//! What the driver reads of a disk (VirtIO 1.2, section 5.2.4).

use super::{HOLE_ALIGNMENT_SECTORS, MAX_HOLE_SECTORS, MAX_HOLES, MAX_SEGMENT_LEN, SECTOR_LEN};

pub(super) const CONFIG_LEN: usize = 60;

/// `struct virtio_blk_config` by offset.
pub(super) fn config(sectors: u64, queue_sizes: &[u16]) -> [u8; CONFIG_LEN] {
    // Without the request's header and status.
    let max_segments = queue_sizes.first().map_or(1, |&size| u32::from(size) - 2);
    let mut config = [0; CONFIG_LEN];
    let fields: [(usize, &[u8]); 10] = [
        (0, &sectors.to_le_bytes()),
        (8, &MAX_SEGMENT_LEN.to_le_bytes()),
        (12, &max_segments.to_le_bytes()),
        (20, &(SECTOR_LEN as u32).to_le_bytes()),
        (36, &MAX_HOLE_SECTORS.to_le_bytes()),
        (40, &MAX_HOLES.to_le_bytes()),
        (44, &HOLE_ALIGNMENT_SECTORS.to_le_bytes()),
        (48, &MAX_HOLE_SECTORS.to_le_bytes()),
        (52, &MAX_HOLES.to_le_bytes()),
        // write_zeroes_may_unmap
        (56, &[1]),
    ];
    for (offset, bytes) in fields {
        if let Some(field) = config.get_mut(offset..offset + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
    config
}
