//! Programs that the runtime runs at points of a container's life. Only those of the container's own are the guest's matter.

use std::{collections::BTreeMap, ffi::CString, time::Duration};

use serde::Serialize;

use super::{PlanError, absolute_path, process, refuse_unless};
use crate::spec;

#[derive(Debug, Default)]
pub(crate) struct Hooks {
    /// In the container's namespaces and root, when it is started, before its program.
    pub start_container: Vec<Hook>,
    oci_version: String,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Hook {
    pub path: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// Unset: it may take as long as it likes.
    pub timeout: Option<Duration>,
}

/// The runtime spec's state of a container.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    pid: u32,
    bundle: &'static str,
    annotations: &'a BTreeMap<String, String>,
}

impl Hooks {
    /// What a hook reads from its stdin. The bundle lies on the host: in the container there is only its root.
    pub(crate) fn state_json(&self, id: &str, pid: u32) -> Result<Vec<u8>, PlanError> {
        let state = State {
            oci_version: &self.oci_version,
            id,
            status: "created",
            pid,
            bundle: "/",
            annotations: &self.annotations,
        };
        Ok(serde_json::to_vec(&state)?)
    }
}

/// `createContainer` hooks are programs of the host that would have to run in the container's namespaces: the guest has none.
pub(super) fn plan(
    hooks: spec::Hooks,
    oci_version: String,
    annotations: BTreeMap<String, String>,
) -> Result<Hooks, PlanError> {
    refuse_unless(hooks.create_container.is_empty(), "hooks.createContainer")?;
    let start_container = hooks.start_container.into_iter().map(hook).collect::<Result<_, _>>()?;
    Ok(Hooks { start_container, oci_version, annotations })
}

fn hook(hook: spec::Hook) -> Result<Hook, PlanError> {
    let path = absolute_path("hooks.startContainer.path", hook.path)?;
    let args = if hook.args.is_empty() { vec![path.clone()] } else { hook.args };
    let seconds = hook.timeout.map(|seconds| {
        let value = seconds.to_string();
        u64::try_from(seconds)
            .ok()
            .filter(|&seconds| seconds > 0)
            .ok_or(PlanError::Invalid { property: "hooks.startContainer.timeout", value })
    });
    Ok(Hook {
        path: process::string("hooks.startContainer.path", path)?,
        args: process::strings("hooks.startContainer.args", args)?,
        env: process::strings("hooks.startContainer.env", hook.env)?,
        timeout: seconds.transpose()?.map(Duration::from_secs),
    })
}
