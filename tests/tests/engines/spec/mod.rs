//! The OCI runtime specification (1.2), requirement by requirement. What securectr does otherwise, and why, is in
//! `docs/runtime-spec.md`.

mod hooks;
mod lifecycle;
mod linux;
mod mounts;
mod process;

use std::fs;

use anyhow::{Result, ensure};
use securectr_tests::{Bundle, Runtime};
use serde_json::{Value, json};

/// What a container's root may do here, whatever the runtime's example says.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A bundle that runs a script of busybox's shell.
fn script(runtime: Runtime, script: &str) -> Result<Bundle> {
    let bundle = Bundle::new(runtime, &["sh", "-c", script])?;
    bundle.set("process.noNewPrivileges", json!(false))?;
    let sets = json!({"bounding": CAPABILITIES, "permitted": CAPABILITIES, "effective": CAPABILITIES});
    bundle.set("process.capabilities", sets)?;
    Ok(bundle)
}

/// No container is made, and nothing is left of the attempt.
fn is_refused(bundle: &Bundle, why: &str) -> Result<()> {
    ensure!(!bundle.try_create(&[])?, "{why}: it was created");
    bundle.fail(&["state", "c1"])?;
    Ok(())
}

/// Refuses it with another value of one property, and is as before afterwards.
fn refuses(bundle: &Bundle, why: &str, property: &str, value: Value) -> Result<()> {
    let good = bundle.read("config.json")?;
    bundle.set(property, value)?;
    is_refused(bundle, why)?;
    Ok(fs::write(bundle.path("config.json"), good)?)
}

/// Promises of the specification that this runc does not keep yet.
fn on_securectr(promise: impl FnOnce(Runtime) -> Result<()>) -> Result<()> {
    promise(Runtime::Securectr)
}
