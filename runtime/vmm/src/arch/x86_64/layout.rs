//! Where things lie in the guest's physical address space, and on which interrupts.

use std::ops::Range;

/// As many as the MP table has room for, and the guest's kernel is built for.
pub(crate) const MAX_VCPUS: u8 = 64;

/// Boot structures, all below 640 KiB and in pages of their own where they need to be.
pub(super) const GDT: u64 = 0x500;
/// `__BOOT_CS` and `__BOOT_DS` of the boot protocol, and a task segment, which VMX wants.
pub(super) const GDT_CODE: u16 = 0x10;
pub(super) const GDT_DATA: u16 = 0x18;
pub(super) const GDT_TSS: u16 = 0x20;
/// The last byte of the table.
pub(super) const GDT_LIMIT: u16 = 0x27;
pub(super) const ZERO_PAGE: u64 = 0x7000;
pub(super) const BOOT_STACK: u64 = 0x8ff0;
pub(super) const PML4: u64 = 0x9000;
pub(super) const PDPT: u64 = 0xa000;
pub(super) const PAGE_DIRECTORY: u64 = 0xb000;
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Linux's own limit (COMMAND_LINE_SIZE), in bytes with the final NUL.
pub(super) const COMMAND_LINE_LEN: usize = 2048;

/// The MP table; from here on conventional memory is reserved.
pub(super) const MP_TABLE: u64 = 0x9_f000;
/// The last KiB of conventional memory is one of three places where a kernel looks for the pointer to the MP table.
pub(super) const MP_POINTER: u64 = 0x9_fc00;

/// Where memory begins again after the legacy area.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

/// What lies between is not memory.
pub(super) const HOLE_START: u64 = 0xd000_0000;
pub(super) const HOLE_END: u64 = 0x1_0000_0000;

/// The largest of the memory blocks in which Linux takes memory up (arch/x86/mm/init_64.c, MAX_BLOCK_SIZE): one that is there in part
/// cannot be used.
pub(super) const HOTPLUG_ALIGNMENT: u64 = 2 << 30;

/// KVM's emulated IOAPIC and local APICs; their place is fixed by KVM.
pub(super) const IOAPIC: u64 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u64 = 0xfee0_0000;
/// Three pages that Intel's VMX needs for real mode (KVM_SET_TSS_ADDR).
pub(super) const TSS: u64 = 0xfffb_d000;

/// Pins of KVM's IOAPIC.
pub(super) const IOAPIC_PINS: u8 = 24;

/// COM1's, by the PC's tradition.
pub(crate) const SERIAL_GSI: u32 = 4;

const FIRST_DEVICE_GSI: u32 = 5;

/// As many as there are IOAPIC pins left.
pub(crate) const MAX_DEVICES: usize = IOAPIC_PINS as usize - FIRST_DEVICE_GSI as usize;

/// The registers of one virtio-mmio device, in bytes.
pub(crate) const DEVICE_WINDOW_LEN: u64 = 0x1000;

/// The registers of the n-th device.
pub(crate) fn device_window(index: usize) -> Range<u64> {
    let start = HOLE_START + index as u64 * DEVICE_WINDOW_LEN;
    start..start + DEVICE_WINDOW_LEN
}

/// The interrupt of the n-th device; there are at most [`MAX_DEVICES`].
pub(crate) fn device_gsi(index: usize) -> u32 {
    FIRST_DEVICE_GSI + index as u32
}
