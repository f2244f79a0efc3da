//! What a monitor writes down of its container: a status follows another and never goes back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::record::{Place, Record, Status};

pub(crate) struct Book {
    pub place: Place,
    pub record: Record,
    /// The last signal by which somebody wants its end: nothing starts it again.
    pub asked: Option<u32>,
}

impl Book {
    /// Notes a signal that was sent, if it is one by which somebody wants the end.
    pub(crate) fn note_signal(&mut self, signal: u32) {
        let stop_signal = self.record.kept.as_ref().map(|kept| kept.stop_signal);
        if signal == libc::SIGKILL.unsigned_abs() || Some(signal) == stop_signal {
            self.asked = Some(signal);
        }
    }

    pub(crate) fn turn(&mut self, status: Status) -> Result<()> {
        if self.record.status == Status::Stopped {
            return Ok(());
        }
        self.record.status = status;
        self.place.write(&self.record)
    }
}

/// Nothing of it is left half changed, whoever panicked.
pub(crate) fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
