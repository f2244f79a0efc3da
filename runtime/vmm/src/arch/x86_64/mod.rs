//! x86_64: Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst), an MP table instead of ACPI, KVM's interrupt chips.
//!
//! There is no PIT: the guest takes its TSC frequency from kvmclock and its ticks from the local APIC's TSC deadline.

mod boot;
mod boot_params;
mod cpu;
mod cpuid;
mod layout;
mod mptable;

pub(crate) use boot::{BootError, BootImage, load};
pub(crate) use cpu::{CpuError, CpuTemplate};
pub(crate) use layout::{DEVICE_WINDOW_LEN, MAX_DEVICES, MAX_VCPUS, SERIAL_GSI, device_gsi, device_window};

use kvm_ioctls::VmFd;
use vm_memory::GuestAddress;

/// Where guest memory of this size lies: below the hole that devices and interrupt chips use, the rest above 4 GiB.
pub(crate) fn memory_ranges(len: u64) -> Vec<(GuestAddress, usize)> {
    let low = len.min(layout::HOLE_START);
    let high = len - low;
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if high > 0 {
        ranges.push((GuestAddress(layout::HOLE_END), high as usize));
    }
    ranges
}

/// What a VM needs before it has vCPUs.
pub(crate) fn prepare_vm(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    vm.set_tss_address(layout::TSS as usize)?;
    vm.create_irq_chip()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_leaves_the_hole_out() {
        let hole = layout::HOLE_START as usize;
        assert_eq!(memory_ranges(GIB), [(GuestAddress(0), GIB as usize)]);
        assert_eq!(memory_ranges(layout::HOLE_START), [(GuestAddress(0), hole)]);
        assert_eq!(
            memory_ranges(8 * GIB),
            [(GuestAddress(0), hole), (GuestAddress(4 * GIB), 8 * GIB as usize - hole)]
        );
    }
}
