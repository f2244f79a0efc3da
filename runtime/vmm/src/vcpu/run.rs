//! One vCPU's thread.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender},
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use securectr_vmm::control::End;

use super::{Answer, Command, Ending, sys};
use crate::{arch::VcpuState, bus::Bus};

pub(super) struct Vcpu {
    pub fd: VcpuFd,
    pub bus: Arc<Bus>,
    pub ending: Arc<Ending>,
    pub saved_msrs: Arc<[u32]>,
}

/// Why [`Vcpu::run`] has returned.
enum Stop {
    Signal,
    End(End),
}

impl Vcpu {
    /// Obeys until the process ends; runs the guest in between. A vCPU whose guest has ended still answers.
    pub(super) fn serve(mut self, commands: &Receiver<Command>, answers: &Sender<Answer>) {
        let mut command = commands.recv();
        while let Ok(current) = command {
            let answer = match current {
                Command::Run | Command::Pause => Answer::Done,
                Command::Save => Answer::Saved(VcpuState::of(&self.fd, &self.saved_msrs).map(Box::new)),
            };
            if answers.send(answer).is_err() {
                return;
            }
            if let Command::Run = current {
                self.note_pause();
                match self.run_until_command(commands) {
                    Ok(next) => {
                        command = Ok(next);
                        continue;
                    }
                    Err(end) => self.ending.set(end),
                }
            }
            command = commands.recv();
        }
    }

    /// Runs the guest until there is a command; the error is the guest's end.
    fn run_until_command(&mut self, commands: &Receiver<Command>) -> Result<Command, End> {
        loop {
            // Cleared before looking: who sends a command sends it before setting the flag.
            self.fd.set_kvm_immediate_exit(0);
            if let Ok(command) = commands.try_recv() {
                return Ok(command);
            }
            match self.run() {
                Stop::Signal => {}
                Stop::End(end) => return Err(end),
            }
        }
    }

    fn run(&mut self) -> Stop {
        loop {
            match self.fd.run() {
                Ok(VcpuExit::MmioRead(address, data)) => self.bus.read(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => self.bus.write(address, data),
                Ok(VcpuExit::IoIn(port, data)) => self.bus.read_port(port, data),
                Ok(VcpuExit::IoOut(port, data)) => {
                    if let Some(end) = self.bus.write_port(port, data) {
                        return Stop::End(end);
                    }
                }
                Ok(VcpuExit::Intr) => return Stop::Signal,
                Ok(VcpuExit::Shutdown) => return Stop::End(End::TripleFault),
                Ok(VcpuExit::InternalError) => return Stop::End(self.internal_error()),
                Ok(other) => return Stop::End(End::KvmError(format!("unexpected exit {other:x?}"))),
                // EAGAIN: a vCPU that waits for its SIPI has been woken.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Stop::Signal,
                Err(error) => return Stop::End(self.run_error(error)),
            }
        }
    }

    /// Tells the guest that it was stopped, so that its watchdogs do not count the time (KVM_KVMCLOCK_CTRL). Before the guest
    /// has set up its clock there is nothing to tell.
    fn note_pause(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }

    fn internal_error(&mut self) -> End {
        let text = match sys::internal_error(self.fd.get_kvm_run()) {
            Some((suberror, data)) => format!("internal error {suberror}, data {data:x?}"),
            None => "internal error".to_owned(),
        };
        End::KvmError(text + &self.position())
    }

    fn run_error(&self, error: kvm_ioctls::Error) -> End {
        End::KvmError(format!("KVM_RUN: {error}{}", self.position()))
    }

    fn position(&self) -> String {
        self.fd.get_regs().map_or_else(|_| String::new(), |regs| format!(" at rip {:#x}", regs.rip))
    }
}
