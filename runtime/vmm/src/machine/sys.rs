//! From the parent's descriptor to KVM.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_ioctls::Kvm;

pub(super) fn kvm(fd: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open and owned, and is given away here. If it is no /dev/kvm, the first ioctl fails.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}
