//! One job in one emulated machine, from its boot to the command's exit code.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::console::Console;
use crate::qemu::{Channels, Machine};

/// How long a command may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    /// Without a word.
    pub(crate) silence: Duration,
}

pub(crate) struct Session {
    pub(crate) limits: Limits,
    pub(crate) verbose: bool,
}

/// As a shell says it: 128 and the signal's number.
const KILLED_BY_SIGPIPE: u8 = 128 + 13;

/// What is heard from the machine's channels.
#[derive(Debug, PartialEq)]
enum Report {
    /// The command is about to start.
    Started,
    Exited(u8),
    /// The job could not be set up.
    Failed(String),
    /// The caller no longer reads the command's output.
    Unread,
    Gone,
}

impl Session {
    /// The command's exit code.
    pub(crate) fn run(&self, machine: &Machine) -> Result<u8> {
        let start = Instant::now();
        let (qemu, channels) = machine.boot()?;
        let Channels { control, stdout, stderr, console } = channels;
        let console = Console::read(console, self.verbose);
        let (sender, reports) = mpsc::channel();
        let last_word = Arc::new(Mutex::new(start));
        let outputs = [
            relay(stdout, unbuffered(io::stdout())?, sender.clone(), Arc::clone(&last_word)),
            relay(stderr, unbuffered(io::stderr())?, sender.clone(), Arc::clone(&last_word)),
        ];
        receive(control, sender);
        let outcome = self.outcome(&reports, start, &last_word);
        let status = qemu.stop()?;
        for output in outputs {
            let _ = output.join();
        }
        let cause = match outcome {
            Outcome::Exited(code) => return Ok(code),
            Outcome::Unread => return Ok(KILLED_BY_SIGPIPE),
            Outcome::Failed(message) => bail!("{message}"),
            Outcome::TimedOut => format!("the command took longer than {} s", self.limits.timeout.as_secs()),
            Outcome::Silent => format!("the command said nothing for {} s", self.limits.silence.as_secs()),
            Outcome::Gone => format!("QEMU ended before the command did: {status}"),
        };
        let tail = console.tail();
        let cause = tail.panic().map_or(cause, |reason| format!("the test host's kernel panicked: {reason}"));
        Err(anyhow!("{cause}; its console ended with\n{}", tail.lines()))
    }

    fn outcome(&self, reports: &Receiver<Report>, start: Instant, last_word: &Mutex<Instant>) -> Outcome {
        loop {
            let left = self.limits.timeout.saturating_sub(start.elapsed());
            let silence = last_word.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            let silence_left = self.limits.silence.saturating_sub(silence);
            match reports.recv_timeout(left.min(silence_left)) {
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Outcome::TimedOut,
                Err(RecvTimeoutError::Timeout) if silence_left.is_zero() => return Outcome::Silent,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Report::Started) if self.verbose => {
                    eprintln!("test-host: up after {:.1} s", start.elapsed().as_secs_f32());
                }
                Ok(Report::Started) => {}
                Ok(Report::Exited(code)) => return Outcome::Exited(code),
                Ok(Report::Unread) => return Outcome::Unread,
                Ok(Report::Failed(message)) => return Outcome::Failed(message),
                Ok(Report::Gone) | Err(RecvTimeoutError::Disconnected) => return Outcome::Gone,
            }
        }
    }
}

enum Outcome {
    Exited(u8),
    Unread,
    Failed(String),
    Gone,
    TimedOut,
    Silent,
}

/// What a command writes shows at once, also without the end of its line.
fn unbuffered(stream: impl AsFd) -> Result<File> {
    let fd = stream.as_fd().try_clone_to_owned().context("duplicate an output")?;
    Ok(File::from(fd))
}

/// Copies until the machine is gone. A virtio port whose reader went away blocks the command, so that is reported instead.
fn relay(
    mut from: UnixStream,
    mut to: impl io::Write + Send + 'static,
    reports: Sender<Report>,
    last_word: Arc<Mutex<Instant>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        // Not `io::copy`: from a socket to a pipe that is splice(2), which was seen to hold back what it has until the end.
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            *last_word.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let piece = buffer.get(..len).unwrap_or_default();
            if to.write_all(piece).and_then(|()| to.flush()).is_err() {
                // Nobody listens once the session has its outcome.
                let _ = reports.send(Report::Unread);
                return;
            }
        }
    })
}

fn receive(control: UnixStream, reports: Sender<Report>) {
    thread::spawn(move || {
        let lines = BufReader::new(control).lines().map_while(Result::ok);
        for report in lines.filter_map(|line| parse(&line)).chain([Report::Gone]) {
            if reports.send(report).is_err() {
                return;
            }
        }
    });
}

fn parse(line: &str) -> Option<Report> {
    match line.split_once(' ') {
        None if line == "started" => Some(Report::Started),
        Some(("exit", code)) => code.parse().ok().map(Report::Exited),
        Some(("failed", message)) => Some(Report::Failed(message.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_understood_and_anything_else_is_passed_over() {
        assert_eq!(parse("started"), Some(Report::Started));
        assert_eq!(parse("exit 255"), Some(Report::Exited(255)));
        assert_eq!(parse("failed the share /a b"), Some(Report::Failed("the share /a b".to_owned())));
        assert_eq!(parse("exit 256"), None);
        assert_eq!(parse("noise"), None);
    }

    #[test]
    fn an_output_that_nobody_reads_is_reported() {
        let (mut machine, ours) = UnixStream::pair().unwrap();
        let (reader, caller) = UnixStream::pair().unwrap();
        drop(reader);
        let (sender, reports) = mpsc::channel();
        let output = relay(ours, caller, sender, Arc::new(Mutex::new(Instant::now())));
        io::Write::write_all(&mut machine, b"text").unwrap();
        assert_eq!(reports.recv().unwrap(), Report::Unread);
        output.join().unwrap();
    }
}
