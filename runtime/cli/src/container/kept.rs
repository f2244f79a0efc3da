//! What is written of a container that `run` has made, beside what is of every container: for one that stays, enough to start it again.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use securectr_image::Digest;
use securectr_sandbox::{GivenFile, NetworkPlan};
use serde::{Deserialize, Serialize};

use super::{budget::Budget, logging::Logging};
use crate::ports::Ports;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub name: String,
    /// As it was typed.
    pub image: String,
    /// Of its configuration; none when a directory is its root.
    pub image_id: Option<Digest>,
    /// What is executed.
    pub command: Vec<String>,
    /// As it was typed, in place of the image's.
    #[serde(default)]
    pub user: Option<String>,
    pub tty: bool,
    /// It has a standard input.
    pub interactive: bool,
    /// It ends with the process that runs it, and nothing of it stays.
    pub is_in_foreground: bool,
    pub read_only: bool,
    /// Nothing of it stays when it ends.
    pub remove: bool,
    pub kernel: Option<PathBuf>,
    /// With the ports that are published as long as it runs.
    pub network: Option<NetworkPlan>,
    /// Which are to be published at each start.
    #[serde(default)]
    pub ports: Vec<Ports>,
    /// How it has lost its network, since its start.
    #[serde(default)]
    pub cut_off: Option<String>,
    pub stop_signal: u32,
    pub stop_timeout: Duration,
    pub budget: Budget,
    #[serde(default)]
    pub logging: Logging,
    /// What it may write to its disk at most.
    pub disk_bytes: u64,
    pub restart: Restart,
    pub labels: Vec<(String, String)>,
    /// Laid over the image's.
    pub files: Vec<GivenFile>,
    /// By its policy, since somebody started it.
    pub restarts: u32,
    /// When each step of the last start was done, in microseconds.
    #[serde(default)]
    pub timings: BTreeMap<String, u64>,
    /// RFC 3339.
    pub started: Option<String>,
    pub ended: Option<Ended>,
}

/// How it ended the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// As a shell tells it.
    pub code: u8,
    /// RFC 3339.
    pub at: String,
    pub oom_killed: bool,
    /// When it was not its program that ended by itself or by a signal.
    pub cause: Option<String>,
    /// The signal by which somebody has asked for its end.
    #[serde(default)]
    pub asked: Option<u32>,
}

/// What follows its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Restart {
    #[default]
    No,
    /// Another start after a failure, so often at most.
    OnFailure(Option<u32>),
    Always,
}

impl Restart {
    /// Whether it is to be started once more.
    pub(crate) fn follows(self, code: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => code != 0 && most.is_none_or(|most| restarts < most),
            Self::Always => true,
        }
    }
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown =
            || format!("not a restart policy: {text} (no, on-failure[:TIMES], always or unless-stopped)");
        match text.split_once(':') {
            Some(("on-failure", times)) => {
                times.parse().map(|times| Self::OnFailure(Some(times))).map_err(|_| unknown())
            }
            Some(_) => Err(unknown()),
            None => match text {
                "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure(None)),
                // Nothing starts containers when this machine does, so that both mean the same.
                "always" | "unless-stopped" => Ok(Self::Always),
                _ => Err(unknown()),
            },
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(times)) => write!(f, "on-failure:{times}"),
            Self::Always => f.write_str("always"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_followed() {
        for (text, code, restarts, follows) in [
            ("no", 1, 0, false),
            ("on-failure", 0, 0, false),
            ("on-failure", 1, 99, true),
            ("on-failure:2", 1, 1, true),
            ("on-failure:2", 1, 2, false),
            ("always", 0, 99, true),
        ] {
            let policy: Restart = text.parse().unwrap();
            assert_eq!(policy.follows(code, restarts), follows, "{text}");
            assert_eq!(policy.to_string(), text);
        }
        for text in ["", "never", "always:2", "on-failure:", "on-failure:-1"] {
            assert!(text.parse::<Restart>().is_err(), "{text}");
        }
    }
}
