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

use crate::{args::Global, container::Records};

/// Carries a verb out; answers with the exit code.
pub(crate) fn act(verb: &Verb, global: &Global) -> Result<u8> {
    let records = Records::open(global.oci.root.as_deref())?;
    match verb {
        Verb::Create(create) => create::create(create, &records, global),
        Verb::Monitor(monitor) => monitor::monitor(monitor, &records, global),
        Verb::Start(named) => verbs::start(&records, &named.id),
        Verb::Kill(kill) => verbs::kill(&records, kill),
        Verb::Pause(named) => verbs::pause(&records, &named.id),
        Verb::Resume(named) => verbs::resume(&records, &named.id),
        Verb::Update(update) => update::update(update, &records),
        Verb::Events(events) => events::events(events, &records),
        Verb::Delete(delete) => verbs::delete(&records, delete),
        Verb::State(named) => show::state(&records, &named.id),
        Verb::List(list) => show::list(&records, list),
        Verb::Ps(ps) => show::ps(&records, ps),
        Verb::Features => show::features(),
        Verb::Spec(spec) => show::spec(spec),
        Verb::Exec(exec) => exec::exec(exec, &records, global),
    }
}
