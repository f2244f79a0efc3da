//! What KVM knows of a machine, taken out of one and put into another that was made like it (Documentation/virt/kvm/api.rst).
//!
//! A saved state is as hostile as the guest that it came from. KVM checks each part as it is put in, and whatever it accepts is a state
//! that a guest could have brought about.

mod raw;
mod sys;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_MSR_ENTRIES, Msrs,
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Error, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::raw::Raw;

/// Model-specific registers (Intel's manual, volume 4).
const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// `KVM_MAX_MSR_ENTRIES` as what it counts.
const MAX_MSRS_A_CALL: usize = KVM_MAX_MSR_ENTRIES;

/// Far more than any KVM has.
const MAX_MSRS: usize = 4096;

#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error("{0}")]
    Kvm(&'static str, #[source] Error),
    #[error("set MSR {0:#x}")]
    Msr(u32),
    #[error("{0} MSRs are too many")]
    MsrCount(usize),
    #[error("interrupt chip {0} does not come where it was saved")]
    Chip(u32),
}

fn kvm(operation: &'static str) -> impl FnOnce(Error) -> StateError {
    move |error| StateError::Kvm(operation, error)
}

/// A vCPU that does not run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    activity: kvm_mp_state,
    registers: kvm_regs,
    special: kvm_sregs,
    extended: Box<Raw<kvm_xsave>>,
    control: kvm_xcrs,
    debug: kvm_debugregs,
    apic: Raw<kvm_lapic_state>,
    /// Number and value.
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

/// The MSRs that this KVM saves.
pub(crate) fn msr_numbers(kvm: &Kvm) -> Result<Vec<u32>, StateError> {
    let listed = kvm.get_msr_index_list().map_err(self::kvm("ask KVM for its MSRs"))?;
    Ok(listed.as_slice().to_vec())
}

impl VcpuState {
    pub(crate) fn of(vcpu: &VcpuFd, msr_numbers: &[u32]) -> Result<Self, StateError> {
        Ok(Self {
            // First: it makes KVM settle what is under way.
            activity: vcpu.get_mp_state().map_err(kvm("read a vCPU's activity"))?,
            registers: vcpu.get_regs().map_err(kvm("read a vCPU's registers"))?,
            special: vcpu.get_sregs().map_err(kvm("read a vCPU's special registers"))?,
            extended: Box::new(Raw(vcpu.get_xsave().map_err(kvm("read a vCPU's extended state"))?)),
            control: vcpu.get_xcrs().map_err(kvm("read a vCPU's extended control registers"))?,
            debug: vcpu.get_debug_regs().map_err(kvm("read a vCPU's debug registers"))?,
            apic: Raw(vcpu.get_lapic().map_err(kvm("read a vCPU's APIC"))?),
            msrs: read_msrs(vcpu, msr_numbers)?,
            events: vcpu.get_vcpu_events().map_err(kvm("read a vCPU's events"))?,
        })
    }

    /// Into a vCPU that has its CPUID and has not run.
    pub(crate) fn put_into(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        vcpu.set_mp_state(self.activity).map_err(kvm("set a vCPU's activity"))?;
        vcpu.set_regs(&self.registers).map_err(kvm("set a vCPU's registers"))?;
        // They say where the APIC is, which comes behind.
        vcpu.set_sregs(&self.special).map_err(kvm("set a vCPU's special registers"))?;
        sys::set_xsave(vcpu, &self.extended.0).map_err(kvm("set a vCPU's extended state"))?;
        vcpu.set_xcrs(&self.control).map_err(kvm("set a vCPU's extended control registers"))?;
        vcpu.set_debug_regs(&self.debug).map_err(kvm("set a vCPU's debug registers"))?;
        vcpu.set_lapic(&self.apic.0).map_err(kvm("set a vCPU's APIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(kvm("set a vCPU's events"))
    }
}

/// Some that KVM lists, this host's processor does not have: those are left out.
fn read_msrs(vcpu: &VcpuFd, numbers: &[u32]) -> Result<Vec<(u32, u64)>, StateError> {
    let mut values = Vec::with_capacity(numbers.len());
    let mut rest = numbers;
    while !rest.is_empty() {
        let (now, _) = rest.split_at(rest.len().min(MAX_MSRS_A_CALL));
        let mut msrs = entries(now.iter().map(|&number| (number, 0)))?;
        let read = vcpu.get_msrs(&mut msrs).map_err(kvm("read a vCPU's MSRs"))?;
        values.extend(msrs.as_slice().iter().take(read).map(|entry| (entry.index, entry.data)));
        // KVM stops at the one that it cannot read.
        let skipped = if read < now.len() { read + 1 } else { read };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    // The deadline is a time of the TSC, which is not yet set otherwise.
    values.sort_by_key(|&(number, _)| match number {
        IA32_TSC => 0,
        IA32_TSC_DEADLINE => 2,
        _ => 1,
    });
    Ok(values)
}

fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), StateError> {
    if values.len() > MAX_MSRS {
        return Err(StateError::MsrCount(values.len()));
    }
    let mut rest = values;
    while !rest.is_empty() {
        let (now, _) = rest.split_at(rest.len().min(MAX_MSRS_A_CALL));
        let written = vcpu.set_msrs(&entries(now.iter().copied())?).map_err(kvm("set a vCPU's MSRs"))?;
        let mut done = written;
        if let Some(&(number, value)) = now.get(written) {
            // One that cannot be set must be right already.
            let mut there = entries([(number, 0)])?;
            let read = vcpu.get_msrs(&mut there).map_err(kvm("read a vCPU's MSRs"))?;
            let is_right = there.as_slice().first().is_some_and(|entry| read == 1 && entry.data == value);
            if !is_right {
                return Err(StateError::Msr(number));
            }
            done += 1;
        }
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(())
}

fn entries(values: impl IntoIterator<Item = (u32, u64)>) -> Result<Msrs, StateError> {
    let entries: Vec<_> = values
        .into_iter()
        .map(|(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| StateError::MsrCount(entries.len()))
}

/// What all vCPUs share: interrupt chips, and the clock from which the guest takes its time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VmState {
    chips: Vec<Raw<kvm_irqchip>>,
    clock_ns: u64,
}

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl VmState {
    pub(crate) fn of(vm: &VmFd) -> Result<Self, StateError> {
        let chips = CHIPS.map(|chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            vm.get_irqchip(&mut chip).map_err(kvm("read an interrupt chip"))?;
            Ok(Raw(chip))
        });
        let clock = vm.get_clock().map_err(kvm("read the guest's clock"))?;
        Ok(Self { chips: chips.into_iter().collect::<Result<_, StateError>>()?, clock_ns: clock.clock })
    }

    /// The clock goes on where it stood: for the guest no time has passed.
    pub(crate) fn put_into(&self, vm: &VmFd) -> Result<(), StateError> {
        for (Raw(chip), chip_id) in self.chips.iter().zip(CHIPS) {
            if chip.chip_id != chip_id {
                return Err(StateError::Chip(chip.chip_id));
            }
            vm.set_irqchip(chip).map_err(kvm("set an interrupt chip"))?;
        }
        let clock = kvm_clock_data { clock: self.clock_ns, ..kvm_clock_data::default() };
        vm.set_clock(&clock).map_err(kvm("set the guest's clock"))
    }
}
