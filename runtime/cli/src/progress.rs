//! How far something is, for a person at a terminal; nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use securectr_image::Progress;

/// Bytes of a whole, with the time that is left.
const TEMPLATE: &str = "{msg:<10} [{wide_bar}] {bytes}/{total_bytes} {eta}";

/// A bar on standard error, which is there only while something takes long enough to be shown.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(crate) fn show(&self, progress: Progress) {
        let (what, done, total) = match progress {
            Progress::Waiting => ("waiting for another securectr", 0, 0),
            Progress::Copying { done, total } => ("copying", done, total),
            Progress::Reading { done, total } => ("reading", done, total),
            Progress::Writing { done, total } => ("writing", done, total),
        };
        self.0.set_message(what);
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

/// How often it turns.
const TICK: Duration = Duration::from_millis(100);

/// That something is done of which nobody knows how long it takes.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
