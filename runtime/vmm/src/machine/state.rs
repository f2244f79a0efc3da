//! A machine at rest: all that it is beside its memory, as one JSON document that lies behind it. A saved state is hostile: every part
//! checks what it takes up, and the whole is no longer than [`MAX_STATE_LEN`].

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{Machine, MachineError};
use crate::{
    arch::{self, CpuTemplate, VcpuState, VmState},
    devices::{Mmio, MmioState, StateError},
    legacy::SerialState,
    memory,
    vcpu::VcpuError,
};

/// Changes whenever the meaning of a field does.
const FORMAT: u32 = 2;

/// Far more than 64 vCPUs and all devices take, in bytes.
pub(super) const MAX_STATE_LEN: u64 = 8 << 20;

#[derive(Debug, Error)]
pub(crate) enum SaveError {
    #[error("save the vCPUs")]
    Vcpus(#[from] VcpuError),
    #[error("save what the vCPUs share")]
    Vm(#[source] arch::StateError),
    #[error("save a device")]
    Device(#[from] StateError),
    #[error("describe the machine")]
    Describe(#[source] serde_json::Error),
    #[error("write the machine")]
    Write(#[source] io::Error),
}

#[derive(Debug, Error)]
pub(crate) enum RestoreError {
    #[error("read the state")]
    Read(#[source] io::Error),
    #[error("the state is longer than {MAX_STATE_LEN} bytes")]
    TooLong,
    #[error("understand the state")]
    Json(#[source] serde_json::Error),
    #[error("the state has format {0}, this program reads {FORMAT}")]
    Format(u32),
    #[error("the state has {saved} {what}, the machine here {own}")]
    Count { what: &'static str, saved: usize, own: usize },
    #[error("restore vCPU {0}")]
    Vcpu(u8, #[source] arch::StateError),
    #[error("restore what the vCPUs share")]
    Vm(#[source] arch::StateError),
    #[error("restore device {0}")]
    Device(usize, #[source] StateError),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MachineState {
    format: u32,
    vm: VmState,
    vcpus: Vec<VcpuState>,
    pub(super) serial: SerialState,
    devices: Vec<MmioState>,
}

impl Machine {
    /// Stops the vCPUs. The event loop's thread calls this, outside of events: no device does anything meanwhile, and what was announced
    /// to one and not yet done, it does when it begins again.
    pub(crate) fn save(&mut self, file: &File) -> Result<(), SaveError> {
        self.vcpus.pause()?;
        let state = MachineState {
            format: FORMAT,
            vm: VmState::of(&self.vm).map_err(SaveError::Vm)?,
            vcpus: self.vcpus.save()?,
            serial: self.bus.serial_state(),
            devices: locked(&self.devices).map(|device| device.save()).collect::<Result<_, _>>()?,
        };
        let json = serde_json::to_vec(&state).map_err(SaveError::Describe)?;
        // No more memory than the machine began with is there, or a device has refused.
        let memory = self.memory.now();
        let memory_len = memory.iter().map(|region| region.len()).sum();
        let written =
            memory::save(&memory, &self.used, file).and_then(|()| file.write_all_at(&json, memory_len));
        written.map_err(SaveError::Write)
    }
}

fn locked(devices: &[Arc<Mutex<Mmio>>]) -> impl Iterator<Item = MutexGuard<'_, Mmio>> {
    devices.iter().map(|device| device.lock().unwrap_or_else(PoisonError::into_inner))
}

impl MachineState {
    /// Into a machine that was made like the saved one and has not run. The devices come last: interrupts that they set off reach
    /// vCPUs that are as they were.
    pub(super) fn put_into(
        &self,
        vm: &VmFd,
        vcpus: &[VcpuFd],
        devices: &[Arc<Mutex<Mmio>>],
        template: &CpuTemplate,
    ) -> Result<(), MachineError> {
        check_count("vCPUs", self.vcpus.len(), vcpus.len())?;
        check_count("devices", self.devices.len(), devices.len())?;
        self.vm.put_into(vm).map_err(RestoreError::Vm)?;
        for (index, (vcpu, state)) in (0..).zip(vcpus.iter().zip(&self.vcpus)) {
            template.name(vcpu, index)?;
            state.put_into(vcpu).map_err(|error| RestoreError::Vcpu(index, error))?;
        }
        for (index, (mut device, state)) in locked(devices).zip(&self.devices).enumerate() {
            device.restore(state).map_err(|error| RestoreError::Device(index, error))?;
        }
        Ok(())
    }

    /// It lies behind so much memory, in bytes.
    pub(super) fn read(mut file: File, memory_len: u64) -> Result<Self, RestoreError> {
        let mut json = Vec::new();
        file.seek(SeekFrom::Start(memory_len)).map_err(RestoreError::Read)?;
        file.take(MAX_STATE_LEN + 1).read_to_end(&mut json).map_err(RestoreError::Read)?;
        if json.len() as u64 > MAX_STATE_LEN {
            return Err(RestoreError::TooLong);
        }
        let state: Self = serde_json::from_slice(&json).map_err(RestoreError::Json)?;
        if state.format == FORMAT { Ok(state) } else { Err(RestoreError::Format(state.format)) }
    }
}

fn check_count(what: &'static str, saved: usize, own: usize) -> Result<(), RestoreError> {
    if saved == own { Ok(()) } else { Err(RestoreError::Count { what, saved, own }) }
}
