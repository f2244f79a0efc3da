//! What went wrong while a process was prepared: which step, on what, and the kernel's word.

use std::io;

use thiserror::Error;

#[derive(Debug, Error)]
#[error("{operation}")]
pub(super) struct Failure {
    operation: String,
    source: io::Error,
}

impl Failure {
    /// In one line, for a channel that carries bytes.
    pub(super) fn line(&self) -> String {
        format!("{}: {}", self.operation, self.source)
    }
}

/// Names the operation that an error belongs to.
pub(super) trait During<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { operation: operation(), source: error.into() })
    }
}
