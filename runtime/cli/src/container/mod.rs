//! What all containers have that are looked at from outside: a record on disk, a monitor that holds the machine, and the words that are
//! spoken with it.

mod book;
mod control;
mod incarnation;
mod kept;
mod locate;
mod record;
mod serve;
mod spawn;
mod sys;
mod watch;

pub(crate) use book::{Book, locked};
pub(crate) use control::{Answer, Client, Request, Wanted};
pub(crate) use incarnation::Incarnation;
pub(crate) use kept::{Ended, Kept, Restart};
pub(crate) use locate::{Located, find, locate};
pub(crate) use record::{GONE_LIMIT, OCI_VERSION, Place, Record, Records, Status, hook_state};
pub(crate) use spawn::{NotBegun, again, let_go_of_streams, report, spawn_and_hear};
pub(crate) use sys::inherited;
pub(crate) use watch::Watched;
