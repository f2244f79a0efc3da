//! Machines that were booted once, and from which others go on: the verbs about them, and where this user's lie.

use anyhow::Result;
use securectr_sandbox::{Host, Installation, Sandbox, StateRoot, Templates};

use crate::{args::Global, paths, report::Report};

/// What a machine of this user is made with. Who wants to see how a guest boots sees one boot.
pub(crate) fn host(installation: Installation, state: StateRoot, global: &Global) -> Result<Host> {
    let templates = if global.debug { None } else { Templates::in_store(&paths::store(global)?) };
    Ok(Host { installation, state, echo_console: global.debug, templates })
}

/// Says why a machine has booted that should have come from its template.
pub(crate) fn warn_without(sandbox: &Sandbox, report: &Report) {
    if let Some(words) = sandbox.no_template() {
        report.warning(&format!("booted without a template: {words}"));
    }
}
