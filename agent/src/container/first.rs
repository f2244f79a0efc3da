//! A container's first process, where the program is not: it starts the program, passes signals on to it, reaps what is left to it, and
//! ends as it ends. It has the program's rights, and nothing but standard streams.

use rustix::{
    process::{
        DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_dumpable_behavior,
        setpgid, wait,
    },
    stdio::stdin,
    termios::{isatty, tcsetpgrp},
    thread::set_name,
};

use super::{channel::ProcessEnd, sys};
use crate::sys::copy_self;

/// Runs `program` in a process of its own; what both return is an exit code.
pub(super) fn live(channel: &ProcessEnd, program: impl FnOnce() -> i32) -> i32 {
    // Its memory is a copy of the agent's, which is none of the container's business.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = set_name(c"init");
    // From before the program is there: what comes meanwhile waits for it.
    sys::hold_signals();
    let started = copy_self(0, None, || {
        lead();
        sys::reset_signals();
        program()
    });
    let program = match started {
        Ok(pid) => pid,
        Err(error) => {
            channel.failed(&format!("start the program: {error}"));
            return super::child::NOT_PREPARED;
        }
    };
    // The program's execve is told by the end of its own copy.
    let _ = sys::close_others(&mut []);
    serve(program)
}

/// A group of its own, to which the terminal's signals go.
fn lead() {
    // A session's leader, as who calls this is one, can neither be hindered in it nor fail.
    let _ = setpgid(None, None);
    if isatty(stdin()) {
        let _ = tcsetpgrp(stdin(), getpid());
    }
}

fn serve(program: Pid) -> i32 {
    loop {
        let signal = match sys::next_signal() {
            Ok(libc::SIGCHLD) => None,
            Ok(signal) => Some(signal),
            // A filter may forbid it: then signals are not passed on, but an end is seen.
            Err(_) => match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == program => return code(status),
                Ok(_) => continue,
                Err(_) => return super::child::NOT_PREPARED,
            },
        };
        match signal.and_then(Signal::from_named_raw) {
            Some(signal) => {
                // One that has ended is about to be reaped.
                let _ = kill_process(program, signal);
            }
            None => {
                if let Some(code) = reap(program) {
                    return code;
                }
            }
        }
    }
}

/// One signal may stand for several ends.
fn reap(program: Pid) -> Option<i32> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            ended = Some(code(status));
        }
    }
    ended
}

/// As a shell tells it.
fn code(status: WaitStatus) -> i32 {
    status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)).unwrap_or_default()
}
