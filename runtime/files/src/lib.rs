//! What a parent says to `securectr-files`, and what it hears back. The server itself is the binary beside this library.
//!
//! The server's descriptors: the standard streams, [`CONTROL_FD`] and [`REQUESTS_FD`]. On the control socket it is one JSON document
//! a line: the parent's [`FilesSpec`] first, then [`Request`]s; the server answers with [`Event`]s. It ends when either socket is
//! closed at the other end.

use serde::{Deserialize, Serialize};

/// The number of the descriptor on which the server finds its control socket: a Unix stream socket.
pub const CONTROL_FD: i32 = 3;

/// The number of the descriptor on which it finds the socket of its only client: a Unix socket of type SOCK_SEQPACKET, each
/// datagram a FUSE message of at most [`MAX_MESSAGE_LEN`] bytes.
pub const REQUESTS_FD: i32 = 4;

/// 128 KiB of data, and headers, in bytes.
pub const MAX_MESSAGE_LEN: usize = 128 * 1024 + 4096;

/// No line on the control socket is longer, in bytes.
pub const MAX_LINE_LEN: usize = 4096;

/// How a server is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesSpec {
    pub owners: Owners,
}

/// Whom new files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// To the user of the guest who makes them, by number. The server is root, in the host's own user namespace.
    Real,
    /// To the one user whom the server's user namespace maps.
    One,
}

/// What a parent may ask of a running server. Each is answered by [`Event::Done`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A share of this name, which is mounted after the answer, is changed by the guest alone: it may remember what it knows.
    Exclusive(String),
    /// Let go of all files of a share, by its name.
    Release(String),
}

/// What a server tells its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The jail is shut. From now on the parent may mount shares, each on a directory or file of its own in the server's root.
    Ready,
    Done,
    /// The server could not go on; the text is its chain of causes. The last event.
    Failed(String),
}
