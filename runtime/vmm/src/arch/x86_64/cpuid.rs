//! What the guest's processors say that they are: what KVM supports on this host, less what no guest needs, with a topology of
//! one thread a core in one package.
//!
//! Leaves are those of Intel's manual, volume 2A, CPUID, and AMD's, volume 3, appendix E.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const PERFORMANCE_COUNTERS: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const SGX: u32 = 0x12;
const TOPOLOGY_V2: u32 = 0x1f;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_SVM: u32 = 0x8000_000a;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE_COUNTERS: u32 = 0x8000_0022;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// Bits of leaf 1.
const ECX_VMX: u32 = 1 << 5;
const ECX_PDCM: u32 = 1 << 15;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
/// Of leaf 0x8000_0001.
const ECX_SVM: u32 = 1 << 2;
const ECX_PERFCTR: u32 = 0b11 << 23;
/// Of leaf 7.
const EXTENDED_FEATURES: u32 = 7;
const EBX_SGX: u32 = 1 << 2;
const ECX_SGX_LAUNCH: u32 = 1 << 30;

/// Level types of the topology leaves.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What all vCPUs have in common, from what KVM supports.
pub(super) fn for_guest(supported: &[kvm_cpuid_entry2], tsc_deadline: bool) -> Vec<kvm_cpuid_entry2> {
    supported.iter().map(|&entry| filtered(entry, tsc_deadline)).collect()
}

/// Nested virtualization, performance counters and enclaves are large parts of KVM that a container has no use for.
fn filtered(mut entry: kvm_cpuid_entry2, tsc_deadline: bool) -> kvm_cpuid_entry2 {
    match entry.function {
        FEATURES => {
            entry.ecx &= !(ECX_VMX | ECX_PDCM);
            entry.ecx |= ECX_HYPERVISOR;
            // KVM_GET_SUPPORTED_CPUID leaves it out where user space might have no in-kernel APIC.
            if tsc_deadline {
                entry.ecx |= ECX_TSC_DEADLINE;
            }
        }
        EXTENDED_FEATURES if entry.index == 0 => {
            entry.ebx &= !EBX_SGX;
            entry.ecx &= !ECX_SGX_LAUNCH;
        }
        AMD_FEATURES => entry.ecx &= !(ECX_SVM | ECX_PERFCTR),
        PERFORMANCE_COUNTERS | SGX | AMD_SVM | AMD_PERFORMANCE_COUNTERS | AMD_TOPOLOGY_V2 => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        _ => {}
    }
    entry
}

/// One vCPU's own. Its APIC id is its index.
pub(super) fn for_vcpu(guest: &[kvm_cpuid_entry2], index: u8, vcpu_count: u8) -> Vec<kvm_cpuid_entry2> {
    let vcpu = Vcpu { id: index.into(), count: vcpu_count.into() };
    let mut entries: Vec<kvm_cpuid_entry2> = Vec::with_capacity(guest.len() + 6);
    for &entry in guest {
        match entry.function {
            TOPOLOGY | TOPOLOGY_V2 if entry.index == 0 => entries.extend(vcpu.topology(entry.function)),
            // KVM tells the host's levels: ours replace them all.
            TOPOLOGY | TOPOLOGY_V2 => {}
            _ => entries.push(vcpu.with_topology(entry)),
        }
    }
    entries
}

struct Vcpu {
    id: u32,
    count: u32,
}

impl Vcpu {
    /// Bits of an APIC id that number the cores.
    fn core_bits(&self) -> u32 {
        self.count.next_power_of_two().ilog2()
    }

    fn with_topology(&self, mut entry: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
        match entry.function {
            FEATURES => {
                entry.ebx = entry.ebx & 0xffff | self.count << 16 | self.id << 24;
                entry.edx = if self.count > 1 { entry.edx | EDX_HTT } else { entry.edx & !EDX_HTT };
            }
            // Type 0 ends the list of caches.
            CACHES if entry.eax & 0x1f != 0 => {
                let cores = (1 << self.core_bits()) - 1;
                entry.eax = entry.eax & 0x3fff | self.sharing(entry.eax) << 14 | cores << 26;
            }
            AMD_CACHES if entry.eax & 0x1f != 0 => {
                entry.eax = entry.eax & 0x3fff | self.sharing(entry.eax) << 14;
            }
            AMD_SIZES => entry.ecx = entry.ecx & !0xf0ff | (self.count - 1) | self.core_bits() << 12,
            AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (self.id, self.id, 0),
            _ => {}
        }
        entry
    }

