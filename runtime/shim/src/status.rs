//! Our words in containerd's: exit statuses, times, states, errors.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::{
    protobuf::well_known_types::timestamp::Timestamp,
    ttrpc::{self, Code, get_status},
};
use securectr_sandbox::Exit;

pub(crate) fn exit_code(exit: &Exit) -> u32 {
    exit.status.shell_code().into()
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        // Years until the seconds do not fit: 292 billion.
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
        ..Default::default()
    }
}

/// An error of a task call. Clients match on the words: they are those of containerd's own shim, which end with the error's kind.
/// containerd adds it up to 1.7, if it is not there, and no longer from 2 on.
pub(crate) fn error(code: Code, words: impl Into<String>) -> ttrpc::Error {
    let mut words = words.into();
    let ending = kind(code).map(|kind| format!(": {kind}")).unwrap_or_default();
    if !words.ends_with(&ending) {
        words += &ending;
    }
    ttrpc::Error::RpcStatus(get_status(code, words))
}

/// What containerd calls it.
fn kind(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::UNKNOWN => "unknown",
        Code::INVALID_ARGUMENT => "invalid argument",
        Code::NOT_FOUND => "not found",
        Code::ALREADY_EXISTS => "already exists",
        Code::FAILED_PRECONDITION => "failed precondition",
        Code::UNAVAILABLE => "unavailable",
        Code::UNIMPLEMENTED => "not implemented",
        _ => return None,
    })
}

pub(crate) fn not_found(words: impl Into<String>) -> ttrpc::Error {
    error(Code::NOT_FOUND, words)
}

pub(crate) fn precondition(words: impl Into<String>) -> ttrpc::Error {
    error(Code::FAILED_PRECONDITION, words)
}

/// What went wrong here, with its causes.
pub(crate) fn internal(cause: &(dyn std::error::Error + 'static)) -> ttrpc::Error {
    error(Code::UNKNOWN, crate::line(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_ends_with_its_kind_once() {
        let words = |code, words: &str| match error(code, words) {
            ttrpc::Error::RpcStatus(status) => status.message,
            other => other.to_string(),
        };
        assert_eq!(words(Code::NOT_FOUND, "process already finished"), "process already finished: not found");
        assert_eq!(words(Code::ALREADY_EXISTS, "id e1: already exists"), "id e1: already exists");
        assert_eq!(words(Code::DEADLINE_EXCEEDED, "too late"), "too late");
    }
}
