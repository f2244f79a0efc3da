//! One job in one emulated machine, from its boot to the command's exit code.

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::console::Console;
use crate::qemu::{Channels, Machine};

pub(crate) struct Session {
    pub(crate) timeout: Duration,
    pub(crate) verbose: bool,
}

/// A line on the control port, or its end.
#[derive(Debug, PartialEq)]
enum Report {
    /// The command is about to start.
    Started,
    Exited(u8),
    /// The job could not be set up.
    Failed(String),
    Gone,
}

impl Session {
    /// The command's exit code.
    pub(crate) fn run(&self, machine: &Machine) -> Result<u8> {
        let start = Instant::now();
        let (qemu, channels) = machine.boot()?;
        let Channels { control, stdout, stderr, console } = channels;
        let console = Console::read(console, self.verbose);
        let outputs = [
            thread::spawn(move || relay(stdout, io::stdout())),
            thread::spawn(move || relay(stderr, io::stderr())),
        ];
        let reports = receive(control);
        let outcome = self.outcome(&reports, start);
        let status = qemu.stop()?;
        for output in outputs {
            let _ = output.join();
        }
        let cause = match outcome {
            Outcome::Exited(code) => return Ok(code),
            Outcome::Failed(message) => bail!("{message}"),
            Outcome::TimedOut => format!("the command took longer than {} s", self.timeout.as_secs()),
            Outcome::Gone => format!("QEMU ended before the command did: {status}"),
        };
        let tail = console.tail();
        let cause = tail.panic().map_or(cause, |reason| format!("the test host's kernel panicked: {reason}"));
        Err(anyhow!("{cause}; its console ended with\n{}", tail.lines()))
    }

    fn outcome(&self, reports: &Receiver<Report>, start: Instant) -> Outcome {
        loop {
            let left = self.timeout.saturating_sub(start.elapsed());
            match reports.recv_timeout(left) {
                Ok(Report::Started) if self.verbose => {
                    eprintln!("test-host: up after {:.1} s", start.elapsed().as_secs_f32());
                }
                Ok(Report::Started) => {}
                Ok(Report::Exited(code)) => return Outcome::Exited(code),
                Ok(Report::Failed(message)) => return Outcome::Failed(message),
                Ok(Report::Gone) | Err(RecvTimeoutError::Disconnected) => return Outcome::Gone,
                Err(RecvTimeoutError::Timeout) => return Outcome::TimedOut,
            }
        }
    }
}

enum Outcome {
    Exited(u8),
    Failed(String),
    Gone,
    TimedOut,
}

/// Ends with the machine, or when the caller no longer reads: the command then gets SIGPIPE, as in any pipeline.
fn relay(mut from: UnixStream, mut to: impl io::Write) {
    let _ = io::copy(&mut from, &mut to).and_then(|_| to.flush());
}

fn receive(control: UnixStream) -> Receiver<Report> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(control).lines().map_while(Result::ok);
        for report in lines.filter_map(|line| parse(&line)).chain([Report::Gone]) {
            if sender.send(report).is_err() {
                return;
            }
        }
    });
    receiver
}

fn parse(line: &str) -> Option<Report> {
    match line.split_once(' ') {
        None if line == "started" => Some(Report::Started),
        Some(("exit", code)) => code.parse().ok().map(Report::Exited),
        Some(("failed", message)) => Some(Report::Failed(message.to_owned())),
        _ => None,
    }
}