    /// How many others share a cache: none the first and second level, all the third.
    fn sharing(&self, cache: u32) -> u32 {
        if cache >> 5 & 7 >= 3 { self.count - 1 } else { 0 }
    }

    /// Both levels, and the end of the list.
    fn topology(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index, kind, shift, count| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: kind << 8 | index,
            edx: self.id,
            ..kvm_cpuid_entry2::default()
        };
        [level(0, LEVEL_THREAD, 0, 1), level(1, LEVEL_CORE, self.core_bits(), self.count), level(2, 0, 0, 0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..kvm_cpuid_entry2::default() }
    }

    fn full(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { eax: !0, ebx: !0, ecx: !0, edx: !0, ..entry(function, 0) }
    }

    #[test]
    fn nested_virtualization_is_not_offered() {
        let guest = for_guest(&[full(FEATURES), full(AMD_FEATURES), full(AMD_SVM)], true);
        assert_eq!((guest[0].ecx & ECX_VMX, guest[1].ecx & ECX_SVM), (0, 0));
        assert_eq!((guest[2].eax, guest[2].edx), (0, 0));
    }

    #[test]
    fn performance_counters_are_not_offered() {
        let guest =
            for_guest(&[full(FEATURES), full(PERFORMANCE_COUNTERS), full(AMD_PERFORMANCE_COUNTERS)], true);
        assert_eq!((guest[0].ecx & ECX_PDCM, guest[1].eax, guest[2].eax), (0, 0, 0));
    }

    #[test]
    fn the_guest_knows_that_it_is_one_and_has_a_deadline_timer_only_where_kvm_has() {
        let with = for_guest(&[entry(FEATURES, 0)], true);
        let without = for_guest(&[entry(FEATURES, 0)], false);
        assert_eq!(with[0].ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE);
        assert_eq!(without[0].ecx, ECX_HYPERVISOR);
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_wherever_it_is_told() {
        let guest = [entry(FEATURES, 0), entry(TOPOLOGY, 0), entry(AMD_TOPOLOGY, 0)];
        let vcpu = for_vcpu(&guest, 3, 4);
        assert_eq!(vcpu[0].ebx >> 24, 3);
        assert!(vcpu[1..4].iter().all(|level| level.edx == 3));
        assert_eq!(vcpu[4].eax, 3);
    }

    #[test]
    fn the_hosts_topology_does_not_show() {
        let guest = [full(TOPOLOGY), kvm_cpuid_entry2 { index: 1, ..full(TOPOLOGY) }];
        let levels = for_vcpu(&guest, 0, 6);
        assert_eq!(levels.len(), 3);
        assert_eq!((levels[0].eax, levels[0].ebx), (0, 1));
        // Six cores need three bits.
        assert_eq!((levels[1].eax, levels[1].ebx), (3, 6));
        assert_eq!(levels[2].ebx, 0);
    }

    #[test]
    fn a_lone_vcpu_has_no_siblings() {
        let vcpu = for_vcpu(&[full(FEATURES), full(AMD_SIZES)], 0, 1);
        assert_eq!((vcpu[0].edx & EDX_HTT, vcpu[0].ebx >> 16 & 0xff), (0, 1));
        assert_eq!(vcpu[1].ecx & 0xf0ff, 0);
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let cache = |level: u32| kvm_cpuid_entry2 { eax: level << 5 | 1, ..entry(CACHES, level) };
        let vcpu = for_vcpu(&[cache(1), cache(3)], 0, 4);
        assert_eq!((vcpu[0].eax >> 14 & 0xfff, vcpu[1].eax >> 14 & 0xfff), (0, 3));
    }
}
