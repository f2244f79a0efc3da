//! The host's want of memory: its kernel tells of it (Documentation/accounting/psi.rst), where it knows.

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use crate::{Sandbox, sys::watch_priority};

const FILE: &str = "/proc/pressure/memory";

/// Somebody has waited for memory a tenth of two seconds: those who are not root may ask for a multiple of these alone.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// What there was to give has been given by then, and something may have come. A container that ends before has not much either, and need
/// not wait for the kernel to let go of the watch, which takes it several milliseconds.
const PAUSE: Duration = Duration::from_secs(10);

impl Sandbox {
    /// Lets the guest give up what it only keeps for later whenever the host wants memory, as long as anybody has the sandbox.
    pub fn heed_pressure(self: &Arc<Self>) {
        let sandbox = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(PAUSE).await;
            // Where the kernel does not tell, nothing is heard.
            let Ok(file) = open() else { return };
            while let Ok(mut ready) = file.ready(Interest::PRIORITY).await {
                ready.clear_ready();
                let Some(sandbox) = sandbox.upgrade() else { return };
                // A guest that stands still, or is at its end, has nothing to give.
                let _ = sandbox.reclaim().await;
                drop(sandbox);
                sleep(PAUSE).await;
            }
        });
    }
}

fn open() -> io::Result<AsyncFd<File>> {
    let mut file = File::options().read(true).write(true).open(FILE)?;
    file.write_all(TRIGGER)?;
    watch_priority(file)
}
