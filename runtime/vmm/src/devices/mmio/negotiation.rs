//! Feature negotiation and the status register (VirtIO 1.2, sections 2.1, 2.2 and 3.1.1).

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};

/// The driver's way through the status register: each step adds the next bit and keeps the earlier ones.
const STEPS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_DRIVER_OK,
];

/// What a write to the status register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// The driver is ready: the device may begin.
    Start,
    Reset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Negotiation {
    offered: u64,
    accepted: u64,
    /// Which half of the features is read and written: 0 or 1; any other has no bits.
    offered_half: u32,
    accepted_half: u32,
    status: u32,
}

impl Negotiation {
    pub(super) fn offering(features: u64) -> Self {
        Self { offered: features, accepted: 0, offered_half: 0, accepted_half: 0, status: 0 }
    }

    /// Takes up a saved negotiation; `None` when no driver could have brought it about.
    pub(super) fn resumed(offered: u64, saved: &super::state::NegotiationState) -> Option<Self> {
        let negotiation = Self {
            offered,
            accepted: saved.accepted,
            offered_half: saved.offered_half,
            accepted_half: saved.accepted_half,
            status: saved.status,
        };
        let steps = saved.status & !(VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET);
        let in_order = (0..=STEPS.len()).any(|count| STEPS.iter().take(count).sum::<u32>() == steps);
        let agreed = !negotiation.has(VIRTIO_CONFIG_S_FEATURES_OK) || negotiation.is_acceptable();
        (in_order && agreed).then_some(negotiation)
    }

    pub(super) fn saved(&self) -> super::state::NegotiationState {
        super::state::NegotiationState {
            accepted: self.accepted,
            offered_half: self.offered_half,
            accepted_half: self.accepted_half,
            status: self.status,
        }
    }

    pub(super) fn status(&self) -> u32 {
        self.status
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn has_accepted(&self, feature: u32) -> bool {
        self.accepted & 1 << feature != 0
    }

    /// Queues are set up between the agreement on features and the driver's last step, and not after a failure.
    pub(super) fn takes_queues(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK)
            && !self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has(VIRTIO_CONFIG_S_FAILED)
            && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET)
    }

    /// The device may touch its queues.
    pub(super) fn is_live(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has(VIRTIO_CONFIG_S_FAILED)
            && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET)
    }

    pub(super) fn select_offered(&mut self, half: u32) {
        self.offered_half = half;
    }

    pub(super) fn select_accepted(&mut self, half: u32) {
        self.accepted_half = half;
    }

    pub(super) fn offered_half(&self) -> u32 {
        match self.offered_half {
            0 => self.offered as u32,
            1 => (self.offered >> 32) as u32,
            _ => 0,
        }
    }

    pub(super) fn accept_half(&mut self, bits: u32) {
        if !self.has(VIRTIO_CONFIG_S_DRIVER) || self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let shift = match self.accepted_half {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.accepted = self.accepted & !(u64::from(u32::MAX) << shift) | u64::from(bits) << shift;
    }

    /// A driver's write to the status register. A step that is out of order, or that would take one back, is ignored.
    pub(super) fn set_status(&mut self, value: u32) -> Step {
        if value == 0 {
            *self = Self::offering(self.offered);
            return Step::Reset;
        }
        if value & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status |= VIRTIO_CONFIG_S_FAILED;
            return Step::Nothing;
        }
        let added = value & !self.status;
        let next = STEPS.into_iter().find(|&step| !self.has(step));
        if self.status & !value & !VIRTIO_CONFIG_S_NEEDS_RESET != 0 || next != Some(added) {
            return Step::Nothing;
        }
        if added == VIRTIO_CONFIG_S_FEATURES_OK && !self.is_acceptable() {
            return Step::Nothing;
        }
        self.status |= added;
        if added == VIRTIO_CONFIG_S_DRIVER_OK { Step::Start } else { Step::Nothing }
    }

    /// What the device itself adds.
    pub(super) fn add_status(&mut self, bit: u32) {
        self.status |= bit;
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    /// Nothing but what was offered, and no legacy driver.
    fn is_acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.has_accepted(VIRTIO_F_VERSION_1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

    fn offering(features: u64) -> Negotiation {
        Negotiation::offering(features | VERSION_1)
    }

    fn accept(negotiation: &mut Negotiation, features: u64) {
        for half in [0, 1] {
            negotiation.select_accepted(half);
            negotiation.accept_half((features >> (32 * half)) as u32);
        }
    }

    #[test]
    fn the_specified_way_leads_to_a_live_device() {
        let mut negotiation = offering(1 << 5);
        assert_eq!(negotiation.set_status(1), Step::Nothing);
        assert_eq!(negotiation.set_status(3), Step::Nothing);
        accept(&mut negotiation, VERSION_1 | 1 << 5);
        assert_eq!(negotiation.set_status(11), Step::Nothing);
        assert!(negotiation.takes_queues());
        assert_eq!(negotiation.set_status(15), Step::Start);
        assert!(negotiation.is_live() && !negotiation.takes_queues());
        assert_eq!(negotiation.accepted(), VERSION_1 | 1 << 5);
    }

    #[test]
    fn a_feature_that_was_not_offered_is_not_agreed_to() {
        for features in [VERSION_1 | 1 << 6, VERSION_1 | 1 << 63, 0] {
            let mut negotiation = offering(1 << 5);
            negotiation.set_status(1);
            negotiation.set_status(3);
            accept(&mut negotiation, features);
            negotiation.set_status(11);
            assert_eq!(negotiation.status(), 3, "features {features:#x}");
        }
    }

    #[test]
    fn features_stand_once_they_are_agreed_to() {
        let mut negotiation = offering(1 << 5);
        negotiation.set_status(1);
        accept(&mut negotiation, VERSION_1);
        assert_eq!(negotiation.accepted(), 0, "before the driver has said that it is one");
        negotiation.set_status(3);
        accept(&mut negotiation, VERSION_1);
        negotiation.set_status(11);
        accept(&mut negotiation, 1 << 5);
        assert_eq!(negotiation.accepted(), VERSION_1);
    }

    #[test]
    fn steps_out_of_order_are_ignored() {
        let cases: [(&[u32], &[u32]); 3] =
            [(&[], &[2, 3, 4, 8, 15, 16]), (&[1], &[2, 5, 9, 0x13]), (&[1, 3], &[1, 2, 7, 15])];
        for (way, wrong) in cases {
            for &value in wrong {
                let mut negotiation = offering(0);
                for &step in way {
                    negotiation.set_status(step);
                }
                let before = negotiation.clone();
                assert_eq!(negotiation.set_status(value), Step::Nothing);
                assert_eq!(negotiation, before, "{value} after {way:?}");
            }
        }
    }

    #[test]
    fn a_reset_forgets_everything_but_the_offer() {
        let mut negotiation = offering(1 << 5);
        negotiation.set_status(1);
        negotiation.set_status(3);
        accept(&mut negotiation, VERSION_1);
        negotiation.add_status(VIRTIO_CONFIG_S_NEEDS_RESET);
        assert_eq!(negotiation.set_status(0), Step::Reset);
        assert_eq!(negotiation, offering(1 << 5));
    }

    #[test]
    fn a_failed_driver_gets_no_further() {
        let mut negotiation = offering(0);
        negotiation.set_status(1);
        negotiation.set_status(0x83);
        assert_eq!(negotiation.status(), 0x81);
        negotiation.set_status(3);
        negotiation.set_status(11);
        assert!(!negotiation.takes_queues() && !negotiation.is_live());
    }
}
