//! What containerd calls the shim with: flags in Go's way, then one action.

use std::{ffi::OsString, path::PathBuf};

use thiserror::Error;

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Serve a pod, on the socket that `start` has handed over.
    #[default]
    Serve,
    Start,
    Delete,
    /// Describe the runtime to containerd.
    Info,
    /// Tell the version to people.
    Version,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub action: Action,
    pub namespace: String,
    /// Of the container or pod.
    pub id: String,
    /// Where containerd's own socket lies.
    pub address: String,
    /// The bundle, when it is not the working directory.
    pub bundle: Option<PathBuf>,
    pub debug: bool,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ArgsError {
    #[error("the argument {0:?} is not UTF-8")]
    Encoding(OsString),
    #[error("there is no flag {0}")]
    Unknown(String),
    #[error("the flag -{0} needs a value")]
    NoValue(String),
    #[error("there is no action {0:?}: start, delete")]
    Action(String),
}

/// As Go's package flag reads them: `-flag value`, `-flag=value`, one dash or two, until the first word that is no flag.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Args, ArgsError> {
    let mut args = Args::default();
    let mut words = words.map(|word| word.into_string().map_err(ArgsError::Encoding));
    while let Some(word) = words.next().transpose()? {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            args.action = match word.as_str() {
                "start" => Action::Start,
                "delete" => Action::Delete,
                _ => return Err(ArgsError::Action(word)),
            };
            return Ok(args);
        };
        let (name, given) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        match name {
            "debug" => args.debug = given != Some("false"),
            "v" | "version" => args.action = Action::Version,
            "info" => args.action = Action::Info,
            "namespace" | "id" | "address" | "bundle" | "publish-binary" | "socket" => {
                let value = match given {
                    Some(value) => value.to_owned(),
                    None => words.next().transpose()?.ok_or_else(|| ArgsError::NoValue(name.to_owned()))?,
                };
                args.set(name, value);
            }
            _ => return Err(ArgsError::Unknown(word)),
        }
    }
    Ok(args)
}

impl Args {
    /// Events go by ttrpc and not by the publish binary, and the socket is our own choice.
    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => {
                self.bundle = Some(value.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty())
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, ArgsError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_call_is_understood() {
        let args = parsed(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id web -bundle /b start",
        );
        let expected = Args {
            action: Action::Start,
            namespace: "k8s.io".into(),
            id: "web".into(),
            address: "/run/c.sock".into(),
            bundle: Some("/b".into()),
            debug: false,
        };
        assert_eq!(args, Ok(expected));
    }

    #[test]
    fn flags_take_both_of_gos_spellings() {
        let args = parsed("--id=a -debug delete").unwrap();
        assert_eq!((args.id.as_str(), args.debug, args.action), ("a", true, Action::Delete));
        assert_eq!(parsed("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_nobody_calls_it_with_is_refused() {
        assert_eq!(parsed("-frobnicate start"), Err(ArgsError::Unknown("-frobnicate".into())));
        assert_eq!(parsed("-id"), Err(ArgsError::NoValue("id".into())));
        assert_eq!(parsed("stop"), Err(ArgsError::Action("stop".into())));
    }
}
