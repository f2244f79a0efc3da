//! One connection to the monitor: verbs for the container, or the life of one more process in it, which ends with the connection.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as Stream},
    sync::{Arc, Mutex},
};

use oci_spec::runtime::Hook;
use rustix::process::Signal;
use securectr_sandbox::{
    Addition, ContainerPlan, HookError, KillError, Process, ProcessName, Reach, Sandbox, SandboxError,
    SandboxId, StartError, Streams, StreamsWanted, run_in_turn,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    sync::mpsc,
};

use super::{
    audience::Audience,
    book::{Book, locked},
    control::{self, Answer, MAX_LEN, Request, Wanted},
    hold::Hold,
    record::{Status, hook_state},
};
use crate::run::launch_code;

/// What a connection acts on.
pub(crate) struct Container {
    pub sandbox: Arc<Sandbox>,
    pub init: Arc<Process>,
    pub plan: Arc<ContainerPlan>,
    pub book: Arc<Mutex<Book>>,
    /// The host's, run after the start.
    pub poststart: Vec<Hook>,
    pub audience: Audience,
    pub stdin: Option<Arc<Stream>>,
}

/// The process that a connection has added. It has no life without its connection.
#[derive(Default)]
struct Added(Option<(ProcessName, Arc<Process>)>);

/// Until the other side has no more to say.
pub(crate) async fn serve(connection: UnixStream, container: Container) {
    let mut reader = BufReader::new(connection);
    let (mut added, mut hold) = (Added::default(), Hold::default());
    let (exited, mut exits) = mpsc::channel(1);
    let mut line = Vec::new();
    loop {
        let answered = tokio::select! {
            has_line = read_line(&mut reader, &mut line) => {
                if !has_line {
                    break;
                }
                let request = serde_json::from_slice(&line);
                line.clear();
                match request {
                    Ok(request) => container.respond(request, (&mut added, &mut hold), &exited).await,
                    Err(error) => Some((Answer::Refused(format!("understand the request: {error}")), Vec::new())),
                }
            }
            Some(answer) = exits.recv() => Some((answer, Vec::new())),
        };
        let Some((answer, fds)) = answered else { continue };
        // A line is short of what a socket holds: this does not wait.
        if control::send(reader.get_ref(), &answer, &fds).is_err() {
            break;
        }
    }
    let _ = container.go_on(&mut hold).await;
    added.end(&container.sandbox).await;
}

/// May be given up and called again: what has come of a line stays in it.
async fn read_line(reader: &mut BufReader<UnixStream>, line: &mut Vec<u8>) -> bool {
    let left = MAX_LEN.saturating_sub(line.len() as u64);
    matches!(reader.take(left).read_until(b'\n', line).await, Ok(1..))
}

impl Container {
    /// None when the answer comes later, by `exited`.
    async fn respond(
        &self,
        request: Request,
        (added, hold): (&mut Added, &mut Hold),
        exited: &mpsc::Sender<Answer>,
    ) -> Option<(Answer, Vec<OwnedFd>)> {
        let answer = match request {
            later if self.is_for_later(&later) => {
                Answer::Refused("the container stands still: it is being saved".to_owned())
            }
            Request::Save { directory } => match self.save(directory, hold).await {
                Ok(moment) => Answer::Saved(moment),
                Err(error) => Answer::Refused(format!("{error:#}")),
            },
            Request::GoOn => written(self.go_on(hold).await),
            Request::End { checkpoint } => written(self.end(checkpoint, hold)),
            Request::Wait | Request::WaitExec => self.tell_exit(&request, added, exited)?,
            Request::Exec { addition, wanted } => {
                let wanted =
                    StreamsWanted { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
                match self.add(&addition, wanted, added).await {
                    Ok(streams) => return Some((Answer::Streams, fds(streams))),
                    Err(words) => Answer::Refused(words),
                }
            }
            Request::Attach { wanted } => match self.attach(wanted) {
                Ok(fds) => return Some((Answer::Streams, fds)),
                Err(error) => Answer::Refused(format!("attach: {error}")),
            },
            Request::StartExec | Request::KillExec { .. } | Request::ResizeExec { .. } => {
                added.answer(request).await
            }
            of_container => self.answer(of_container).await,
        };
        Some((answer, Vec::new()))
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Start => self.start().await,
            Request::Kill { signal, all } => {
                locked(&self.book).note_signal(signal);
                let reach = if all { Reach::Container } else { Reach::Process };
                killed(self.init.kill(signal, reach).await)
            }
            Request::Pause => self.pause().await,
            Request::Resume => self.resume().await,
            Request::Update(limits) => done(self.sandbox.update(&self.plan.id, &limits).await),
            Request::Rename { name } => written(locked(&self.book).rename(&name)),
            Request::Restart(policy) => written(locked(&self.book).set_restart(policy)),
            Request::Resize { columns, rows } => done(self.init.resize(columns, rows).await),
            Request::Reclaim => done(self.sandbox.reclaim().await),
            Request::Machine => Answer::Machine(self.sandbox.vmm_pid()),
            Request::Stats => match self.sandbox.stats(&self.plan.id).await {
                Ok(stats) => Answer::Stats(Box::new(stats)),
                Err(error) => Answer::Refused(line(&error)),
            },
            _ => Answer::Refused("not asked of a container".to_owned()),
        }
    }

