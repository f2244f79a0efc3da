//! What a monitor writes down of its container: a status follows another and never goes back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use super::{
    journal::{Action, Journal},
    kept::Restart,
    record::{Place, Record, Status},
};
use crate::timeline::Timeline;

pub(crate) struct Book {
    pub place: Place,
    pub record: Record,
    /// The last signal by which somebody wants its end: nothing starts it again.
    pub asked: Option<u32>,
    /// None for one of the OCI command line.
    pub journal: Option<Journal>,
    /// It stands still while it is saved.
    pub is_held: bool,
    /// The checkpoint that it was ended for.
    pub saved_as: Option<String>,
}

impl Book {
    pub(crate) fn new(place: Place, record: Record, journal: Option<Journal>) -> Self {
        Self { place, record, asked: None, journal, is_held: false, saved_as: None }
    }

    /// Notes a signal that was sent, if it is one by which somebody wants the end.
    pub(crate) fn note_signal(&mut self, signal: u32) {
        let stop_signal = self.record.kept.as_ref().map(|kept| kept.stop_signal);
        if signal == libc::SIGKILL.unsigned_abs() || Some(signal) == stop_signal {
            self.asked = Some(signal);
        }
        self.note(&Action::Kill { signal });
    }

    /// Notes that it has no network any more.
    pub(crate) fn note_loss(&mut self, words: String) -> Result<()> {
        let Some(kept) = &mut self.record.kept else { return Ok(()) };
        kept.cut_off = Some(words);
        self.place.write(&self.record)
    }

    /// It is written with the next turn.
    pub(crate) fn note_timings(&mut self, timeline: &Timeline) {
        if let Some(kept) = &mut self.record.kept {
            kept.timings = timeline.in_us();
        }
    }

    pub(crate) fn turn(&mut self, status: Status) -> Result<()> {
        if self.record.status == Status::Stopped {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.record.status, status);
        self.place.write(&self.record)?;
        match (before, status) {
            (Status::Paused, Status::Running) => self.note(&Action::Unpause),
            (_, Status::Running) => self.note(&Action::Start),
            (_, Status::Paused) => self.note(&Action::Pause),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn rename(&mut self, name: &str) -> Result<()> {
        let kept = self.record.kept.as_mut().context("the container has no name but its id")?;
        let old_name = std::mem::replace(&mut kept.name, name.to_owned());
        self.place.write(&self.record)?;
        self.note(&Action::Rename { old_name });
        Ok(())
    }

    /// What follows its end from now on.
    pub(crate) fn set_restart(&mut self, policy: Restart) -> Result<()> {
        let kept = self.record.kept.as_mut().filter(|kept| !kept.is_in_foreground);
        let kept = kept.context("only a container that stays can be started again")?;
        if kept.remove && policy != Restart::No {
            bail!("the container removes itself when it ends");
        }
        kept.restart = policy;
        self.place.write(&self.record)
    }

    pub(crate) fn note(&self, action: &Action) {
        if let Some(journal) = &self.journal {
            journal.note(&self.record, action);
        }
    }
}

/// Nothing of it is left half changed, whoever panicked.
pub(crate) fn locked(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
