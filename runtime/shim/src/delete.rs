//! The action `delete`: containerd calls it when a server has died, with half a bundle or none.
//!
//! There is nothing to clean up but the cgroup: the VMM and the file server die with the server, what was mounted was mounted in
//! its namespace, and the next sandbox sweeps the state directory.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use containerd_shim_protos::{api::DeleteResponse, protobuf::Message};
use securectr_sandbox::HostCgroup;
use thiserror::Error;

use crate::{args::Args, bundle, status};

/// Where a server notes the pid of a container's anchor.
pub(crate) const PID_FILE: &str = "init.pid";

/// The server died, and so did its machine: as if by this signal.
const KILLED: u32 = 128 + 9;

#[derive(Debug, Error)]
pub(crate) enum DeleteError {
    #[error("describe the answer")]
    Describe(#[from] protobuf::Error),
    #[error("answer containerd")]
    Answer(#[source] io::Error),
}

pub(crate) fn delete(args: &Args) -> Result<(), DeleteError> {
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    if let Ok(Some(cgroup)) = bundle::spec(bundle).map_or(Ok(None), |spec| HostCgroup::of(&spec)) {
        cgroup.remove();
    }
    let pid = fs::read_to_string(bundle.join(PID_FILE)).ok().and_then(|pid| pid.trim().parse().ok());
    let response = DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: KILLED,
        exited_at: Some(status::timestamp(std::time::SystemTime::now())).into(),
        ..Default::default()
    };
    io::stdout().write_all(&response.write_to_bytes()?).map_err(DeleteError::Answer)
}
