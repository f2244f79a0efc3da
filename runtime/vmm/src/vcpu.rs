//! The guest's processors: one thread each, which runs the guest until it leaves for a device, a command, or its end.
//!
//! A command reaches a vCPU by channel; a signal and KVM's `immediate_exit` make it look. The flag is set before the signal is
//! sent, so a vCPU that is about to enter the guest when the signal comes leaves it at once.

mod run;
mod sys;

use std::{
    io,
    ops::Range,
    sync::{
        Arc, OnceLock,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use kvm_ioctls::{KvmRunWrapper, VcpuFd};
use securectr_jail::seccomp::SeccompError;
use securectr_vmm::control::End;
use thiserror::Error;
use vmm_sys_util::{
    eventfd::{EFD_NONBLOCK, EventFd},
    signal::{Killable, SIGRTMIN, register_signal_handler},
};

use crate::{
    arch::{StateError, VcpuState},
    bus::Bus,
    seccomp,
    vcpu::run::Vcpu,
};

/// A vCPU's thread runs shallow code; what a thread does not touch of its stack costs nothing.
const STACK_LEN: usize = 256 * 1024;

/// Far longer than any access to a device takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// `kvm_run` lies at the start of a vCPU's mapping and is smaller than a page.
const RUN_LEN: usize = 4096;

#[derive(Debug, Error)]
pub(crate) enum VcpuError {
    #[error("prepare the signal that stops vCPUs")]
    Signal(#[source] vmm_sys_util::errno::Error),
    #[error("map the control page of vCPU {0}")]
    Map(usize, #[source] vmm_sys_util::errno::Error),
    #[error("start the thread of vCPU {0}")]
    Thread(usize, #[source] io::Error),
    #[error("confine the thread of a vCPU")]
    Seccomp(#[source] SeccompError),
    #[error("save a vCPU")]
    Save(#[source] StateError),
    #[error("a vCPU does not answer")]
    Silent(#[source] RecvTimeoutError),
}

/// What a vCPU may be told. It answers each with [`Answer::Done`], but for the last.
#[derive(Clone, Copy, Debug)]
enum Command {
    Run,
    Pause,
    /// To one that is paused.
    Save,
}

#[derive(Debug)]
enum Answer {
    Done,
    Failed(SeccompError),
    Saved(Result<Box<VcpuState>, StateError>),
}

/// The guest's end, said once, by whoever sees it first.
#[derive(Debug)]
pub(crate) struct Ending {
    first: OnceLock<End>,
    /// Readable when the guest has ended.
    pub event: EventFd,
}

impl Ending {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { first: OnceLock::new(), event: EventFd::new(EFD_NONBLOCK)? })
    }

    pub(crate) fn get(&self) -> Option<&End> {
        self.first.get()
    }

    pub(crate) fn set(&self, end: End) {
        if self.first.set(end).is_ok() {
            // Cannot overflow: it is written once.
            let _ = self.event.write(1);
        }
    }
}

/// All vCPUs of a machine; they begin paused, and end with the process. Those that are not allowed stay so, whatever the guest
/// tells them: what it uses of the host's CPUs is bounded by how many run.
pub(crate) struct Vcpus {
    threads: Vec<Thread>,
    allowed: usize,
    are_running: bool,
    answers: Receiver<Answer>,
}

struct Thread {
    commands: Sender<Command>,
    /// The vCPU's control page, mapped a second time: the first mapping is the thread's.
    page: KvmRunWrapper,
    handle: JoinHandle<()>,
}

impl Vcpus {
    /// Starts the threads, each confined by its own filter when this returns. They know which MSRs to save.
    pub(crate) fn start(
        fds: Vec<VcpuFd>,
        allowed: u8,
        bus: &Arc<Bus>,
        ending: &Arc<Ending>,
        saved_msrs: &Arc<[u32]>,
    ) -> Result<Self, VcpuError> {
        register_signal_handler(SIGRTMIN(), sys::on_signal).map_err(VcpuError::Signal)?;
        let filter = Arc::new(seccomp::vcpu_filter().map_err(VcpuError::Seccomp)?);
        let (answer, answers) = mpsc::channel();
        let threads = Vec::with_capacity(fds.len());
        let mut vcpus = Self { threads, allowed: allowed.into(), are_running: false, answers };
        for (index, fd) in fds.into_iter().enumerate() {
            let page =
                KvmRunWrapper::mmap_from_fd(&fd, RUN_LEN).map_err(|error| VcpuError::Map(index, error))?;
            let (commands, inbox) = mpsc::channel();
            let saved_msrs = Arc::clone(saved_msrs);
            let vcpu = Vcpu { fd, bus: Arc::clone(bus), ending: Arc::clone(ending), saved_msrs };
            let (answer, filter) = (answer.clone(), Arc::clone(&filter));
            let body = move || match filter.install() {
                Ok(()) => {
                    let _ = answer.send(Answer::Done);
                    vcpu.serve(&inbox, &answer);
                }
                Err(error) => {
                    let _ = answer.send(Answer::Failed(error));
                }
            };
            let builder = thread::Builder::new().name(format!("vcpu{index}")).stack_size(STACK_LEN);
            let handle = builder.spawn(body).map_err(|error| VcpuError::Thread(index, error))?;
            vcpus.threads.push(Thread { commands, page, handle });
        }
        vcpus.gather(vcpus.threads.len())?;
        Ok(vcpus)
    }

    pub(crate) fn run(&mut self) -> Result<(), VcpuError> {
        self.are_running = true;
        self.tell(0..self.allowed, Command::Run)
    }

    /// Returns when no vCPU executes the guest any more.
    pub(crate) fn pause(&mut self) -> Result<(), VcpuError> {
        self.are_running = false;
        self.tell(0..self.allowed, Command::Pause)
    }

    /// What each is, in their order; they are paused.
    pub(crate) fn save(&mut self) -> Result<Vec<VcpuState>, VcpuError> {
        let mut states = Vec::with_capacity(self.threads.len());
        for thread in &self.threads {
            // A thread ends only with the process.
            let _ = thread.commands.send(Command::Save);
            match self.answers.recv_timeout(PATIENCE).map_err(VcpuError::Silent)? {
                Answer::Saved(state) => states.push(*state.map_err(VcpuError::Save)?),
                Answer::Failed(error) => return Err(VcpuError::Seccomp(error)),
                Answer::Done => return Err(VcpuError::Silent(RecvTimeoutError::Disconnected)),
            }
        }
        Ok(states)
    }

    /// Lets so many run, and never fewer than before: a guest that waits for a vCPU which has stopped would hang. Returns how many
    /// it is now.
    pub(crate) fn allow(&mut self, count: u8) -> Result<u8, VcpuError> {
        let before = self.allowed;
        self.allowed = before.max(usize::from(count).min(self.threads.len()));
        if self.are_running {
            self.tell(before..self.allowed, Command::Run)?;
        }
        // No machine has more than a u8 can count.
        Ok(self.allowed as u8)
    }

    fn tell(&mut self, range: Range<usize>, command: Command) -> Result<(), VcpuError> {
        let mut count = 0;
        for thread in self.threads.get_mut(range).into_iter().flatten() {
            // A thread ends only with the process.
            let _ = thread.commands.send(command);
            thread.page.as_mut_ref().immediate_exit = 1;
            thread.handle.kill(SIGRTMIN()).map_err(VcpuError::Signal)?;
            count += 1;
        }
        self.gather(count)
    }

    /// Waits for one answer of each of so many.
    fn gather(&self, count: usize) -> Result<(), VcpuError> {
        for _ in 0..count {
            match self.answers.recv_timeout(PATIENCE).map_err(VcpuError::Silent)? {
                // A state is waited for where it is asked for.
                Answer::Done | Answer::Saved(_) => {}
                Answer::Failed(error) => return Err(VcpuError::Seccomp(error)),
            }
        }
        Ok(())
    }
}
