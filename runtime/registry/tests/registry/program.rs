//! The program under test, and what it is asked.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use securectr_registry::{Credentials, Event, Host, Limits, Patience, Platform, Request};
use tempfile::TempDir;

/// No test waits longer for the program.
const LONGEST: Duration = Duration::from_secs(60);

/// A destination, and what lies beside it.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("image")).unwrap();
        std::fs::create_dir(directory.path().join("present")).unwrap();
        Self { directory }
    }

    /// Of this machine's kind, from these hosts; impatient.
    pub(crate) fn request(&self, image: &str, hosts: &[Host]) -> Request {
        Request {
            image: image.into(),
            hosts: hosts.to_vec(),
            platform: Platform { os: "linux".into(), architecture: "amd64".into(), variant: None },
            destination: self.directory.path().join("image"),
            present: self.directory.path().join("present"),
            limits: Limits { json_bytes: 4 << 20, layers: 128, bytes: 1 << 30 },
            patience: Patience { connect_ms: 2000, stall_ms: 1000, answer_ms: 5000, pause_ms: 10 },
        }
    }
}

pub(crate) fn plain(address: &str) -> Host {
    Host { address: address.into(), plain_http: true, certificates: Vec::new(), credentials: None }
}

pub(crate) fn with_password(host: Host, username: &str, password: &str) -> Host {
    let (username, password) = (username.into(), password.into());
    Host { credentials: Some(Credentials::Basic { username, password }), ..host }
}

pub(crate) struct Running {
    child: Child,
    events: mpsc::Receiver<Event>,
}

pub(crate) fn start(request: &Request) -> Running {
    start_in(Command::new(env!("CARGO_BIN_EXE_securectr-registry")), request)
}

pub(crate) fn start_in(mut command: Command, request: &Request) -> Running {
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        if command.get_envs().all(|(given, _)| given != name) {
            command.env_remove(name);
        }
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    child.stdin.as_mut().unwrap().write_all(&line).unwrap();
    let (sender, events) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        for line in output.lines() {
            let event = serde_json::from_str(&line.unwrap()).unwrap();
            // A test that has seen enough does not listen any more.
            let _ = sender.send(event);
        }
    });
    Running { child, events }
}

impl Running {
    /// The next event, unless there is no more.
    pub(crate) fn next(&self) -> Option<Event> {
        match self.events.recv_timeout(LONGEST) {
            Ok(event) => Some(event),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the program says nothing for {LONGEST:?}"),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn leave(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn outcome(mut self) -> Outcome {
        let begin = Instant::now();
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            assert!(begin.elapsed() < LONGEST, "the program goes on for {LONGEST:?}: {events:?}");
            events.push(event);
        }
        let status = self.child.wait().unwrap();
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        Outcome { events, status, errors }
    }
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Event>,
    pub(crate) status: ExitStatus,
    /// What it has written to standard error.
    pub(crate) errors: String,
}

pub(crate) fn fetch(request: &Request) -> Outcome {
    start(request).outcome()
}

impl Outcome {
    pub(crate) fn is_done(&self) -> bool {
        self.status.success() && self.events.last() == Some(&Event::Done)
    }

    /// Why it failed, which it said in one event.
    pub(crate) fn cause(&self) -> &str {
        let mut causes = self.events.iter().filter_map(|event| match event {
            Event::Failed { cause } => Some(cause),
            _ => None,
        });
        let cause = causes.next().unwrap_or_else(|| panic!("{self:?}"));
        assert!(causes.next().is_none() && !self.status.success() && self.errors.is_empty(), "{self:?}");
        assert!(cause.chars().count() <= 1001 && !cause.chars().any(char::is_control), "{cause}");
        cause
    }

    /// The digests of the blobs that were fetched, sorted.
    pub(crate) fn fetched(&self) -> Vec<&str> {
        let mut digests: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Fetched { digest } => Some(digest.as_str()),
                _ => None,
            })
            .collect();
        digests.sort_unstable();
        digests
    }
}
