//! When each step of a start was done, counted from the entry of `main`.

use std::{sync::Arc, sync::Mutex, time::Instant};

use serde_json::{Map, Value};

/// Stamps, in microseconds since it was made. The pump of the output adds one from its own thread, hence the lock.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    begin: Instant,
    stamps: Arc<Mutex<Map<String, Value>>>,
}

impl Timeline {
    pub(crate) fn begin() -> Self {
        Self { begin: Instant::now(), stamps: Arc::default() }
    }

    /// Notes that a step is done; the first time counts.
    pub(crate) fn stamp(&self, step: &str) {
        let elapsed_us = self.begin.elapsed().as_micros() as u64;
        if let Ok(mut stamps) = self.stamps.lock() {
            stamps.entry(format!("{step}_us")).or_insert(elapsed_us.into());
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        self.stamps.lock().map(|stamps| Value::Object(stamps.clone())).unwrap_or_default()
    }
}
