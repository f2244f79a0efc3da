//! `attach`, and `start` with its options: this terminal joined to a container that runs.

use std::{
    io::{self, Read},
    str::FromStr,
    time::SystemTime,
};

use anyhow::{Context, Result, bail};
use securectr_sandbox::SandboxId;
use tokio::sync::oneshot;

use super::{args, log, verbs};
use crate::{
    args::Global,
    container::{
        Client, Companion, GONE_LIMIT, Left, OfRun, Request, Status, Wanted, Whose, locate_of_run, streams,
    },
    streams::{self as joined, Ends},
    terminal::{self, RawMode},
    timeline::Timeline,
};

pub(super) fn attach(asked: &args::Attach, global: &Global) -> Result<u8> {
    let listed = locate_of_run(global, &asked.name)?;
    match listed.record.status {
        Status::Running => {}
        Status::Paused => bail!("You cannot attach to a paused container, unpause it first"),
        _ => bail!("You cannot attach to a stopped container, start it first"),
    }
    Ok(code_of(&join(&listed, asked, || Ok(()))?))
}

/// `start -a` shows what the container writes from its beginning on, `start -i` joins this terminal to it.
pub(crate) fn start(name: &str, interactive: bool, global: &Global) -> Result<u8> {
    let listed = locate_of_run(global, name)?;
    let since = Some(SystemTime::now());
    verbs::start(&listed.located, global)?;
    if interactive {
        let detach_keys = Keys::default();
        let asked = args::Attach { no_stdin: false, sig_proxy: true, detach_keys, name: name.to_owned() };
        return Ok(code_of(&join(&listed, &asked, || Ok(()))?));
    }
    let followed =
        args::Logs { follow: true, timestamps: false, tail: None, since, until: None, name: name.to_owned() };
    log::show(&listed, &followed)?;
    verbs::code(&listed)
}

/// Joins this terminal to a container whose processes stand still, and lets them go on. Nothing of it stays, whatever happens.
pub(crate) fn go_on(id: &SandboxId, global: &Global) -> Result<u8> {
    let listed = locate_of_run(global, id.as_str())?;
    let no_stdin = !listed.kept.interactive;
    let detach_keys = Keys::default();
    let asked = args::Attach { no_stdin, sig_proxy: true, detach_keys, name: id.to_string() };
    let resume = || Client::connect(&listed.located.place()?)?.ask(&Request::Resume).map(drop);
    match join(&listed, &asked, resume) {
        Ok(Left::Ended(code)) => {
            // Which removes it.
            listed.record.monitor.ends_within(GONE_LIMIT).context("wait for the monitor's end")?;
            Ok(code)
        }
        Ok(left) => Ok(code_of(&left)),
        Err(error) => {
            verbs::remove(id.as_str(), true, global)?;
            Err(error)
        }
    }
}

fn code_of(left: &Left) -> u8 {
    match left {
        Left::Ended(code) => *code,
        Left::Detached => {
            eprintln!("read escape sequence");
            0
        }
    }
}

