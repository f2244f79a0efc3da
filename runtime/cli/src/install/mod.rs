//! `securectr install` and `uninstall`: makes the runtime known to the container engines of this machine, and takes that back.

mod args;
mod block;
mod change;
mod checks;
mod containerd;
mod diff;
mod docker;
mod effective;
mod journal;
mod outcome;
mod plan;
mod podman;
mod programs;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, Result, ensure};

use args::Engine;
pub(crate) use args::{Install, Setup};
use change::{Content, apply_all, revert_all};
use effective::Effective;
use outcome::Outcome;
use plan::{Plan, Site};

use crate::args::Global;

/// What an engine needs somewhere.
struct Wanted {
    path: PathBuf,
    content: Content,
}

pub(crate) fn install(install: &Install, global: &Global) -> Result<u8> {
    let setup = &install.setup;
    let site = Site::open(&setup.sysroot)?;
    let mut engines = setup.engines();
    if engines.is_empty() {
        engines = Engine::ALL.into_iter().filter(|engine| programs::is_there(engine.program())).collect();
        ensure!(
            !engines.is_empty(),
            "there is no containerd, docker or podman here: name one, as in --containerd"
        );
    }
    let plan = Plan::install(&site, &engines)?;
    let mut outcome = Outcome::of(&plan, &engines, setup.dry_run);
    if !setup.dry_run {
        carry_out(&site, &plan, engines.contains(&Engine::Containerd))?;
        refresh(&touched(&plan), setup.restart, &mut outcome)?;
        if !install.no_check {
            checks::check(&site, &engines, global, &mut outcome)?;
        }
    }
    outcome.print(setup.format)?;
    Ok(u8::from(!outcome.is_well()))
}

pub(crate) fn uninstall(setup: &Setup) -> Result<u8> {
    let site = Site::open(&setup.sysroot)?;
    let engines = setup.engines();
    let plan = Plan::uninstall(&site, &engines)?;
    let gone: BTreeSet<_> = site.journal.files.iter().flat_map(|entry| entry.engines.clone()).collect();
    let gone: BTreeSet<_> =
        gone.into_iter().filter(|engine| engines.is_empty() || engines.contains(engine)).collect();
    let mut outcome = Outcome::of(&plan, &gone, setup.dry_run);
    if !setup.dry_run {
        take_back(&site, plan)?;
        refresh(&gone, setup.restart, &mut outcome)?;
    }
    outcome.print(setup.format)?;
    Ok(0)
}

/// Makes the changes, unless containerd would lose a setting by them.
fn carry_out(site: &Site, plan: &Plan, with_containerd: bool) -> Result<()> {
    if plan.journal == site.journal {
        return Ok(());
    }
    let main = site.path(containerd::MAIN);
    let asks = with_containerd && programs::is_there("containerd");
    let before = asks.then(|| Effective::ask(&main)).transpose()?;
    let done = plan
        .journal
        .make_directories()
        .and_then(|()| plan.journal.write(&site.journal_path()))
        .and_then(|()| apply_all(&plan.changes))
        .and_then(|()| match &before {
            Some(before) if before.has_cri() => {
                Effective::ask(&main).and_then(|after| after.check_since(before)).or_else(|error| {
                    revert_all(&plan.changes)?;
                    Err(error.context("nothing was changed"))
                })
            }
            _ => Ok(()),
        });
    if done.is_err() {
        site.journal.write(&site.journal_path())?;
        let mut made = plan.journal.clone();
        made.files.clone_from(&site.journal.files);
        made.remove_directories();
    }
    done
}

fn take_back(site: &Site, mut plan: Plan) -> Result<()> {
    apply_all(&plan.changes)?;
    plan.journal.write(&site.journal_path())?;
    plan.journal.remove_directories();
    if plan.journal.files.is_empty() { Ok(()) } else { plan.journal.write(&site.journal_path()) }
}

/// The engines whose configuration is changed. A shim is looked for at each start of a container.
fn touched(plan: &Plan) -> BTreeSet<Engine> {
    let files = plan.changes.iter().filter(|change| matches!(change.after, Some(Content::File(_))));
    let entries = files.filter_map(|change| plan.journal.entry(&change.path));
    entries.flat_map(|entry| entry.engines.clone()).collect()
}

/// Has engines read their configuration again, or says how to.
fn refresh(engines: &BTreeSet<Engine>, restart: bool, outcome: &mut Outcome) -> Result<()> {
    for (engine, words) in engines.iter().filter_map(|engine| Some((engine, engine.refresh()?))) {
        if restart {
            programs::ask("systemctl", words).with_context(|| format!("{} {engine}", words.join(" ")))?;
            outcome.refreshed.push(engine.to_string());
        } else {
            let command = words.join(" ");
            outcome.notes.push(format!("{engine} has to read its configuration again: systemctl {command}"));
        }
    }
    Ok(())
}
