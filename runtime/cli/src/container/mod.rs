//! What all containers have that are looked at from outside: a record on disk, a monitor that holds the machine, and the words that are
//! spoken with it.

mod audience;
mod book;
mod budget;
mod companion;
mod control;
mod hold;
mod incarnation;
mod journal;
mod kept;
mod locate;
mod logging;
mod record;
mod serve;
mod spawn;
mod sys;
mod watch;

pub(crate) use audience::Audience;
pub(crate) use book::{Book, locked};
pub(crate) use budget::{Budget, Spent};
pub(crate) use companion::{Companion, KILLED, Left, Whose, streams};
pub(crate) use control::{Answer, Client, Moment, Request, Wanted};
pub(crate) use hold::{DISK, MACHINE};
pub(crate) use incarnation::Incarnation;
pub(crate) use journal::{Action, Event, Journal};
pub(crate) use kept::{Ended, Kept, Restart};
pub(crate) use locate::{LEAST_ID_LEN, Located, OfRun, find, is_free, locate, locate_of_run, of_run};
pub(crate) use logging::{LogDriver, LogOption, Logging, log_option};
pub(crate) use record::{GONE_LIMIT, OCI_VERSION, Place, Record, Records, Status, hook_state};
pub(crate) use serve::{Container as Served, serve as serve_connection};
pub(crate) use spawn::{NotBegun, again, let_go_of_streams, report, spawn_and_hear};
pub(crate) use sys::inherited;
pub(crate) use watch::{Joined, LastWords, Watch, Watched};
