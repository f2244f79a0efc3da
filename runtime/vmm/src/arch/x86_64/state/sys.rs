//! The one call that takes a structure whose length KVM alone knows.

use kvm_bindings::kvm_xsave;
use kvm_ioctls::{Error, VcpuFd};

/// KVM_SET_XSAVE.
pub(super) fn set_xsave(vcpu: &VcpuFd, state: &kvm_xsave) -> Result<(), Error> {
    // SAFETY: KVM reads as many bytes as the guest's state has, more than the structure's 4096 only when this process has asked for a
    // larger one by arch_prctl(2), ARCH_REQ_XCOMP_GUEST_PERM, which it never does.
    unsafe { vcpu.set_xsave(state) }
}
