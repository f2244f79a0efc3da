//! From a guest's address to the device that answers. Where there is none, reads give ones and writes are lost, as on hardware.
//!
//! Locks: one a device, held for one access, never two at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use securectr_vmm::control::End;

use crate::{
    arch,
    devices::Mmio,
    legacy::{Legacy, SerialState},
};

/// The registers of one device. `offset` is within them; `data` is as wide as the guest chose, hostile in both.
pub(crate) trait Window: Send {
    fn read(&mut self, offset: u64, data: &mut [u8]);
    fn write(&mut self, offset: u64, data: &[u8]);
}

impl Window for Mmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.write(offset, data);
    }
}

/// All that a vCPU's accesses can reach.
pub(crate) struct Bus {
    legacy: Mutex<Legacy>,
    windows: Vec<Arc<Mutex<dyn Window>>>,
}

impl Bus {
    /// The n-th window answers at [`arch::device_window`] of n.
    pub(crate) fn new(legacy: Legacy, windows: Vec<Arc<Mutex<dyn Window>>>) -> Self {
        Self { legacy: Mutex::new(legacy), windows }
    }

    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.window(address) {
            Some((window, offset)) => lock(window).read(offset, data),
            None => data.fill(0xff),
        }
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((window, offset)) = self.window(address) {
            lock(window).write(offset, data);
        }
    }

    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        lock(&self.legacy).read(port, data);
    }

    /// Answers with the end that the guest has asked for, if it has.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<End> {
        lock(&self.legacy).write(port, data)
    }

    pub(crate) fn serial_state(&self) -> SerialState {
        lock(&self.legacy).serial_state()
    }

    fn window(&self, address: u64) -> Option<(&Mutex<dyn Window>, u64)> {
        let offset = address.checked_sub(arch::device_window(0).start)?;
        let index = usize::try_from(offset / arch::DEVICE_WINDOW_LEN).ok()?;
        let window = self.windows.get(index)?;
        Some((window, offset % arch::DEVICE_WINDOW_LEN))
    }
}

/// A panic ends the process, so nobody meets what one has left behind.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it was asked.
    #[derive(Default)]
    struct Probe(Vec<u64>);

    impl Window for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            self.0.push(offset);
            data.fill(1);
        }

        fn write(&mut self, offset: u64, _: &[u8]) {
            self.0.push(offset);
        }
    }

    fn bus(windows: &[Arc<Mutex<Probe>>]) -> Bus {
        let null = std::fs::File::create("/dev/null").unwrap();
        let legacy = Legacy::new(null.into()).unwrap();
        Bus::new(legacy, windows.iter().map(|window| Arc::clone(window) as Arc<Mutex<dyn Window>>).collect())
    }

    #[test]
    fn an_access_reaches_the_device_at_its_address() {
        let probes = [Arc::default(), Arc::default()];
        let bus = bus(&probes);
        bus.write(arch::device_window(1).start + 0x50, &[0; 4]);
        bus.read(arch::device_window(1).end - 1, &mut [0; 8]);
        assert_eq!(probes[0].lock().unwrap().0, Vec::<u64>::new());
        assert_eq!(probes[1].lock().unwrap().0, [0x50, 0xfff]);
    }

    #[test]
    fn where_no_device_is_reads_give_ones_and_writes_are_lost() {
        let probes = [Arc::default()];
        let bus = bus(&probes);
        for address in [0, arch::device_window(0).start - 1, arch::device_window(0).end, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4]);
            bus.write(address, &data);
        }
        assert_eq!(probes[0].lock().unwrap().0, Vec::<u64>::new());
    }
}
