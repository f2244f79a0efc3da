//! The transport in the event loop: the only place from which a device is called.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;

use super::{Mmio, News, signal};
use crate::devices::{Progress, virtqueue::Violation};

/// Events carry the index of their queue, or one of these.
const WAKE: u32 = u32::MAX;
const DEVICE: u32 = u32::MAX - 1;

impl MutEventSubscriber for Mmio {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut watched = vec![Events::with_data(&self.wake, WAKE, EventSet::IN)];
        for index in 0.. {
            let Some(event) = usize::try_from(index).ok().and_then(|index| self.queues.event(index)) else {
                break;
            };
            watched.push(Events::with_data(event, index, EventSet::IN));
        }
        for events in watched {
            if let Err(error) = ops.add(events) {
                self.fail("watch its events", &error);
            }
        }
        // A restored device begins without a word from its driver.
        self.call_event_loop();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            WAKE => drop(self.wake.read()),
            DEVICE => {}
            index => drop(
                usize::try_from(index)
                    .ok()
                    .and_then(|index| self.queues.event(index))
                    .map(|event| event.read()),
            ),
        }
        self.settle();
        if self.running && self.negotiation.is_live() {
            self.run_device();
        }
        self.watch_device(ops);
        while let Some(news) = self.device.take_news() {
            self.tell(news.about(&self.name));
        }
    }
}

impl Mmio {
    /// Brings the device to where the driver has brought the status register, in the driver's order.
    fn settle(&mut self) {
        if std::mem::take(&mut self.reset_owed) {
            self.running = false;
            self.device.reset();
        }
        if self.negotiation.is_live() && !self.running {
            match self.device.activate(self.negotiation.accepted()) {
                Ok(()) => self.running = true,
                Err(error) => self.fail("begin", &error),
            }
        }
    }

    fn run_device(&mut self) {
        match self.process_queues() {
            Ok((progress, wants_interrupt)) => {
                if wants_interrupt {
                    self.interrupt(VIRTIO_MMIO_INT_VRING);
                }
                if progress == Progress::More {
                    // At the end of the line: other devices come first.
                    signal(&self.wake);
                }
            }
            Err(violation) => self.stop_for(violation),
        }
    }

    fn process_queues(&mut self) -> Result<(Progress, bool), Violation> {
        let memory = self.memory.now();
        let mut queues = self.queues.virtqueues(&memory);
        let progress = self.device.process(&mut queues)?;
        let mut wants_interrupt = false;
        for queue in &mut queues {
            wants_interrupt |= queue.wants_interrupt()?;
        }
        Ok((progress, wants_interrupt))
    }

    /// Watches the device's descriptor as long as the device may act on it: one that stays readable would never let us rest.
    fn watch_device(&mut self, ops: &mut EventOps<'_>) {
        let may_act = self.running && self.negotiation.is_live();
        let wanted = self.device.poll_fd().filter(|_| may_act);
        if wanted == self.watched {
            return;
        }
        let events = |fd| Events::with_data_raw(fd, DEVICE, EventSet::IN);
        let removed = self.watched.map_or(Ok(()), |fd| ops.remove(events(fd)));
        let changed = removed.and_then(|()| wanted.map_or(Ok(()), |fd| ops.add(events(fd))));
        self.watched = wanted;
        if let Err(error) = changed {
            self.fail("watch its descriptor", &error);
        }
    }

    fn fail(&mut self, operation: &str, error: &dyn std::error::Error) {
        self.tell(News::Failure(format!("{}: {operation}: {error}", self.name)));
    }
}
