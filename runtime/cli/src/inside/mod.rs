//! What is in a running container, seen from outside: its processes and files. The container's agent does the work there; what it says is
//! the guest's word.

mod args;
mod change;
mod commit;
mod copy;
mod diff;
mod sys;
mod top;
mod work;

use anyhow::Result;

pub(crate) use args::Verb;

use crate::{args::Global, report::Report};

/// Carries a verb out; answers with the exit code.
pub(crate) fn act(verb: &Verb, global: &Global, report: &Report) -> Result<u8> {
    match verb {
        Verb::Top(top) => top::top(top, global),
        Verb::Cp(copy) => copy::copy(copy, global),
        Verb::Diff(diff) => diff::diff(diff, global),
        Verb::Commit(commit) => commit::commit(commit, global, report),
    }
}
