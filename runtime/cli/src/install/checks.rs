//! Whether it works now, as far as that can be seen: what could not be tested is said.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{
    args::Engine,
    containerd,
    effective::Effective,
    outcome::Outcome,
    plan::Site,
    programs::{ask, is_there},
};
use crate::{
    args::Global,
    check::{self, Finding},
};

pub(super) fn check(
    site: &Site,
    engines: &BTreeSet<Engine>,
    global: &Global,
    outcome: &mut Outcome,
) -> Result<()> {
    outcome.checks.extend(check::findings(global)?);
    for engine in engines {
        match engine {
            Engine::Containerd if is_there("containerd") => containerd(site, outcome)?,
            Engine::Docker if site.is_real() => docker(outcome),
            Engine::Podman if site.is_real() => podman(outcome),
            engine => outcome.notes.push(format!("not tested: {engine}")),
        }
    }
    Ok(())
}

/// A running containerd does not tell which runtimes it knows, but it can be asked what it makes of its files.
fn containerd(site: &Site, outcome: &mut Outcome) -> Result<()> {
    let effective = Effective::ask(&site.path(containerd::MAIN))?;
    if effective.has_cri() {
        outcome.checks.push(finding(
            "containerd's configuration names the runtime",
            effective.knows("securectr"),
            "for CRI, as securectr",
            "look for another file that speaks of the same plugin: containerd config dump",
        ));
    }
    if site.is_real() && ask("ctr", ["version"]).is_err() {
        outcome.notes.push("not tested: a running containerd; there is none that answers".into());
    }
    Ok(())
}

fn docker(outcome: &mut Outcome) {
    match ask("docker", ["info", "--format", "{{json .Runtimes}}"]) {
        Err(error) => outcome.notes.push(format!("not tested: a running docker ({error:#})")),
        Ok(runtimes) if runtimes.contains("\"securectr\"") => {
            outcome.checks.push(finding("docker knows the runtime", true, "as securectr", ""));
        }
        // Until it has read its configuration again, that is as it must be.
        Ok(_) if outcome.refreshed.is_empty() => {
            outcome.notes.push("not tested: docker runs, and has not read its configuration since".into());
        }
        Ok(runtimes) => outcome.checks.push(finding(
            "docker knows the runtime",
            false,
            runtimes.trim(),
            "look into docker's log: journalctl -u docker",
        )),
    }
}

fn podman(outcome: &mut Outcome) {
    let asked = ask("podman", ["--runtime", "securectr", "info", "--format", "{{.Host.OCIRuntime.Path}}"]);
    let (ok, detail) = match &asked {
        Ok(path) => (true, path.trim().to_owned()),
        Err(error) => (false, format!("{error:#}")),
    };
    outcome.checks.push(finding(
        "podman knows the runtime",
        ok,
        &detail,
        "look whether another file names it: podman info --log-level debug",
    ));
}

fn finding(what: &'static str, ok: bool, detail: &str, advice: &'static str) -> Finding {
    Finding { what, ok, detail: detail.to_owned(), advice: if ok { "" } else { advice } }
}
