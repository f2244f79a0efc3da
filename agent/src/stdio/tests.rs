use std::{
    io::{Read, Write},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;
use crate::reaper::Exit;

/// A stdout that ends at the host in the second stream, and the watch of a process that we let end.
fn output() -> (std::fs::File, UnixStream, watch::Sender<Option<Exit>>, Pumps) {
    let (agent, host) = UnixStream::pair().unwrap();
    let streams = HostStreams { stdout: Some(agent), ..Default::default() };
    let (process, agent) = pipes(streams, own_id(), own_group()).unwrap();
    let ProcessStreams::Files([_, stdout, _]) = process else { panic!("pipes make files") };
    let (exit, watch) = watch::channel(None);
    (stdout.into(), host, exit, Pumps::start(agent, None, &watch).unwrap())
}

fn own_id() -> u32 {
    rustix::process::getuid().as_raw()
}

fn own_group() -> u32 {
    rustix::process::getgid().as_raw()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), future).await.unwrap()
}

#[tokio::test]
async fn output_reaches_the_host_and_ends_there() {
    let (mut stdout, mut host, _exit, _pumps) = output();
    stdout.write_all(b"hello").unwrap();
    drop(stdout);
    let mut all = Vec::new();
    soon(host.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all, b"hello");
}

#[tokio::test]
async fn a_background_process_does_not_delay_the_end() {
    let (mut stdout, mut host, exit, pumps) = output();
    stdout.write_all(b"last words").unwrap();
    exit.send_replace(Some(Exit::Code(0)));
    soon(pumps.drained()).await;
    let mut words = [0; 10];
    soon(host.read_exact(&mut words)).await.unwrap();
    // The pipe is still open, and still read.
    stdout.write_all(b"more").unwrap();
    soon(host.read_exact(&mut words[..4])).await.unwrap();
    assert_eq!(&words[..4], b"more");
}

#[tokio::test]
async fn what_the_host_has_not_taken_is_not_drained() {
    let (mut stdout, host, exit, pumps) = output();
    rustix::io::ioctl_fionbio(&stdout, true).unwrap();
    let chunk = [b'x'; 4096];
    // Fill the pipe, the pump's buffer and the connection.
    for _ in 0..100 {
        while stdout.write(&chunk).is_ok() {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    exit.send_replace(Some(Exit::Code(0)));
    let drained = timeout(Duration::from_millis(100), pumps.drained()).await;
    assert!(drained.is_err(), "the host has read nothing");
    drop(host);
    soon(pumps.drained()).await;
}

#[tokio::test]
async fn a_host_that_closes_is_a_broken_pipe() {
    let (mut stdout, host, _exit, pumps) = output();
    drop(host);
    stdout.write_all(b"x").unwrap();
    soon(pumps.drained()).await;
    assert_eq!(stdout.write(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn another_host_takes_over_where_one_was() {
    let (mut stdout, mut host, _exit, mut pumps) = output();
    stdout.write_all(b"one").unwrap();
    let mut bytes = [0; 3];
    soon(host.read_exact(&mut bytes)).await.unwrap();
    let (agent, mut other) = UnixStream::pair().unwrap();
    pumps.attach(HostStreams { stdout: Some(agent), ..Default::default() });
    stdout.write_all(b"two").unwrap();
    soon(other.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"two");
    pumps.attach(HostStreams::default());
    stdout.write_all(b"x").unwrap();
    soon(pumps.drained()).await;
    assert_eq!(stdout.write(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_hosts_end_of_input_is_the_processs() {
    let (agent, mut host) = UnixStream::pair().unwrap();
    let streams = HostStreams { stdin: Some(agent), ..Default::default() };
    let (process, agent) = pipes(streams, own_id(), own_group()).unwrap();
    let ProcessStreams::Files([stdin, ..]) = process else { panic!("pipes make files") };
    let (_exit, watch) = watch::channel(None);
    let _pumps = Pumps::start(agent, None, &watch).unwrap();
    host.write_all(b"words").await.unwrap();
    host.shutdown().await.unwrap();
    let mut stdin = std::fs::File::from(stdin);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        stdin.read_to_end(&mut all).map(|_| all)
    });
    assert_eq!(soon(read).await.unwrap().unwrap(), b"words");
}
