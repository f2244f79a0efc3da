//! What securectr itself has to say, to standard error: one line each, for people or for programs.

use std::{fs::File, io::Write, path::Path, time::SystemTime};

use serde_json::json;

use crate::args::LogFormat;

#[derive(Debug)]
pub(crate) struct Report {
    /// None for one that says nothing to standard error.
    format: Option<LogFormat>,
    /// Written to beside standard error.
    log: Option<File>,
}

impl Report {
    /// A log that cannot be opened is done without.
    pub(crate) fn new(format: LogFormat, log: Option<&Path>) -> Self {
        let log = log.and_then(|path| File::options().append(true).create(true).open(path).ok());
        Self { format: Some(format), log }
    }

    /// Says nothing to standard error.
    pub(crate) fn silent(&self) -> Self {
        Self { format: None, log: self.log.as_ref().and_then(|log| log.try_clone().ok()) }
    }

    /// The one place that prints an error with its chain of causes.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.line("error", &format!("{error:#}"));
    }

    /// Does it to one after the other, and goes on when one fails, which is told. Answers with the exit code.
    pub(crate) fn each<T>(&self, things: &[T], mut act: impl FnMut(&T) -> anyhow::Result<()>) -> u8 {
        let mut code = 0;
        for thing in things {
            if let Err(error) = act(thing) {
                self.error(&error);
                code = 1;
            }
        }
        code
    }

    pub(crate) fn warning(&self, text: &str) {
        self.line("warning", text);
    }

    fn line(&self, level: &str, text: &str) {
        let line = match self.format {
            Some(LogFormat::Text) | None => format!("securectr: {text}\n"),
            Some(LogFormat::Json) => {
                let time = humantime::format_rfc3339(SystemTime::now()).to_string();
                format!("{}\n", json!({"level": level, "msg": text, "time": time}))
            }
        };
        if self.format.is_some() {
            // There is nowhere left to say that standard error is gone.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        let _ = self.log.as_ref().map(|mut log| log.write_all(line.as_bytes()));
    }
}
