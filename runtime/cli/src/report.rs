//! What securectr itself has to say, to standard error: one line each, for people or for programs.

use std::io::Write;

use serde_json::json;

use crate::args::LogFormat;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Report(LogFormat);

impl Report {
    pub(crate) fn new(format: LogFormat) -> Self {
        Self(format)
    }

    /// The one place that prints an error with its chain of causes.
    pub(crate) fn error(self, error: &anyhow::Error) {
        self.line("error", &format!("{error:#}"));
    }

    pub(crate) fn warning(self, text: &str) {
        self.line("warning", text);
    }

    fn line(self, level: &str, text: &str) {
        let line = match self.0 {
            LogFormat::Text => format!("securectr: {text}\n"),
            LogFormat::Json => format!("{}\n", json!({"level": level, "msg": text})),
        };
        // There is nowhere left to say that standard error is gone.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
