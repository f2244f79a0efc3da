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
