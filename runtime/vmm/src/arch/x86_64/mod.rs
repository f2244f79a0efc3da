//! x86_64: Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst), an MP table instead of ACPI, KVM's interrupt chips.
//!
//! There is no PIT: the guest takes its TSC frequency from kvmclock and its ticks from the local APIC's TSC deadline.

mod boot;
mod boot_params;
mod cpu;
mod cpuid;
mod layout;
mod mptable;
mod state;

pub(crate) use boot::{BootError, BootImage, load};
pub(crate) use cpu::{CpuError, CpuTemplate};
pub(crate) use layout::{DEVICE_WINDOW_LEN, MAX_DEVICES, MAX_VCPUS, SERIAL_GSI, device_gsi, device_window};
pub(crate) use state::{StateError, VcpuState, VmState, msr_numbers};

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

/// Where memory may come that a guest of this size was not booted with.
pub(crate) fn hotplug_start(len: u64) -> GuestAddress {
    let end = memory_ranges(len).last().map_or(0, |(start, len)| start.0 + *len as u64);
    GuestAddress(end.max(layout::HOLE_END).next_multiple_of(layout::HOTPLUG_ALIGNMENT))
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

    #[test]
    fn memory_that_comes_later_lies_behind_all_else() {
        assert_eq!(hotplug_start(GIB), GuestAddress(4 * GIB));
        assert_eq!(hotplug_start(layout::HOLE_START + 1), GuestAddress(6 * GIB));
        assert_eq!(hotplug_start(8 * GIB), GuestAddress(10 * GIB));
    }
}
