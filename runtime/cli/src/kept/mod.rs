//! Containers that stay: `run -d` leaves a monitor for each, and what it takes to start it again lies in the store. What can be asked of
//! every container (`exec`, `kill`, `pause` and so on) is the business of `oci`, whose words are the same.

mod args;
mod attach;
mod idle;
mod log;
mod make;
mod monitor;
mod reclaim;
mod show;
mod stats;
mod verbs;
mod why;

use anyhow::{Result, bail};
use serde_json::Value;

pub(crate) use args::{Verb, moment};
pub(crate) use attach::{go_on, start as start_attached};
pub(crate) use idle::Idle;
pub(crate) use make::{detach, first_record, kept, tell_id, write_spec};
pub(crate) use show::{Wanted, list};
pub(crate) use verbs::{remove, start};

use crate::{
    args::Global,
    container::{self, Records, locate_of_run, of_run},
    output, paths,
    report::Report,
};

/// Carries a verb out; answers with the exit code.
pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    match verb {
        Verb::Stop(stop) => each(&stop.names, report, |name| verbs::stop(name, stop.time, global)),
        Verb::Restart(stop) => each(&stop.names, report, |name| {
            let listed = locate_of_run(global, name)?;
            if listed.kept.is_in_foreground {
                bail!("container {name} runs in the foreground of another process: nothing of it stays");
            }
            verbs::stop(name, stop.time, global)?;
            start(&listed.located, global)
        }),
        Verb::Rm(remove) => each(&remove.names, report, |name| verbs::remove(name, remove.force, global)),
        Verb::Wait(named) => Ok(report.each(&named.names, |name| verbs::wait(name, global))),
        Verb::Stats(stats) => stats::stats(stats, global),
        Verb::Reclaim(reclaim) => reclaim::reclaim(reclaim, global, report),
        Verb::Why(why) => why::why(why, global),
        Verb::Port(port) => show::port(port, global),
        Verb::Rename(rename) => verbs::rename(rename, global),
        Verb::Attach(attach) => attach::attach(attach, global),
        Verb::Logs(logs) => log::show(&locate_of_run(global, &logs.name)?, logs),
        Verb::Keep(keep) => monitor::keep(keep, &Records::kept(&paths::store(global)?), global),
    }
}

/// What is known of a container that stays, as JSON; none of others.
pub(crate) fn inspect(name: &str, global: &Global) -> Result<Option<Value>> {
    let all = of_run(global)?;
    Ok(container::find(&all, name)?.map(|listed| show::document(&listed.record, &listed.kept)))
}

/// Does it to one after the other and says each name, as docker does.
pub(crate) fn each(names: &[String], report: &Report, act: impl Fn(&str) -> Result<()>) -> Result<u8> {
    Ok(report.each(names, |name| {
        act(name)?;
        output::lines([name.clone()])
    }))
}
