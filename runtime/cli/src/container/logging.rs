//! What becomes of that which a container writes: `--log-driver` and `--log-opt`, in docker's words.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::args::memory_size;

/// Where nothing is said, a log has as much room as with docker's driver `local`: a flood does not fill the disk.
const DEFAULT_MAX_BYTES: u64 = 20 << 20;
const DEFAULT_MAX_FILES: u32 = 5;
const MOST_FILES: u32 = 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(crate) enum LogDriver {
    #[default]
    JsonFile,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogOption {
    /// None is no bound.
    MaxSize(Option<u64>),
    MaxFile(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logging {
    pub driver: LogDriver,
    /// Of each file.
    pub max_bytes: Option<u64>,
    /// How many of them there are at most; the oldest goes first.
    pub max_files: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self { driver: LogDriver::JsonFile, max_bytes: Some(DEFAULT_MAX_BYTES), max_files: DEFAULT_MAX_FILES }
    }
}

impl Logging {
    /// As with docker, a size without a number is that of one file.
    pub(crate) fn new(driver: LogDriver, options: &[LogOption]) -> Self {
        let mut logging = Self { driver, ..Self::default() };
        for option in options {
            if let LogOption::MaxSize(bytes) = *option {
                (logging.max_bytes, logging.max_files) = (bytes, 1);
            }
        }
        for option in options {
            if let LogOption::MaxFile(count) = *option {
                logging.max_files = count;
            }
        }
        logging
    }

    /// As docker's `inspect` shows it.
    pub(crate) fn to_json(self) -> serde_json::Value {
        let (name, config) = match self.driver {
            LogDriver::None => ("none", BTreeMap::new()),
            LogDriver::JsonFile => {
                let size = self.max_bytes.map_or("-1".to_owned(), |bytes| bytes.to_string());
                let config = [("max-size", size), ("max-file", self.max_files.to_string())];
                ("json-file", BTreeMap::from(config))
            }
        };
        serde_json::json!({ "Type": name, "Config": config })
    }
}

/// `max-size=10m` or `max-file=3`
pub(crate) fn log_option(text: &str) -> Result<LogOption, String> {
    match text.split_once('=') {
        Some(("max-size", "-1")) => Ok(LogOption::MaxSize(None)),
        Some(("max-size", size)) => {
            memory_size(size).map(|bytes| LogOption::MaxSize(Some(bytes.unsigned_abs())))
        }
        Some(("max-file", count)) => {
            let count = count.parse().ok().filter(|count| (1..=MOST_FILES).contains(count));
            count.map(LogOption::MaxFile).ok_or_else(|| format!("not from 1 to {MOST_FILES}: {text}"))
        }
        _ => Err(format!("not understood: {text} (max-size=SIZE and max-file=NUMBER are)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[&str]) -> (Option<u64>, u32) {
        let options: Vec<_> = options.iter().map(|text| log_option(text).unwrap()).collect();
        let logging = Logging::new(LogDriver::JsonFile, &options);
        (logging.max_bytes, logging.max_files)
    }

    #[test]
    fn a_log_is_bounded_unless_somebody_says_otherwise() {
        assert_eq!(of(&[]), (Some(20 << 20), 5));
        assert_eq!(of(&["max-size=10m"]), (Some(10 << 20), 1));
        assert_eq!(of(&["max-file=3", "max-size=1k"]), (Some(1024), 3));
        assert_eq!(of(&["max-file=3"]), (Some(20 << 20), 3));
        assert_eq!(of(&["max-size=-1"]), (None, 1));
    }

    #[test]
    fn what_is_no_option_is_refused_by_name() {
        for text in
            ["", "max-size", "max-size=", "max-size=x", "max-file=0", "max-file=-1", "tag=x", "max-file=9999"]
        {
            assert!(log_option(text).is_err(), "{text}");
        }
        assert!(log_option("compress=true").unwrap_err().contains("compress=true"));
    }
}
