//! What this process gives up before it speaks to anybody: a host's answers are parsed with little memory and hardly a file.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    make_bitflags, path_beneath_rules,
};
use securectr_jail::{self as jail, JailError, Limits};
use securectr_registry::Request;
use thiserror::Error;

/// Connections, the files of three blobs, those of the standard library and of name resolution.
const MAX_DESCRIPTORS: u64 = 256;

/// In bytes: about four times what three transfers by TLS and a manifest of 4 MiB were seen to need (29 MB).
const MAX_MEMORY: u64 = 128 << 20;

/// Newer kernels can do more, which has not been tried: connections to the sockets of name services would be cut.
const ABI_TRIED: ABI = ABI::V6;

/// What name resolution and TLS read. Nothing of it is executed: libraries are mapped.
const SYSTEM: [&str; 10] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/dev/null",
    "/dev/urandom",
    "/run/systemd/resolve",
    "/run/nscd",
    "/run/resolvconf",
    "/run/NetworkManager",
];

/// Where else the system's certificates may be: openssl-env(7).
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

#[derive(Debug, Error)]
pub(crate) enum EnterError {
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error("confine this process to its files")]
    Landlock(#[from] RulesetError),
}

/// Shuts the jail, for this thread and those that it starts.
pub(crate) fn enter(request: &Request) -> Result<(), EnterError> {
    jail::set_limits(Limits { file_len: None, descriptors: MAX_DESCRIPTORS })?;
    jail::limit_memory(MAX_MEMORY)?;
    jail::restrict_privileges(jail::CAP_DAC_OVERRIDE)?;
    let read = AccessFs::from_read(ABI_TRIED) & !AccessFs::Execute;
    // A blob gets its name in another directory: that is Refer.
    let write = make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
    });
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_TRIED))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI_TRIED))?
        .create()?
        .add_rules(path_beneath_rules(readable(request), read))?
        .add_rules(path_beneath_rules([&request.destination], write))?
        .restrict_self()?;
    Ok(())
}

fn readable(request: &Request) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    // A link to wherever the system keeps it.
    paths.extend(fs::canonicalize(Path::new("/etc/resolv.conf")));
    paths.extend(CERTIFICATES.iter().filter_map(env::var_os).map(PathBuf::from));
    paths.push(request.present.clone());
    paths
}
