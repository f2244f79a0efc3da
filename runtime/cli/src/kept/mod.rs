//! Containers that stay: `run -d` leaves a monitor for each, and what it takes to start it again lies in the store. What can be asked of
//! every container (`exec`, `kill`, `pause` and so on) is the business of `oci`, whose words are the same.

mod args;
mod log;
mod make;
mod monitor;
mod show;
mod stats;
mod verbs;
mod why;

use anyhow::{Context, Result};
use serde_json::Value;

pub(crate) use args::Verb;
pub(crate) use make::detach;
pub(crate) use show::{Wanted, list};
pub(crate) use verbs::start;

use crate::{
    args::Global,
    container::{self, Located, Records, locate},
    output, paths,
    report::Report,
};

/// Carries a verb out; answers with the exit code.
pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    match verb {
        Verb::Stop(stop) => each(&stop.names, report, |name| verbs::stop(name, stop.time, global)),
        Verb::Restart(stop) => each(&stop.names, report, |name| {
            verbs::stop(name, stop.time, global)?;
            start(&find(name, global)?, global)
        }),
        Verb::Rm(remove) => each(&remove.names, report, |name| verbs::remove(name, remove.force, global)),
        Verb::Wait(named) => Ok(report.each(&named.names, |name| verbs::wait(name, global))),
        Verb::Stats(stats) => stats::stats(stats, global),
        Verb::Why(why) => why::why(why, global),
        Verb::Rename(rename) => verbs::rename(rename, global),
        Verb::Logs(logs) => log::show(&find(&logs.name, global)?.place()?, logs),
        Verb::Keep(keep) => monitor::keep(keep, &Records::kept(&paths::store(global)?), global),
    }
}

/// What is known of a container that stays, as JSON; none of others.
pub(crate) fn inspect(name: &str, global: &Global) -> Result<Option<Value>> {
    let all = Records::kept(&paths::store(global)?).all()?;
    let record = container::find(&all, name)?;
    Ok(record.and_then(|record| Some(show::document(record, record.kept.as_ref()?))))
}

/// A container that stays.
fn find(name: &str, global: &Global) -> Result<Located> {
    let located = locate(global, name)?;
    let record = located.place().and_then(|place| place.read());
    let kept = record.ok().and_then(|record| record.kept);
    kept.map(|_| located).with_context(|| format!("No such container: {name}"))
}

/// Does it to one after the other and says each name, as docker does.
pub(crate) fn each(names: &[String], report: &Report, act: impl Fn(&str) -> Result<()>) -> Result<u8> {
    Ok(report.each(names, |name| {
        act(name)?;
        output::lines([name.clone()])
    }))
}