    /// Who asks next sees that it runs.
    async fn start(&self) -> Answer {
        if let Err(error) = self.sandbox.refresh_network().await {
            return Answer::Refused(line(&error));
        }
        let answer = started(self.init.start().await);
        if !matches!(answer, Answer::Done) {
            return answer;
        }
        let turned = self.turned(Status::Running);
        let state = hook_state(&locked(&self.book).record, std::process::id() as i32);
        match run_in_turn(&self.poststart, &state).await {
            Ok(()) => turned,
            Err(failure) => self.give_up(&failure).await,
        }
    }

    /// A container whose start went wrong at last.
    async fn give_up(&self, failure: &HookError) -> Answer {
        // One that has ended meanwhile is what is wanted.
        let _ = self.init.kill(Signal::KILL.as_raw().unsigned_abs(), Reach::Process).await;
        self.init.wait().await;
        Answer::Refused(line(failure))
    }

    async fn pause(&self) -> Answer {
        match self.sandbox.pause(&self.plan.id).await {
            Ok(()) => self.turned(Status::Paused),
            refused => done(refused),
        }
    }

    async fn resume(&self) -> Answer {
        match self.sandbox.resume(&self.plan.id).await {
            Ok(()) => self.turned(Status::Running),
            refused => done(refused),
        }
    }

    fn turned(&self, status: Status) -> Answer {
        written(locked(&self.book).turn(status))
    }

    /// Its streams from now on; its input is shared with all others who have it.
    fn attach(&self, wanted: Wanted) -> io::Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        if wanted.stdin {
            let stdin = self.stdin.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            fds.push(stdin.try_clone()?.into());
        }
        if wanted.stdout {
            fds.push(self.audience.stdout()?);
        }
        if wanted.stderr {
            fds.push(self.audience.stderr()?);
        }
        Ok(fds)
    }

    /// Sends the answer when there is one; what can be said now is answered.
    fn tell_exit(&self, request: &Request, added: &Added, exited: &mpsc::Sender<Answer>) -> Option<Answer> {
        let process = match request {
            Request::Wait => Arc::clone(&self.init),
            _ => match &added.0 {
                Some((_, process)) => Arc::clone(process),
                None => return Some(no_process()),
            },
        };
        let exited = exited.clone();
        tokio::spawn(async move {
            let code = process.wait().await.status.shell_code();
            // Who has asked may have gone.
            let _ = exited.send(Answer::Exited(code)).await;
        });
        None
    }

    async fn add(
        &self,
        addition: &Addition,
        wanted: StreamsWanted,
        added: &mut Added,
    ) -> Result<Streams, String> {
        let exec = SandboxId::random().map_err(|error| error.to_string())?.to_string();
        let name = ProcessName { container: self.plan.id.clone(), exec: Some(exec) };
        let streams = self.sandbox.exec(&name, addition, wanted).await.map_err(|error| line(&error))?;
        let process = Process::watch(Arc::clone(&self.sandbox), name.clone());
        added.0 = Some((name, process));
        Ok(streams)
    }
}

impl Added {
    async fn answer(&self, request: Request) -> Answer {
        let Some((_, process)) = &self.0 else {
            return no_process();
        };
        match request {
            Request::StartExec => started(process.start().await),
            Request::KillExec { signal } => killed(process.kill(signal, Reach::Process).await),
            Request::ResizeExec { columns, rows } => done(process.resize(columns, rows).await),
            _ => Answer::Refused("not asked of a process".to_owned()),
        }
    }

    async fn end(self, sandbox: &Sandbox) {
        let Some((name, process)) = self.0 else { return };
        let _ = process.kill(Signal::KILL.as_raw().unsigned_abs(), Reach::Process).await;
        process.wait().await;
        // Of a machine that has ended there is nothing to remove.
        let _ = sandbox.delete_exec(&name).await;
    }
}

fn no_process() -> Answer {
    Answer::Refused("this connection has no process".to_owned())
}

fn written(outcome: anyhow::Result<()>) -> Answer {
    match outcome {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused(format!("{error:#}")),
    }
}

fn done(outcome: Result<(), SandboxError>) -> Answer {
    match outcome {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused(line(&error)),
    }
}

fn started(outcome: Result<(), StartError>) -> Answer {
    match outcome {
        Ok(()) => Answer::Done,
        Err(StartError::Launch(failure)) => {
            Answer::NotExecuted { words: failure.in_runcs_words(), code: launch_code(&failure) }
        }
        Err(error) => Answer::Refused(line(&error)),
    }
}

fn killed(outcome: Result<(), KillError>) -> Answer {
    match outcome {
        Ok(()) => Answer::Done,
        // runc's words, on which engines match.
        Err(KillError::Ended) => Answer::Refused("container not running".to_owned()),
        Err(error) => Answer::Refused(line(&error)),
    }
}

fn fds(streams: Streams) -> Vec<OwnedFd> {
    [streams.stdin, streams.stdout, streams.stderr].into_iter().flatten().map(OwnedFd::from).collect()
}

/// An error with all its causes, in one line.
fn line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
