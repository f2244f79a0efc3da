//! A signal's handler, and the parts of `kvm_run` whose meaning depends on the reason of an exit.

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, kvm_run};

/// The signal has done its work when it has interrupted KVM_RUN.
pub(super) extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// After KVM_EXIT_INTERNAL_ERROR: the suberror and what KVM adds to it (Documentation/virt/kvm/api.rst, section 5).
pub(super) fn internal_error(run: &kvm_run) -> Option<(u32, Vec<u64>)> {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: KVM has filled this member for this exit reason; it is plain integers, of which any bit pattern is one.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let data = internal.data.iter().take(internal.ndata as usize).copied().collect();
    Some((internal.suberror, data))
}
