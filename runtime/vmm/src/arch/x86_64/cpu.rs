//! A vCPU's state at its start: CPUID for all, registers of the 64-bit boot protocol for the first. The others wait for the
//! INIT and SIPI that the guest sends them.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use thiserror::Error;
use vm_memory::{Address, GuestAddress};

use super::{cpuid, layout};

/// Model-specific registers (Intel's manual, volume 4).
const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

const CR0_PROTECTED: u64 = 1;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Bit 1 is always set; interrupts are off.
const RFLAGS: u64 = 2;

#[derive(Debug, Error)]
pub(crate) enum CpuError {
    #[error("{0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    #[error("KVM knows only {0} of the MSRs that a vCPU starts with")]
    Msr(usize),
    #[error("the CPUID table is too long")]
    CpuIdTooLong,
}

/// What the vCPUs of a machine have in common.
pub(crate) struct CpuTemplate {
    cpuid: Vec<kvm_cpuid_entry2>,
    vcpu_count: u8,
}

impl CpuTemplate {
    pub(crate) fn new(kvm: &Kvm, vcpu_count: u8) -> Result<Self, CpuError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| CpuError::Kvm("ask KVM for its CPUID", error))?;
        let cpuid = cpuid::for_guest(supported.as_slice(), kvm.check_extension(Cap::TscDeadlineTimer));
        Ok(Self { cpuid, vcpu_count })
    }

    /// Tells a new vCPU what it is.
    pub(crate) fn name(&self, vcpu: &VcpuFd, index: u8) -> Result<(), CpuError> {
        let cpuid = cpuid::for_vcpu(&self.cpuid, index, self.vcpu_count);
        let cpuid = CpuId::from_entries(&cpuid).map_err(|_| CpuError::CpuIdTooLong)?;
        vcpu.set_cpuid2(&cpuid).map_err(|error| CpuError::Kvm("set a vCPU's CPUID", error))
    }

    /// Prepares a new vCPU; the first starts at the kernel's entry.
    pub(crate) fn set_up(&self, vcpu: &VcpuFd, index: u8, entry: GuestAddress) -> Result<(), CpuError> {
        self.name(vcpu, index)?;
        set_msrs(vcpu)?;
        if index == 0 {
            let mut sregs =
                vcpu.get_sregs().map_err(|error| CpuError::Kvm("read a vCPU's registers", error))?;
            enter_long_mode(&mut sregs);
            vcpu.set_sregs(&sregs).map_err(|error| CpuError::Kvm("set a vCPU's special registers", error))?;
            vcpu.set_regs(&regs(entry)).map_err(|error| CpuError::Kvm("set a vCPU's registers", error))?;
        }
        Ok(())
    }
}

/// As firmware would leave them: memory is cached. KVM's reset leaves the default type at "uncached".
fn set_msrs(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let msr = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    let entries = [msr(IA32_MISC_ENABLE, FAST_STRINGS), msr(IA32_MTRR_DEF_TYPE, MTRR_ENABLED | WRITE_BACK)];
    let msrs = Msrs::from_entries(&entries).map_err(|_| CpuError::Msr(0))?;
    let count = vcpu.set_msrs(&msrs).map_err(|error| CpuError::Kvm("set a vCPU's MSRs", error))?;
    if count == entries.len() { Ok(()) } else { Err(CpuError::Msr(count)) }
}

/// boot.rst, "64-bit boot protocol": the address of the zero page in RSI.
fn regs(entry: GuestAddress) -> kvm_regs {
    kvm_regs {
        rflags: RFLAGS,
        rip: entry.raw_value(),
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rsi: layout::ZERO_PAGE,
        ..kvm_regs::default()
    }
}

/// Flat segments, paging by the identity map of [`page_tables`](super::boot), no interrupt table: a fault is a triple fault.
fn enter_long_mode(sregs: &mut kvm_sregs) {
    let data = segment(layout::GDT_DATA, 3, false);
    sregs.cs = segment(layout::GDT_CODE, 0xb, true);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { s: 0, g: 0, limit: 0, ..segment(layout::GDT_TSS, 0xb, false) };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = layout::GDT_LIMIT;
    sregs.idt.limit = 0;
    sregs.cr3 = layout::PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PROTECTED | CR0_PAGING;
    sregs.efer |= EFER_LONG_MODE;
}

/// `kind` as in a descriptor's type field (Intel's manual, volume 3A, section 3.4.5.1).
fn segment(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}
