//! The host's want of memory: its kernel tells of it (Documentation/accounting/psi.rst), where it knows.

use std::{
    fs::File,
    future::pending,
    io::{self, Write},
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::sys::watch_priority;

const FILE: &str = "/proc/pressure/memory";

/// Somebody has waited for memory a tenth of two seconds: those who are not root may ask for a multiple of these alone.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// What there was to give has been given by then, and something may have come. A container that ends before has not much either, and need
/// not wait for the kernel to let go of the watch, which takes it several milliseconds.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Pressure {
    /// Not before it is first asked for.
    file: Option<AsyncFd<File>>,
    /// Not told before.
    next: Instant,
}

impl Pressure {
    pub(super) fn watch() -> Self {
        Self { file: None, next: Instant::now() + PAUSE }
    }

    /// Returns when memory is wanted; where the kernel does not tell, never. May be given up and called again.
    pub(super) async fn wanted(&mut self) {
        sleep_until(self.next).await;
        if self.file.is_none() {
            self.file = open().ok();
        }
        let Some(file) = &self.file else { return pending().await };
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => pending().await,
        }
        self.next = Instant::now() + PAUSE;
    }
}

fn open() -> io::Result<AsyncFd<File>> {
    let mut file = File::options().read(true).write(true).open(FILE)?;
    file.write_all(TRIGGER)?;
    watch_priority(file)
}
