//! What all containers have that are looked at from outside: a record on disk, a monitor that holds the machine, and the words that are
//! spoken with it.

mod book;
mod control;
mod incarnation;
mod record;
pub(crate) mod serve;
mod spawn;
mod sys;

pub(crate) use book::{Book, turn};
pub(crate) use control::{Answer, Client, Request, Wanted};
pub(crate) use incarnation::Incarnation;
pub(crate) use record::{LAST_WORDS_LIMIT, OCI_VERSION, Place, Record, Records, Status, hook_state};
pub(crate) use spawn::{again, report, spawn_and_hear};
pub(crate) use sys::inherited;
