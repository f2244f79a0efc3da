//! `exec`: one more process in a container. This process is its stand-in here: it carries the streams, takes signals for it, and ends
//! as it ends.

use std::{fs, io::stdin};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Process;
use rustix::process::setsid;
use securectr_sandbox::{Addition, Config};

use super::{args::Exec, console::Console, create::write_pid, monitor};
use crate::{
    args::Global,
    bundle, capabilities,
    container::{
        Answer, Client, Companion, Left, Located, Record, Request, Status, Wanted, Whose, again, inherited,
        let_go_of_streams, report, spawn_and_hear, streams,
    },
    streams::Output,
    terminal::{self, RawMode},
};

pub(super) fn exec(exec: &Exec, located: &Located, global: &Global) -> Result<u8> {
    if exec.detach {
        return detach(exec, located, global);
    }
    let ready = exec.ready_fd.map(inherited).transpose().context("take over the pipe")?;
    if ready.is_some() {
        // Nobody's terminal interrupts what was left behind.
        let _ = setsid();
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let code = runtime.block_on(async {
        let begun = begin(exec, located);
        let refused = match &begun {
            Ok(Begun::Running(_)) => None,
            Ok(Begun::NotExecuted { words, .. }) => Some(anyhow::anyhow!("exec failed: {words}")),
            Err(error) => Some(anyhow::anyhow!("{error:#}")),
        };
        if let Some(ready) = ready {
            report(ready, refused.as_ref().map_or(Ok(()), Err));
            if let Ok(Begun::Running(Running { console: Some(_), .. })) = &begun {
                let _ = let_go_of_streams();
            }
        }
        match begun? {
            Begun::Running(running) => running.wait().await,
            // As docker tells it; engines know runc's code for any failure.
            Begun::NotExecuted { words, code: Some(code) } => {
                eprintln!("securectr: exec failed: {words}");
                Ok(code)
            }
            Begun::NotExecuted { words, code: None } => bail!("exec failed: {words}"),
        }
    });
    runtime.shutdown_background();
    code
}

/// The same again, in a process that goes on without us.
fn detach(exec: &Exec, located: &Located, global: &Global) -> Result<u8> {
    let mut command = again(&located.records, global)?;
    command.arg("exec");
    if let Some(process) = &exec.process {
        command.arg("--process").arg(process);
    }
    if let Some(socket) = &exec.console_socket {
        command.arg("--console-socket").arg(socket);
    }
    if let Some(cwd) = &exec.cwd {
        command.args(["--cwd", cwd]);
    }
    if let Some(user) = &exec.user {
        command.args(["--user", user]);
    }
    for file in &exec.env_file {
        command.arg("--env-file").arg(file);
    }
    for variable in &exec.env {
        command.args(["--env", variable]);
    }
    if exec.tty {
        command.arg("--tty");
    }
    if exec.privileged {
        command.arg("--privileged");
    }
    let child = spawn_and_hear(&mut command, |command| command.arg(located.id.as_str()).args(&exec.command))?;
    write_pid(exec.pid_file.as_deref(), child.id())?;
    Ok(0)
}

/// How a process began.
enum Begun {
    Running(Running),
    /// With the code for a container that stays.
    NotExecuted {
        words: String,
        code: Option<u8>,
    },
}

struct Running {
    client: Client,
    output: Output,
    console: Option<Console>,
    raw: Option<RawMode>,
}

impl Running {
    async fn wait(self) -> Result<u8> {
        let Self { client, output, console, raw } = self;
        let size = || match &console {
            Some(console) => console.size(),
            None => raw.as_ref().and_then(|_| terminal::size()),
        };
        let companion =
            Companion { client, whose: Whose::Added, output, size, passes_signals: true, detached: None };
        match companion.accompany().await? {
            Left::Ended(code) => Ok(code),
            Left::Detached => Ok(0),
        }
    }
}

fn begin(exec: &Exec, located: &Located) -> Result<Begun> {
    let place = located.place()?;
    let record = place.read()?;
    let process = process(exec, &record)?;
    let user = exec.user.clone().filter(|_| exec.process.is_none());
    let has_terminal = process.terminal().unwrap_or(false);
    let console = match (has_terminal, &exec.console_socket) {
        (true, Some(socket)) => Some(Console::open(socket)?),
        _ => None,
    };
    let is_on_our_terminal = has_terminal && console.is_none();
    if is_on_our_terminal && !terminal::stdin_is_terminal() {
        bail!("give the process a terminal: standard input is not one");
    }
    let client = Client::connect(&place)?;
    let stdin = exec.interactive || record.kept.is_none();
    let wanted = Wanted { stdin, stdout: true, stderr: !has_terminal };
    let (_, fds) = client
        .ask(&Request::Exec { addition: Addition::Process { process: Box::new(process), user }, wanted })?;
    let output = monitor::join(streams(fds, wanted)?, console.as_ref())?;
    let raw = is_on_our_terminal.then(RawMode::enter).transpose().context("set up the terminal")?;
    let size = if is_on_our_terminal { terminal::size() } else { None };
    if let Some((columns, rows)) = size {
        client.ask(&Whose::Added.resize((columns, rows)))?;
    }
    match client.ask(&Request::StartExec)?.0 {
        Answer::NotExecuted { words, code } => {
            Ok(Begun::NotExecuted { words, code: record.kept.map(|_| code) })
        }
        _ => Ok(Begun::Running(Running { client, output, console, raw })),
    }
}

/// From a file, or the container's own with what was asked for changed.
fn process(exec: &Exec, record: &Record) -> Result<Process> {
    match record.status {
        Status::Running => {}
        Status::Paused => bail!("cannot exec in a paused container (use --ignore-paused to override)"),
        _ => bail!("cannot exec in a stopped container"),
    }
    if let Some(path) = &exec.process {
        let json = match path.to_str() {
            Some("-") => std::io::read_to_string(stdin()).map(String::into_bytes),
            _ => fs::read(path),
        };
        let json = json.with_context(|| format!("read {}", path.display()))?;
        return serde_json::from_slice(&json).with_context(|| format!("understand {}", path.display()));
    }
    if exec.command.is_empty() {
        bail!("no command: process args cannot be empty");
    }
    let spec = Config::read(&record.bundle)?.spec;
    let mut process = spec.process().clone().context("the bundle has no process")?;
    process.set_args(Some(exec.command.clone())).set_terminal(Some(exec.tty));
    if let Some(cwd) = &exec.cwd {
        process.set_cwd(cwd.into());
    }
    let mut variables = process.env().clone().unwrap_or_default();
    if exec.user.is_some() {
        // It is another's.
        variables.retain(|variable| !variable.starts_with("HOME="));
    }
    bundle::set_typed(&mut variables, &exec.env_file, &exec.env)?;
    process.set_env(Some(variables));
    if exec.privileged {
        capabilities::set_all(&mut process);
    }
    Ok(process)
}
