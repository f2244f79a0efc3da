//! The three things of a PC that the guest's kernel still asks for by port: a serial line, and the keyboard controller's way to
//! reset the machine.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
};

use securectr_vmm::control::End;
use serde::{Deserialize, Serialize};
use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SERIAL_START: u16 = 0x3f8;
const SERIAL_END: u16 = 0x3ff;

/// The keyboard controller's command and status port, and its command that pulses the processor's reset line.
const CONTROLLER: u16 = 0x64;
const RESET: u8 = 0xfe;
/// Its status: the last command was taken. Otherwise Linux waits for it before a reset.
const CONTROLLER_READY: u8 = 0;

/// The serial line's registers. Nothing comes in by it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SerialState {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line: [u8; 2],
    modem: [u8; 2],
    scratch: u8,
}

impl From<&vm_superio::SerialState> for SerialState {
    fn from(state: &vm_superio::SerialState) -> Self {
        Self {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line: [state.line_control, state.line_status],
            modem: [state.modem_control, state.modem_status],
            scratch: state.scratch,
        }
    }
}

impl From<&SerialState> for vm_superio::SerialState {
    fn from(state: &SerialState) -> Self {
        let [baud_divisor_low, baud_divisor_high] = state.divisor;
        let [line_control, line_status] = state.line;
        let [modem_control, modem_status] = state.modem;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch: state.scratch,
            in_buffer: Vec::new(),
        }
    }
}

pub(crate) struct Legacy {
    serial: Serial<Interrupt, NoEvents, Console>,
}

impl Legacy {
    /// What the guest writes to its serial line goes to `console`, which does not wait.
    pub(crate) fn new(console: OwnedFd) -> io::Result<Self> {
        let interrupt = Interrupt(EventFd::new(EFD_NONBLOCK)?);
        Ok(Self { serial: Serial::new(interrupt, Console(console.into())) })
    }

    /// As [`new`](Self::new), with the serial line as it was saved.
    pub(crate) fn restored(console: OwnedFd, state: &SerialState) -> Result<Self, io::Error> {
        let interrupt = Interrupt(EventFd::new(EFD_NONBLOCK)?);
        let serial = Serial::from_state(&state.into(), interrupt, NoEvents, Console(console.into()));
        Ok(Self { serial: serial.map_err(|error| io::Error::other(error.to_string()))? })
    }

    pub(crate) fn serial_state(&self) -> SerialState {
        (&self.serial.state()).into()
    }

    pub(crate) fn serial_interrupt(&self) -> &EventFd {
        &self.serial.interrupt_evt().0
    }

    pub(crate) fn read(&mut self, port: u16, data: &mut [u8]) {
        for byte in data {
            *byte = match port {
                SERIAL_START..=SERIAL_END => self.serial.read((port - SERIAL_START) as u8),
                CONTROLLER => CONTROLLER_READY,
                _ => 0xff,
            };
        }
    }

    pub(crate) fn write(&mut self, port: u16, data: &[u8]) -> Option<End> {
        match port {
            SERIAL_START..=SERIAL_END => {
                for &byte in data {
                    // What can fail is the interrupt, when the guest has left 2^64 - 2 of them unanswered.
                    let _ = self.serial.write((port - SERIAL_START) as u8, byte);
                }
                None
            }
            CONTROLLER => data.contains(&RESET).then_some(End::Reset),
            _ => None,
        }
    }
}

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A guest that writes faster than the parent reads loses output: it must not hold the vCPU, nor fill memory.
struct Console(File);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use super::*;

    fn legacy() -> (Legacy, UnixStream) {
        let (reader, writer) = UnixStream::pair().unwrap();
        (Legacy::new(writer.into()).unwrap(), reader)
    }

    #[test]
    fn what_is_written_to_the_data_register_comes_out() {
        let (mut legacy, mut reader) = legacy();
        assert_eq!(legacy.write(SERIAL_START, b"hi"), None);
        drop(legacy);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
    }

    #[test]
    fn a_parent_that_has_stopped_reading_does_not_stop_the_guest() {
        let (mut legacy, reader) = legacy();
        drop(reader);
        assert_eq!(legacy.write(SERIAL_START, b"hi"), None);
    }

    #[test]
    fn only_the_reset_command_resets() {
        let (mut legacy, _reader) = legacy();
        assert_eq!(legacy.write(CONTROLLER, &[0xfd]), None);
        assert_eq!(legacy.write(0x60, &[RESET]), None);
        assert_eq!(legacy.write(CONTROLLER, &[RESET]), Some(End::Reset));
    }

    #[test]
    fn the_controller_is_always_ready_and_other_ports_are_empty() {
        let (mut legacy, _reader) = legacy();
        let mut data = [7; 2];
        legacy.read(CONTROLLER, &mut data);
        assert_eq!(data, [CONTROLLER_READY; 2]);
        legacy.read(0x61, &mut data);
        assert_eq!(data, [0xff; 2]);
    }
}
