//! The machine: one recipe, from descriptors to vCPUs that wait for the word to run.

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use securectr_vmm::spec::{Expected, HOTPLUG_CHUNK_MIB, PageRun, Start, VmSpec};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    arch::{self, BootError, BootImage, CpuError, CpuTemplate},
    bus::{Bus, Window},
    descriptors::{DescriptorError, Descriptors},
    devices::{self, DeviceError, DeviceSlot, Mmio, Parts, Throttles},
    legacy::Legacy,
    memory::{self, GuestMemory, LiveMemory, MIB, MemoryError, PageMap, Room, Used},
    vcpu::{Ending, VcpuError, Vcpus},
};

mod state;
mod sys;

/// Where a driver writes the number of a queue that it has filled (VirtIO 1.2, section 4.2.2, QueueNotify).
const QUEUE_NOTIFY: u64 = 0x50;

/// The least that a kernel and the smallest initramfs can start in.
const MIN_MEMORY_MIB: u32 = 16;
/// Page tables and memslots are good for it, and no host has more.
const MAX_MEMORY_MIB: u32 = 2 << 20;

#[derive(Debug, Error)]
pub(crate) enum MachineError {
    #[error("{0} MiB of memory are out of bounds: {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} are possible")]
    MemorySize(u32),
    #[error("{0} MiB of memory that may come later are too many, or no multiple of {HOTPLUG_CHUNK_MIB}")]
    HotplugSize(u32),
    #[error("{0} vCPUs are out of bounds: 1 to {most} are possible", most = arch::MAX_VCPUS)]
    VcpuCount(u8),
    #[error("{0} of {1} vCPUs cannot be let run")]
    AllowedVcpus(u8, u8),
    #[error("{0} devices are too many: {most} are possible", most = arch::MAX_DEVICES)]
    DeviceCount(usize),
    #[error("take a descriptor")]
    Descriptor(#[from] DescriptorError),
    #[error("{0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    #[error("set up the guest's memory")]
    Memory(#[from] MemoryError),
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    #[error("set up the devices")]
    Devices(#[from] DeviceError),
    #[error("boot the guest")]
    Boot(#[from] BootError),
    #[error("set up a vCPU")]
    Cpu(#[from] CpuError),
    #[error("start the vCPUs")]
    Vcpu(#[from] VcpuError),
    #[error("see which MSRs are to be saved")]
    Msrs(#[source] arch::StateError),
    #[error("restore the machine")]
    Restore(#[from] RestoreError),
}

use state::{MachineState, RestoreError};

/// A machine whose vCPUs are there and paused.
pub(crate) struct Machine {
    pub vcpus: Vcpus,
    pub ending: Arc<Ending>,
    pub devices: Vec<Arc<Mutex<Mmio>>>,
    /// How many of them, from the first on, are disks.
    disk_count: usize,
    /// The disks' limits.
    pub throttles: Throttles,
    /// Where the network interfaces among them begin and end.
    nets: Range<usize>,
    /// Readable when a device has news.
    pub news: EventFd,
    /// By which memory comes and goes.
    pub mem: Option<Arc<Mutex<Mmio>>>,
    bus: Arc<Bus>,
    /// The vCPUs run in this memory: it goes after them.
    memory: LiveMemory,
    used: Used,
    vm: Arc<VmFd>,
}

impl Machine {
    /// Builds what the spec asks for, and lays the kernel into its memory or makes it what was saved.
    pub(crate) fn build(
        spec: &VmSpec,
        descriptors: &mut Descriptors,
        pages: PageMap,
    ) -> Result<Self, MachineError> {
        check_bounds(spec)?;
        let kvm = sys::kvm(descriptors.take(spec.kvm)?);
        let vm = kvm.create_vm().map_err(|error| MachineError::Kvm("create the VM", error))?;
        let vm = Arc::new(vm);
        let memory = memory::allocate(spec.memory_mib)?;
        let (origin, laid) = Origin::of(spec, descriptors, &memory)?;
        memory::give_to_vm(&vm, &memory)?;
        arch::prepare_vm(&vm).map_err(|error| MachineError::Kvm("set up the interrupt chips", error))?;

        let news = EventFd::new(EFD_NONBLOCK).map_err(|error| MachineError::Io("make an event", error))?;
        let live = LiveMemory::new(memory.clone());
        let mut throttles = Throttles::default();
        let parts = Parts { memory: &live, room: room(spec, &vm, &live), throttles: &mut throttles };
        let slots = devices::build(spec, descriptors, parts, &news)?;
        let legacy = legacy(&vm, descriptors.take(spec.console)?, &origin)?;
        for (index, slot) in slots.iter().enumerate() {
            connect(&vm, index, slot).map_err(|error| MachineError::Kvm("connect a device", error))?;
        }

        let devices: Vec<Arc<Mutex<Mmio>>> = slots.into_iter().map(|slot| slot.transport).collect();
        let vcpus =
            (0..spec.vcpu_count).map(|index| create_vcpu(&vm, index)).collect::<Result<Vec<_>, _>>()?;
        let template = CpuTemplate::new(&kvm, spec.vcpu_count)?;
        // Before the vCPUs have threads, which end with the process alone.
        match origin {
            Origin::Kernel(image) => boot(&memory, image, (&vcpus, devices.len()), &template)?,
            Origin::Saved { state, expected } => {
                state.put_into(&vm, &vcpus, &devices, &template)?;
                if let (Expected::Pages(runs), Some(vcpu)) = (expected, vcpus.first()) {
                    memory::bring(&memory, vcpu, &runs);
                }
            }
        }
        let windows = devices.iter().map(|device| Arc::clone(device) as Arc<Mutex<dyn Window>>).collect();
        let bus = Arc::new(Bus::new(legacy, windows));
        let ending = Arc::new(Ending::new().map_err(|error| MachineError::Io("make an event", error))?);
        let msrs = arch::msr_numbers(&kvm).map_err(MachineError::Msrs)?.into();
        let vcpus = Vcpus::start(vcpus, spec.allowed_vcpu_count, &bus, &ending, &msrs)?;
        let disk_count = spec.disks.len();
        let nets = disk_count..disk_count + spec.nets.len();
        // The last of the table.
        let mem = devices.last().filter(|_| spec.hotplug_mib > 0).cloned();
        let (memory, used) = (live, Used::new(pages, laid));
        Ok(Self { vcpus, ending, devices, disk_count, throttles, nets, news, mem, bus, memory, used, vm })
    }

    /// Which pages of what it goes on from the guest has touched.
    pub(crate) fn touched(&self) -> Vec<PageRun> {
        self.used.touched(&self.memory.now())
    }

    /// The n-th disk of the spec.
    pub(crate) fn disk(&self, index: u8) -> Option<&Arc<Mutex<Mmio>>> {
        self.devices.get(..self.disk_count)?.get(usize::from(index))
    }

    /// The n-th network interface of the spec.
    pub(crate) fn net(&self, index: u8) -> Option<&Arc<Mutex<Mmio>>> {
        self.devices.get(self.nets.clone())?.get(usize::from(index))
    }
}

/// What a machine is made of, beside its parts.
enum Origin {
    Kernel(BootImage),
    Saved { state: Box<MachineState>, expected: Expected },
}

impl Origin {
    /// What was saved of a memory comes into this one; where that is, is the second answer.
    fn of(
        spec: &VmSpec,
        descriptors: &mut Descriptors,
        memory: &GuestMemory,
    ) -> Result<(Self, Vec<Range<u64>>), MachineError> {
        match &spec.start {
            Start::Boot { kernel, initramfs, command_line } => {
                let image = BootImage {
                    kernel: File::from(descriptors.take(*kernel)?),
                    initramfs: File::from(descriptors.take(*initramfs)?),
                    command_line: command_line.clone(),
                };
                Ok((Self::Kernel(image), Vec::new()))
            }
            Start::Restore { saved, expected } => {
                let file = File::from(descriptors.take(*saved)?);
                let laid = memory::lay(memory, &file, expected)?;
                let state = Box::new(MachineState::read(file, memory_len(spec))?);
                Ok((Self::Saved { state, expected: expected.clone() }, laid))
            }
        }
    }
}

fn memory_len(spec: &VmSpec) -> u64 {
    u64::from(spec.memory_mib) * MIB
}

/// What [`Machine::save`] writes at most, in bytes.
pub(crate) fn longest_saved(spec: &VmSpec) -> u64 {
    memory_len(spec) + state::MAX_STATE_LEN
}

/// The first vCPU is to begin with the kernel, which finds so many devices; the others wait.
fn boot(
    memory: &GuestMemory,
    image: BootImage,
    (vcpus, device_count): (&[VcpuFd], usize),
    template: &CpuTemplate,
) -> Result<(), MachineError> {
    // The spec's number fits.
    let entry = arch::load(memory, image, vcpus.len() as u8, device_count)?;
    for (index, vcpu) in (0..).zip(vcpus) {
        template.set_up(vcpu, index, entry)?;
    }
    Ok(())
}

fn check_bounds(spec: &VmSpec) -> Result<(), MachineError> {
    // vsock, rng and balloon stand beside the others.
    let device_count = spec.disks.len() + spec.nets.len() + spec.filesystems.len() + 3;
    let device_count = device_count + usize::from(spec.hotplug_mib > 0);
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&spec.memory_mib) {
        return Err(MachineError::MemorySize(spec.memory_mib));
    }
    if spec.hotplug_mib % HOTPLUG_CHUNK_MIB != 0 || spec.hotplug_mib > MAX_MEMORY_MIB - spec.memory_mib {
        return Err(MachineError::HotplugSize(spec.hotplug_mib));
    }
    if !(1..=arch::MAX_VCPUS).contains(&spec.vcpu_count) {
        return Err(MachineError::VcpuCount(spec.vcpu_count));
    }
    if !(1..=spec.vcpu_count).contains(&spec.allowed_vcpu_count) {
        return Err(MachineError::AllowedVcpus(spec.allowed_vcpu_count, spec.vcpu_count));
    }
    if device_count > arch::MAX_DEVICES {
        return Err(MachineError::DeviceCount(device_count));
    }
    Ok(())
}

/// Where memory may come while the guest runs.
fn room(spec: &VmSpec, vm: &Arc<VmFd>, memory: &LiveMemory) -> Option<Room> {
    let start = arch::hotplug_start(u64::from(spec.memory_mib) * MIB);
    (spec.hotplug_mib > 0).then(|| Room::new(vm, memory, start))
}

fn legacy(vm: &VmFd, console: OwnedFd, origin: &Origin) -> Result<Legacy, MachineError> {
    let legacy = match origin {
        Origin::Kernel { .. } => Legacy::new(console),
        Origin::Saved { state, .. } => Legacy::restored(console, &state.serial),
    };
    let legacy = legacy.map_err(|error| MachineError::Io("set up the serial line", error))?;
    vm.register_irqfd(legacy.serial_interrupt(), arch::SERIAL_GSI)
        .map_err(|error| MachineError::Kvm("connect the serial line", error))?;
    Ok(legacy)
}

/// The device's interrupts go to the guest, and the guest's notifications to the device, without a way through a vCPU's thread.
fn connect(vm: &VmFd, index: usize, slot: &DeviceSlot) -> Result<(), kvm_ioctls::Error> {
    vm.register_irqfd(&slot.interrupt, arch::device_gsi(index))?;
    let notify = IoEventAddress::Mmio(arch::device_window(index).start + QUEUE_NOTIFY);
    for (queue, event) in (0_u32..).zip(&slot.queue_events) {
        vm.register_ioevent(event, &notify, queue)?;
    }
    Ok(())
}

fn create_vcpu(vm: &VmFd, index: u8) -> Result<VcpuFd, MachineError> {
    vm.create_vcpu(index.into()).map_err(|error| MachineError::Kvm("create a vCPU", error))
}
