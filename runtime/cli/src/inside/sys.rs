//! What has no safe wrapper: the time of day where the user is.

use std::{
    mem,
    time::{SystemTime, UNIX_EPOCH},
};

/// A moment on the user's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalTime {
    /// From 0.
    pub month: usize,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
}

pub(super) fn local_time(time: SystemTime) -> LocalTime {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as libc::time_t;
    // SAFETY: `tm` is integers and a pointer that may be null, for which all zeroes is a valid value.
    let mut local: libc::tm = unsafe { mem::zeroed() };
    // SAFETY: reads the first and fills the second, both of which live across the call. Nothing here changes the environment.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    LocalTime {
        month: usize::try_from(local.tm_mon).unwrap_or_default(),
        day: local.tm_mday,
        hour: local.tm_hour,
        minute: local.tm_min,
    }
}
