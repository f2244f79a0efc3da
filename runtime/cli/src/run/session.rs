//! A container in the foreground, from its machine to its end.

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use anyhow::{Context, Result};
use oci_spec::runtime::Spec;
use securectr_sandbox::{
    Disks, ExitStatus, Host, LaunchFailure, Plan, Process, ProcessName, Sandbox, SandboxError, StartError,
    StreamsWanted,
};
use securectr_sdk::{Cause, Outcome};
use serde_json::json;
use tokio::{net::UnixListener, sync::mpsc};

use super::{code_of_signal, launch_code};
use crate::{
    args::Run,
    container::{
        Action, Book, Joined, Journal, Kept, LastWords, Records, Spent, Status, Watch, Watched, locked,
    },
    kept,
    report::Report,
    signals::{self, Outside},
    spans,
    streams::Ends,
    templates,
    terminal::{self, RawMode},
    timeline::Timeline,
};

/// One container, and who looks at it.
pub(super) struct Session<'a> {
    pub plan: &'a Plan,
    pub run: &'a Run,
    /// As it was before it became one for a guest: what is executed besides is made from it.
    pub spec: Spec,
    pub kept: Kept,
    pub journal: Option<Journal>,
    pub report: &'a Report,
    pub timeline: &'a Timeline,
}

impl Session<'_> {
    pub(super) async fn run(&self, host: &Host, disks: Disks) -> Result<Outcome> {
        let mut outside = signals::listen().context("listen to signals")?;
        let sandbox = tokio::select! {
            sandbox = Sandbox::boot(&self.plan.id, &self.plan.machine, host, disks) => Arc::new(sandbox?),
            signal = ending_signal(&mut outside) => {
                return Ok(Outcome { code: code_of_signal(signal), cause: Cause::Signal, message: None });
            }
        };
        self.timeline.take_over(sandbox.steps());
        templates::warn_without(&sandbox, self.report);
        let denials = sandbox.denials();
        let container = &self.plan.container;
        let streams = sandbox.create(container, self.streams_wanted()).await?;
        let init = Process::watch(Arc::clone(&sandbox), ProcessName::init(&container.id));
        self.timeline.stamp("created");
        let raw = (self.run.tty && self.run.interactive)
            .then(RawMode::enter)
            .transpose()
            .context("set up the terminal")?;
        if let Some((columns, rows)) = self.size() {
            init.resize(columns, rows).await?;
        }
        // Who has made the namespace may have waited for the container.
        sandbox.refresh_network().await?;
        let budget = self.kept.budget.clone();
        let ends = Ends::standard().context("join the container's streams")?;
        let joined = Joined::new(streams, ends, &budget, self.timeline)?;
        let (mut book, listener) = self.be_found(host)?;
        match init.start().await {
            Ok(()) => {}
            Err(StartError::Launch(failure)) => return Ok(self.explain(failure)),
            Err(error) => return Err(error.into()),
        }
        self.timeline.stamp("started");
        book.note_timings(self.timeline);
        book.turn(Status::Running)?;
        let (plan, book) = (Arc::new(container.clone()), Arc::new(Mutex::new(book)));
        let watched = Watched {
            sandbox: Arc::clone(&sandbox),
            plan,
            init,
            joined,
            listener,
            poststart: Vec::new(),
            book: Arc::clone(&book),
            budget,
            denials,
        };
        let warn = |words: &str| self.report.warning(words);
        let watch = watched.watch(outside, || self.size(), LastWords::UntilSignal, warn).await?;
        self.timeline.stamp("exit");
        drop(raw);
        if sandbox.host_disk_full() {
            self.report.warning("the disk of this machine is full: what the container wrote is lost in part");
        }
        if self.run.timings {
            eprintln!("{}", json!(self.timeline.in_us()));
        }
        self.write_spans();
        let outcome = self.outcome(watch)?;
        locked(&book).note(&Action::Die { code: outcome.code });
        Ok(outcome)
    }

    /// A container has run, whether its spans can be written or not.
    fn write_spans(&self) {
        let Some(file) = &self.run.otlp else { return };
        if let Err(error) = spans::append(file, &self.kept.name, self.plan.id.as_str(), self.timeline) {
            self.report.warning(&format!("write spans to {}: {error:#}", file.display()));
        }
    }

    fn streams_wanted(&self) -> StreamsWanted {
        StreamsWanted { stdin: self.run.interactive, stdout: true, stderr: !self.run.tty }
    }

    /// From now on others find it, beside its machine's state.
    fn be_found(&self, host: &Host) -> Result<(Book, UnixListener)> {
        let place = Records::in_foreground(&host.state).find(&self.plan.id)?;
        let mut kept = self.kept.clone();
        kept.started = Some(humantime::format_rfc3339_nanos(SystemTime::now()).to_string());
        let record = kept::first_record(&self.plan.id, &place, kept)?;
        kept::write_spec(&place, &self.spec)?;
        let listener = place.listen()?;
        Ok((Book::new(place, record, self.journal.clone()), listener))
    }

    /// Of its terminal.
    fn size(&self) -> Option<(u16, u16)> {
        if self.run.tty { terminal::size() } else { None }
    }

    fn explain(&self, failure: LaunchFailure) -> Outcome {
        let code = launch_code(&failure);
        let error = anyhow::Error::from(failure);
        self.report.error(&error);
        Outcome { code, cause: Cause::NotExecuted, message: Some(format!("{error:#}")) }
    }

    fn outcome(&self, Watch { exit, spent }: Watch) -> Result<Outcome> {
        let code = exit.status.shell_code();
        let (cause, message) = match (spent, exit.cause, exit.status) {
            (Some(spent), ..) => (cause_of(spent), Some(format!("the container was killed: {spent}"))),
            (None, Some(end), _) => {
                return Err(SandboxError::Ended { operation: "run the container", end }.into());
            }
            (None, None, status) if exit.oom_killed && status != ExitStatus::Code(0) => {
                let limit = self.run.memory;
                let limit = limit.map_or("the guest's memory".to_owned(), |limit| format!("{limit} bytes"));
                let words = format!("the container ran out of memory ({limit}): its kernel killed a process");
                (Cause::Memory, Some(words))
            }
            (None, None, ExitStatus::Signal(_)) => (Cause::Signal, None),
            (None, None, ExitStatus::Code(_)) => (Cause::Exit, None),
        };
        if let Some(message) = &message {
            self.report.warning(message);
        }
        Ok(Outcome { code, cause, message })
    }
}

fn cause_of(spent: Spent) -> Cause {
    match spent {
        Spent::Time(_) => Cause::Time,
        Spent::CpuTime(_) => Cause::CpuTime,
        Spent::Output(_) => Cause::Output,
    }
}

/// The next signal from outside, by number.
async fn ending_signal(outside: &mut mpsc::Receiver<Outside>) -> i32 {
    loop {
        match outside.recv().await {
            Some(Outside::Signal(number)) => return number,
            Some(Outside::Resized) => {}
            // The listeners live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}
