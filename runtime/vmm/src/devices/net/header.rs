//! `struct virtio_net_hdr` (VirtIO 1.2, section 5.1.6), which stands before each frame in both directions.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

pub(super) const HEADER_LEN: usize = 12;
const BUFFER_COUNT: std::ops::Range<usize> = 10..12;

/// What the host's kernel is told of a frame: holding one proves that it asks for nothing that was not negotiated.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header([u8; HEADER_LEN]);

impl Header {
    /// `None` for a frame that wants what the driver has not agreed to.
    pub(super) fn from_driver(header: [u8; HEADER_LEN], features: u64) -> Option<Self> {
        let has = |feature: u32| features & 1 << feature != 0;
        let [flags, segmentation, ..] = header;
        let needs_checksum = flags & VIRTIO_NET_HDR_F_NEEDS_CSUM as u8 != 0;
        let may_segment = match u32::from(segmentation) {
            VIRTIO_NET_HDR_GSO_NONE => true,
            // Section 5.1.6.2: segments need checksums.
            VIRTIO_NET_HDR_GSO_TCPV4 => needs_checksum && has(VIRTIO_NET_F_HOST_TSO4),
            VIRTIO_NET_HDR_GSO_TCPV6 => needs_checksum && has(VIRTIO_NET_F_HOST_TSO6),
            _ => false,
        };
        if !may_segment || needs_checksum && !has(VIRTIO_NET_F_CSUM) {
            return None;
        }
        let mut told = header;
        let [flags, ..] = &mut told;
        *flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
        // It has no meaning in this direction.
        set_buffer_count(&mut told, 0);
        Some(Self(told))
    }

    pub(super) fn bytes(&self) -> &[u8; HEADER_LEN] {
        &self.0
    }
}

/// Over how many of the driver's buffers a frame goes (section 5.1.6.4): 1 also where they cannot be merged.
pub(super) fn set_buffer_count(frame: &mut [u8], count: u16) {
    if let Some(field) = frame.get_mut(BUFFER_COUNT) {
        field.copy_from_slice(&count.to_le_bytes());
    }
}

/// What a driver with these features takes, in the tap's terms. Without checksums there are no segments (section 5.1.3.1): the
/// tap would refuse them.
pub(super) fn tap_offloads(features: u64) -> libc::c_uint {
    if features & 1 << VIRTIO_NET_F_GUEST_CSUM == 0 {
        return 0;
    }
    [
        (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
        (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    ]
    .into_iter()
    .filter(|(feature, _)| features & 1 << feature != 0)
    .fold(0, |offloads, (_, offload)| offloads | offload)
}
