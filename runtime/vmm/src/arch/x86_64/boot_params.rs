//! The "zero page": what a boot loader tells Linux (Documentation/arch/x86/zero-page.rst).

use std::ops::Range;

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};

use super::layout;

/// `E820_TYPE_RAM` and `E820_TYPE_RESERVED` (arch/x86/include/asm/e820/types.h).
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// The values that a boot loader without a number of its own uses (boot.rst, "type_of_loader").
const UNKNOWN_LOADER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

/// Fills the page. `ranges` are those of guest memory, `initramfs` lies below 4 GiB, `command_line_len` is without the NUL.
pub(super) fn boot_params(
    ranges: &[Range<u64>],
    initramfs: &Range<u64>,
    command_line_len: usize,
) -> boot_params {
    let mut params = boot_params {
        hdr: setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            type_of_loader: UNKNOWN_LOADER,
            cmd_line_ptr: layout::COMMAND_LINE as u32,
            cmdline_size: command_line_len as u32,
            ramdisk_image: initramfs.start as u32,
            ramdisk_size: (initramfs.end - initramfs.start) as u32,
            ..setup_header::default()
        },
        ..boot_params::default()
    };
    let entries = e820(ranges);
    let mut table = params.e820_table;
    for (slot, entry) in table.iter_mut().zip(&entries) {
        *slot = *entry;
    }
    params.e820_table = table;
    // Two entries more than ranges, of which there are at most two.
    params.e820_entries = entries.len() as u8;
    params
}

fn e820(ranges: &[Range<u64>]) -> Vec<boot_e820_entry> {
    let mut entries =
        vec![entry(0..layout::MP_TABLE, RAM), entry(layout::MP_TABLE..layout::HIGH_MEMORY, RESERVED)];
    entries.extend(
        ranges
            .iter()
            .map(|range| range.start.max(layout::HIGH_MEMORY)..range.end)
            .map(|range| entry(range, RAM)),
    );
    entries
}

fn entry(range: Range<u64>, kind: u32) -> boot_e820_entry {
    boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: kind }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    const SMALL: Range<u64> = 0..64 << 20;

    fn table(params: &boot_params) -> Vec<(u64, u64, u32)> {
        let table = params.e820_table;
        let entries = table.iter().take(params.e820_entries.into());
        entries.map(|entry| (entry.addr, entry.size, entry.r#type)).collect()
    }

    #[test]
    fn a_small_guest_has_memory_on_both_sides_of_the_legacy_area() {
        let params = boot_params(slice::from_ref(&SMALL), &(0x100_0000..0x100_1000), 5);
        assert_eq!(
            table(&params),
            [(0, 0x9_f000, RAM), (0x9_f000, 0x6_1000, RESERVED), (0x10_0000, (64 << 20) - 0x10_0000, RAM)]
        );
    }

    #[test]
    fn a_large_guest_has_memory_above_the_hole() {
        let params = boot_params(&[0..0xd000_0000, 1 << 32..5 << 30], &(0..0), 0);
        assert_eq!(table(&params).last(), Some(&(1 << 32, 1 << 30, RAM)));
    }

    #[test]
    fn the_kernel_is_told_where_its_initramfs_and_command_line_are() {
        let params = boot_params(slice::from_ref(&SMALL), &(0x100_0000..0x100_1234), 5);
        let header = params.hdr;
        assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (0x100_0000, 0x1234));
        assert_eq!(({ header.cmd_line_ptr }, { header.cmdline_size }), (layout::COMMAND_LINE as u32, 5));
        assert_eq!({ header.header }.to_le_bytes(), *b"HdrS");
    }
}
