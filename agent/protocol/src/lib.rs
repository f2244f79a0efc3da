//! The contract between the host and the agent in the guest: messages, the ttrpc service, vsock ports and the greeting.

#[expect(
    clippy::allow_attributes,
    clippy::panic,
    clippy::unwrap_used,
    reason = "generated code: carries its own lint settings, and unwraps descriptors that are constants"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::{agent, agent_ttrpc};

/// Host port that the agent dials when it is ready: the connection is the readiness.
pub const RPC_PORT: u32 = 1024;

/// Guest port on which the agent accepts the stdio streams of processes.
pub const STDIO_PORT: u32 = 1025;

/// Where the guest sees what the host shares, each under its name. The source of a bind mount may lie here.
pub const SHARED: &str = "/run/securectr/shared";

/// By which the guest mounts it (virtio-fs).
pub const SHARED_TAG: &str = "shared";

/// Where the guest has what the containers of a pod share: the namespaces `ipc`, `pid` and `uts`, and the directory `shm`.
pub const POD: &str = "/run/securectr/pod";

/// Where the source of a mount lies that is one of the request's block devices, by its number in their order. There is no file.
pub const BLOCK_DEVICES: &str = "/run/securectr/devices";

/// An option of a bind mount in a spec, ours: its source lies in [`SHARED`], and if it is empty, it gets what the root has at the
/// destination before it is mounted there.
pub const COPY_UP: &str = "securectr-copy-up";

/// An annotation of a spec, ours: "true" for a container whose first process is the agent's, which starts the program, passes signals
/// on to it, and reaps what is left to it.
pub const INIT: &str = "securectr.init";

/// How long `Wait` lets output drain after the process has ended.
pub const DRAIN_LIMIT_MS: u64 = 2_000;

/// Grows with every change that an older peer cannot understand.
pub const PROTOCOL_VERSION: u32 = 8;

/// Bytes that open the connection, before ttrpc begins: a magic, then [`PROTOCOL_VERSION`] in little endian.
pub const GREETING_LEN: usize = 20;

const GREETING_MAGIC: &[u8; 16] = b"securectr-agent\0";

/// What the agent writes first.
pub fn greeting() -> [u8; GREETING_LEN] {
    let mut bytes = [0; GREETING_LEN];
    let (magic, version) = bytes.split_at_mut(GREETING_MAGIC.len());
    magic.copy_from_slice(GREETING_MAGIC);
    version.copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes
}

/// The protocol version in a peer's greeting, or `None` when it is not a greeting at all.
pub fn greeted_version(bytes: &[u8; GREETING_LEN]) -> Option<u32> {
    let version = bytes.strip_prefix(GREETING_MAGIC)?;
    Some(u32::from_le_bytes(version.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_carries_the_version() {
        assert_eq!(greeted_version(&greeting()), Some(PROTOCOL_VERSION));
    }

    #[test]
    fn other_bytes_are_no_greeting() {
        assert_eq!(greeted_version(&[b'x'; GREETING_LEN]), None);
    }
}