/// Does something when the streams are joined.
fn join(listed: &OfRun, asked: &args::Attach, act: impl FnOnce() -> Result<()>) -> Result<Left> {
    let kept = &listed.kept;
    let stdin = kept.interactive && !asked.no_stdin;
    if stdin && kept.tty && !terminal::stdin_is_terminal() {
        bail!("the input device is not a TTY: leave it out by --no-stdin");
    }
    let client = Client::connect(&listed.located.place()?)?;
    let wanted = Wanted { stdin, stdout: true, stderr: !kept.tty };
    let (_, fds) = client.ask(&Request::Attach { wanted })?;
    let (let_go, detached) = oneshot::channel();
    let ours = Ends::standard().context("join the container's streams")?;
    let keys = if kept.tty { asked.detach_keys.0.clone() } else { Vec::new() };
    let stdin: Box<dyn Read + Send> =
        Box::new(Watch { from: ours.stdin, keys, seen: 0, let_go: Some(let_go) });
    let ends = Ends { stdin, lasts: true, ..ours };
    let output = joined::join(streams(fds, wanted)?, ends, &Timeline::begin())
        .context("join the container's streams")?;
    let raw = (wanted.stdin && kept.tty).then(RawMode::enter).transpose().context("set up the terminal")?;
    let size = || if kept.tty { terminal::size() } else { None };
    if let Some(size) = size() {
        client.ask(&Whose::Init.resize(size))?;
    }
    act()?;
    let companion = Companion {
        client,
        whose: Whose::Init,
        output,
        size,
        passes_signals: asked.sig_proxy,
        detached: Some(detached),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let left = runtime.block_on(companion.accompany());
    runtime.shutdown_background();
    drop(raw);
    left
}

/// Keys that let go of a container, as docker takes them: letters, or `ctrl-` and one of `a-z@[\]^_`, with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| match (word.strip_prefix("ctrl-").map(str::as_bytes), word.as_bytes()) {
            (Some([letter @ b'a'..=b'z']), _) => Some(letter - b'a' + 1),
            (Some([sign @ (b'@' | b'['..=b'_')]), _) => Some(sign - b'@'),
            (None, [letter]) => Some(*letter),
            _ => None,
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| format!("not keys: {text} (as in ctrl-p,ctrl-q or a,b)"))
    }
}

/// Input that ends when the keys come one after the other.
struct Watch {
    from: Box<dyn Read + Send>,
    keys: Vec<u8>,
    /// So many of them have come.
    seen: usize,
    let_go: Option<oneshot::Sender<()>>,
}

impl Read for Watch {
    /// Keys that come to nothing are passed on, those of the sequence too when another follows.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.keys.is_empty() {
            return self.from.read(buffer);
        }
        while self.let_go.is_some() {
            // Room for what was held back.
            let room = buffer.len().saturating_sub(self.keys.len()).max(1);
            let mut read = vec![0; room];
            let len = self.from.read(&mut read)?;
            let mut passed = Vec::with_capacity(len + self.keys.len());
            for &key in read.get(..len).unwrap_or_default() {
                self.take(key, &mut passed);
                if self.seen == self.keys.len() {
                    let _ = self.let_go.take().map(|let_go| let_go.send(()));
                    break;
                }
            }
            if len == 0 || !passed.is_empty() {
                let target = buffer.get_mut(..passed.len()).ok_or(io::ErrorKind::InvalidInput)?;
                target.copy_from_slice(&passed);
                return Ok(passed.len());
            }
        }
        Ok(0)
    }
}

impl Watch {
    fn take(&mut self, key: u8, passed: &mut Vec<u8>) {
        if self.keys.get(self.seen) == Some(&key) {
            self.seen += 1;
            return;
        }
        passed.extend(self.keys.iter().take(self.seen));
        self.seen = usize::from(self.keys.first() == Some(&key));
        if self.seen == 0 {
            passed.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(input: &'static [u8]) -> (Vec<u8>, bool) {
        let (let_go, mut detached) = oneshot::channel();
        let keys = Keys::default().0;
        let mut watch = Watch { from: Box::new(input), keys, seen: 0, let_go: Some(let_go) };
        let mut all = Vec::new();
        let mut buffer = [0; 4];
        while let Ok(len @ 1..) = watch.read(&mut buffer) {
            all.extend_from_slice(&buffer[..len]);
        }
        (all, detached.try_recv().is_ok())
    }

    #[test]
    fn keys_let_go_in_their_order_and_are_passed_on_otherwise() {
        assert_eq!(watched(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(watched(b"ab\x10\x11cd"), (b"ab".to_vec(), true));
        assert_eq!(watched(b"\x11\x10x\x10\x10\x11y"), (b"\x11\x10x\x10".to_vec(), true));
    }

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(Keys::default()));
        assert_eq!("ctrl-@,a,ctrl-_".parse(), Ok(Keys(vec![0, b'a', 31])));
        for bad in ["", "ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(bad.parse::<Keys>().is_err(), "{bad:?}");
        }
    }
}
