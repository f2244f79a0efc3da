//! How a run ended, as `securectr run --outcome FILE` writes it.

use serde::{Deserialize, Serialize};

/// One JSON document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// As a shell tells it: 128 and the signal's number for what a signal ended, 126 and 127 for a program that could not be executed,
    /// 125 when there was no container.
    pub code: u8,
    pub cause: Cause,
    /// In words, where there is more to say.
    pub message: Option<String>,
}

/// What made it end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The program, by itself.
    Exit,
    /// A signal that was not sent for one of the reasons below.
    Signal,
    /// The guest's kernel killed a process for want of memory.
    Memory,
    /// `--timeout`
    Time,
    /// `--cpu-seconds`
    CpuTime,
    /// `--output-limit`
    Output,
    /// The program could not be executed.
    NotExecuted,
    /// The machine ended under it.
    Machine,
    /// There was no container.
    Failed,
}
