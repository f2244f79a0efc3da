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

use anyhow::{Result, bail};

use args::Events;
pub(crate) use args::{Options, Verb};

use crate::{
    args::Global,
    container::{Records, locate},
    events::{Wanted, follow},
    kept,
    report::Report,
};

/// Carries a verb out; answers with the exit code. What can be asked of every container finds those of `run -d`, too.
pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    let records = || Records::open(global.oci.root.as_deref());
    match verb {
        Verb::Create(create) => create::create(create, &records()?, global),
        Verb::Monitor(monitor) => monitor::monitor(monitor, &records()?, global),
        Verb::Start(start) if start.attach || start.interactive => match start.several.names.as_slice() {
            [name] => kept::start_attached(name, start.interactive, global),
            _ => bail!("one container at a time can be joined to a terminal"),
        },
        Verb::Start(start) => verbs::of_each(&start.several.names, global, report, |located, kept| {
            if kept { kept::start(located, global) } else { verbs::start(located) }
        }),
        Verb::Pause(several) => {
            verbs::of_each(&several.names, global, report, |located, _| verbs::pause(located))
        }
        Verb::Resume(several) => {
            verbs::of_each(&several.names, global, report, |located, _| verbs::resume(located))
        }
        Verb::Kill(kill) => verbs::kill(kill, global, report),
        Verb::Update(update) => update::update(update, global, report),
        Verb::Events(asked) => match &asked.name {
            Some(name) => events::events(asked, &locate(global, name)?),
            None => {
                let Events { since, until, filter, format, .. } = &**asked;
                let wanted =
                    Wanted { since: *since, until: *until, filters: filter, format: format.as_ref() };
                follow(&wanted, global)
            }
        },
        Verb::Delete(delete) => verbs::delete(&records()?, delete),
        Verb::State(named) => show::state(&records()?, &named.id),
        Verb::List(list) => show::list(&records()?, list),
        Verb::Ps(ps) => show::ps(ps, global),
        Verb::Features => show::features(),
        Verb::Spec(spec) => show::spec(spec),
        Verb::Exec(exec) => exec::exec(exec, &locate(global, &exec.name)?, global),
    }
}
