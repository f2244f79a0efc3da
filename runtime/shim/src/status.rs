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

/// An error of a task call. Clients match on the words: they are those of containerd's own shim.
pub(crate) fn error(code: Code, words: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, words.into()))
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
