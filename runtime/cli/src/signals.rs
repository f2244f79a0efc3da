//! Signals that this process gets and the container is to see.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// What came from outside while a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    /// A signal, by number, for the container.
    Signal(i32),
    /// The terminal has another size.
    Resized,
}

/// Listens from now on: what these signals do otherwise no longer happens.
pub(crate) fn listen() -> io::Result<mpsc::Receiver<Outside>> {
    let (sender, receiver) = mpsc::channel(16);
    let forwarded = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    for kind in forwarded {
        spawn(signal(kind)?, Outside::Signal(kind.as_raw_value()), &sender);
    }
    spawn(signal(SignalKind::window_change())?, Outside::Resized, &sender);
    Ok(receiver)
}

fn spawn(mut signal: Signal, meaning: Outside, sender: &mpsc::Sender<Outside>) {
    let sender = sender.clone();
    tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(meaning).await.is_ok() {} });
}

/// As kill(1) takes it: `9`, `KILL` or `SIGKILL`.
pub(crate) fn number(text: &str) -> Result<u32, String> {
    let unknown = || format!("there is no signal {text:?}");
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse::<nix::sys::signal::Signal>().map(|signal| signal as u32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_taken_in_each_of_its_spellings() {
        assert_eq!(number("9"), Ok(9));
        assert_eq!(number("KILL"), Ok(9));
        assert_eq!(number("sigterm"), Ok(15));
        assert_eq!(number("64"), Ok(64));
        for bad in ["", "0", "65", "SIGNOTHING", "-9"] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }
}
