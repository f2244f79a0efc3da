//! Processors and interrupt lines, as Intel's MultiProcessor Specification 1.4 (chapter 4) has them told.

use super::layout;

/// Versions as read from KVM's emulated chips.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const SPECIFICATION: u8 = 4;

const HEADER_LEN: usize = 44;
const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;
const ISA_BUS: u8 = 0;
const ALL_LOCAL_APICS: u8 = 0xff;
/// Interrupt types, section 4.3.4.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;

/// The floating pointer structure (section 4.1), for [`layout::MP_POINTER`].
pub(super) fn pointer() -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend((layout::MP_TABLE as u32).to_le_bytes());
    // Length in units of 16 bytes, specification, checksum, no default configuration, no IMCR.
    pointer.extend([1, SPECIFICATION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    pointer
}

/// The configuration table (sections 4.2 and 4.3), for [`layout::MP_TABLE`]: at most [`layout::MAX_VCPUS`] vCPUs.
pub(super) fn table(vcpu_count: u8) -> Vec<u8> {
    let ioapic_id = vcpu_count;
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut push = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpu_count {
        let flags = ENABLED | if id == 0 { BOOT_PROCESSOR } else { 0 };
        // Signature and features are left out: Linux asks CPUID.
        push(&[0, id, LOCAL_APIC_VERSION, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    push(b"\x01\x00ISA   ");
    let [a, b, c, d] = (layout::IOAPIC as u32).to_le_bytes();
    push(&[2, ioapic_id, IOAPIC_VERSION, ENABLED, a, b, c, d]);
    // Each line on the pin of its number; trigger and polarity as the ISA bus has them: edge, active high.
    for line in 0..layout::IOAPIC_PINS {
        push(&[3, VECTORED, 0, 0, ISA_BUS, line, ioapic_id, line]);
    }
    push(&[4, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    push(&[4, NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);

    let mut table = b"PCMP".to_vec();
    // Less than 2 KiB.
    table.extend(((HEADER_LEN + entries.len()) as u16).to_le_bytes());
    table.extend([SPECIFICATION, 0]);
    table.extend(b"SECCTR  ");
    table.extend(b"MICROVM     ");
    table.extend([0; 6]);
    table.extend(count.to_le_bytes());
    table.extend((layout::LOCAL_APIC as u32).to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    set_checksum(&mut table, 7);
    table
}

/// All bytes of a structure sum up to zero.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
    if let Some(checksum) = bytes.get_mut(at) {
        *checksum = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    /// The entries by their type; the lengths are those of the specification.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[HEADER_LEN..];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let (entry, after) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = after;
        }
        entries
    }

    #[test]
    fn the_pointer_is_valid_and_points_to_the_table() {
        let pointer = pointer();
        assert_eq!((pointer.len(), sum(&pointer)), (16, 0));
        assert_eq!(pointer[4..8], (layout::MP_TABLE as u32).to_le_bytes());
    }

    #[test]
    fn the_largest_table_fits_before_its_pointer() {
        let table = table(layout::MAX_VCPUS);
        assert_eq!(sum(&table), 0);
        assert!(layout::MP_TABLE + table.len() as u64 <= layout::MP_POINTER);
    }

    #[test]
    fn the_header_counts_what_follows() {
        let table = table(4);
        assert_eq!(u16::from_le_bytes([table[4], table[5]]) as usize, table.len());
        assert_eq!(u16::from_le_bytes([table[34], table[35]]) as usize, entries(&table).len());
    }

    #[test]
    fn every_vcpu_is_enabled_and_the_first_boots() {
        let table = table(3);
        let processors: Vec<(u8, u8)> =
            entries(&table).iter().filter(|entry| entry[0] == 0).map(|entry| (entry[1], entry[3])).collect();
        assert_eq!(processors, [(0, 3), (1, 1), (2, 1)]);
    }

    #[test]
    fn every_device_has_a_line_of_its_own() {
        let table = table(1);
        for index in 0..layout::MAX_DEVICES {
            let gsi = layout::device_gsi(index) as u8;
            assert!(entries(&table).iter().any(|entry| entry[0] == 3 && entry[5] == gsi && entry[7] == gsi));
        }
    }
}
