//! The OCI command line: engines call it by runc's verbs. `create` leaves a monitor behind for each container, which has its pid; the
//! other verbs find the monitor by the container's record and talk to it.

mod args;
mod console;
mod create;
mod events;
mod exec;
mod monitor;
mod show;
mod update;
mod verbs;

use anyhow::Result;

pub(crate) use args::{Options, Verb};

use crate::{
    args::Global,
    container::{Records, locate},
    kept,
    report::Report,
};

/// Carries a verb out; answers with the exit code. What can be asked of every container finds those of `run -d`, too.
pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    let records = || Records::open(global.oci.root.as_deref());
    match verb {
        Verb::Create(create) => create::create(create, &records()?, global),
        Verb::Monitor(monitor) => monitor::monitor(monitor, &records()?, global),
        Verb::Start(several) => verbs::of_each(several, global, report, |located, kept| {
            if kept { kept::start(located, global) } else { verbs::start(located) }
        }),
        Verb::Pause(several) => verbs::of_each(several, global, report, |located, _| verbs::pause(located)),
        Verb::Resume(several) => verbs::of_each(several, global, report, |located, _| verbs::resume(located)),
        Verb::Kill(kill) => verbs::kill(kill, global, report),
        Verb::Update(update) => update::update(update, &locate(global, &update.name)?),
        Verb::Events(events) => events::events(events, &locate(global, &events.name)?),
        Verb::Delete(delete) => verbs::delete(&records()?, delete),
        Verb::State(named) => show::state(&records()?, &named.id),
        Verb::List(list) => show::list(&records()?, list),
        Verb::Ps(ps) => show::ps(ps, global),
        Verb::Features => show::features(),
        Verb::Spec(spec) => show::spec(spec),
        Verb::Exec(exec) => exec::exec(exec, &locate(global, &exec.name)?, global),
    }
}
