//! The main thread once the guest runs: devices, the parent's requests, and the guest's end.
//!
//! One thread, one epoll; what it shares with the vCPUs is behind one lock a device (see [`bus`](crate::bus)).

use std::{
    cell::Cell,
    fs::File,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
    sync::PoisonError,
};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use securectr_vmm::control::{End, Event, Request};
use thiserror::Error;

use crate::{
    devices::{AttachError, Mmio, News, ResizeError},
    machine::Machine,
    memory::MIB,
    parent::{Parent, ParentError},
    vcpu::VcpuError,
};

#[derive(Debug, Error)]
pub(crate) enum LoopError {
    #[error("wait for events")]
    Wait(#[source] event_manager::Error),
    #[error("talk to the parent")]
    Parent(#[from] ParentError),
    #[error("{0}")]
    Device(String),
    #[error("stop or start the vCPUs")]
    Vcpu(#[from] VcpuError),
    #[error("the machine has no network interface {0}")]
    NoSuchNet(u8),
    #[error("the machine has no disk {0}")]
    NoSuchDisk(u8),
    #[error("the machine has no room for more memory")]
    NoRoom,
    #[error("a request came without its descriptor")]
    NoDescriptor,
    #[error("give a device what was sent for it, or take it away")]
    Attach(#[from] AttachError),
    #[error("change the guest's memory")]
    Resize(#[from] ResizeError),
}

type Subscriber = Box<dyn MutEventSubscriber>;

/// The machine and all that it waits for.
pub(crate) struct EventLoop {
    manager: EventManager<Subscriber>,
    ready: Rc<Cell<Ready>>,
    machine: Machine,
}

/// Which of the loop's own descriptors have something.
#[derive(Clone, Copy, Default)]
struct Ready {
    parent: bool,
    news: bool,
}

impl EventLoop {
    pub(crate) fn new(machine: Machine, parent: &Parent) -> Result<Self, LoopError> {
        let mut manager = EventManager::new().map_err(LoopError::Wait)?;
        let ready = Rc::new(Cell::new(Ready::default()));
        manager.add_subscriber(Box::new(Watch {
            parent: parent.as_raw_fd(),
            ending: machine.ending.event.as_raw_fd(),
            news: machine.news.as_raw_fd(),
            ready: Rc::clone(&ready),
        }) as Subscriber);
        for device in &machine.devices {
            manager.add_subscriber(Box::new(device.clone()));
        }
        Ok(Self { manager, ready, machine })
    }

    /// Runs the guest to its end, which is the last thing that the parent is told. An error of
    /// [`ParentError::Gone`] says that there is nobody to tell.
    pub(crate) fn run(&mut self, parent: &mut Parent) -> Result<(), LoopError> {
        self.machine.vcpus.run()?;
        parent.send(&Event::Running)?;
        loop {
            self.manager.run().map_err(LoopError::Wait)?;
            let ready = self.ready.take();
            if ready.news {
                self.collect_news(parent)?;
            }
            if let Some(end) = self.machine.ending.get() {
                parent.send(&Event::Ended(end.clone()))?;
                return Ok(());
            }
            if ready.parent {
                self.obey(parent)?;
            }
        }
    }

    /// A full disk is for the guest to cope with; a guest that abuses a device is at its end, and so is a VMM whose device fails.
    fn collect_news(&self, parent: &mut Parent) -> Result<(), LoopError> {
        // Read before the devices are asked, so that nothing that comes in between is missed.
        let _ = self.machine.news.read();
        for device in &self.machine.devices {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(news) = device.take_news() {
                match news {
                    News::Abuse(what) => self.machine.ending.set(End::DeviceAbuse(what)),
                    News::DiskFull(disk) => parent.send(&Event::DiskFull(disk))?,
                    News::Memory { plugged, requested } => {
                        // No machine has more MiB than a u32 can count.
                        let mib = |bytes| (bytes / MIB) as u32;
                        let event =
                            Event::Memory { plugged_mib: mib(plugged), requested_mib: mib(requested) };
                        parent.send(&event)?;
                    }
                    News::Failure(what) => return Err(LoopError::Device(what)),
                }
            }
        }
        Ok(())
    }

    fn obey(&mut self, parent: &mut Parent) -> Result<(), LoopError> {
        while let Some(request) = parent.request()? {
            let done = match request {
                Request::Pause => {
                    self.machine.vcpus.pause()?;
                    Event::Paused
                }
                Request::Resume => {
                    self.machine.vcpus.run()?;
                    Event::Resumed
                }
                Request::Save => {
                    let file = File::from(parent.take_descriptor().ok_or(LoopError::NoDescriptor)?);
                    match self.machine.save(&file) {
                        Ok(()) => Event::Saved,
                        Err(error) => Event::NotSaved(crate::chain(&error)),
                    }
                }
                Request::TellTouched => Event::Touched(self.machine.touched()),
                Request::AttachNet(index) => {
                    self.attach_net(index, parent)?;
                    Event::NetAttached
                }
                Request::AttachDisk { disk, limits } => {
                    let file = parent.take_descriptor().ok_or(LoopError::NoDescriptor)?;
                    let throttle = limits.map(|limits| self.machine.throttles.get(limits));
                    self.with_disk(disk, |device| {
                        device.attach(file)?;
                        device.throttle(throttle)
                    })?;
                    Event::DiskAttached(disk)
                }
                Request::DetachDisk(index) => {
                    self.with_disk(index, Mmio::detach)?;
                    Event::DiskDetached(index)
                }
                Request::UnlimitDisk(index) => {
                    self.with_disk(index, |disk| disk.throttle(None))?;
                    Event::DiskUnlimited(index)
                }
                Request::AllowVcpus(count) => Event::VcpusAllowed(self.machine.vcpus.allow(count)?),
                Request::ResizeMemory(mib) => {
                    // The device answers.
                    self.resize_memory(mib)?;
                    continue;
                }
            };
            parent.send(&done)?;
        }
        Ok(())
    }

    fn resize_memory(&self, mib: u32) -> Result<(), LoopError> {
        let device = self.machine.mem.as_ref().ok_or(LoopError::NoRoom)?;
        Ok(device.lock().unwrap_or_else(PoisonError::into_inner).resize(u64::from(mib) * MIB)?)
    }

    fn attach_net(&self, index: u8, parent: &mut Parent) -> Result<(), LoopError> {
        let tap = parent.take_descriptor().ok_or(LoopError::NoDescriptor)?;
        let net = self.machine.net(index).ok_or(LoopError::NoSuchNet(index))?;
        Ok(net.lock().unwrap_or_else(PoisonError::into_inner).attach(tap)?)
    }

    fn with_disk(
        &self,
        index: u8,
        change: impl FnOnce(&mut Mmio) -> Result<(), AttachError>,
    ) -> Result<(), LoopError> {
        let disk = self.machine.disk(index).ok_or(LoopError::NoSuchDisk(index))?;
        Ok(change(&mut disk.lock().unwrap_or_else(PoisonError::into_inner))?)
    }
}

/// Only notes which descriptor has woken the loop: the loop itself acts, when the devices have had their turn.
struct Watch {
    parent: RawFd,
    ending: RawFd,
    news: RawFd,
    ready: Rc<Cell<Ready>>,
}

impl MutEventSubscriber for Watch {
    fn init(&mut self, ops: &mut EventOps) {
        for fd in [self.parent, self.ending, self.news] {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                // A new epoll, and descriptors that this process holds: only a lack of kernel memory is left.
                #[expect(
                    clippy::panic,
                    reason = "init cannot fail otherwise; the parent is told by the panic's hook"
                )]
                {
                    panic!("watch descriptor {fd}: {error}");
                }
            }
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        let mut ready = self.ready.get();
        let fd = events.fd();
        ready.parent |= fd == self.parent;
        ready.news |= fd == self.news;
        self.ready.set(ready);
    }
}
