//! What lies between the program and a server: it notes what is asked, and can break.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) address: String,
    asked: Arc<Mutex<String>>,
    breaks: Arc<AtomicUsize>,
}

impl Wire {
    /// The first `breaks` connections that carry more than `most` bytes of answers go silent after those.
    pub(crate) fn to(server: &str, most: usize, breaks: usize, end: Break) -> Self {
        let server: SocketAddr = server.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
            breaks: Arc::new(AtomicUsize::new(breaks)),
        };
        let own = wire.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (wire, client) = (own.clone(), client.unwrap());
                let server = TcpStream::connect(server).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let asked = Arc::clone(&wire.asked);
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = from.read(&mut buffer) {
                        asked.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
                        if to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
                thread::spawn(move || wire.answer(server, client, most, end));
            }
        });
        wire
    }

    fn answer(&self, mut server: TcpStream, mut client: TcpStream, most: usize, end: Break) {
        let mut buffer = [0; 4096];
        let mut carried = 0;
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            carried += length;
            let take = |breaks: usize| breaks.checked_sub(1);
            if carried > most && self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                match end {
                    Break::Cut => break,
                    Break::Silence => thread::park(),
                }
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }

    /// All requests so far, as they came.
    pub(crate) fn asked(&self) -> String {
        self.asked.lock().unwrap().clone()
    }

    /// The values of Range headers so far.
    pub(crate) fn ranges(&self) -> Vec<String> {
        let asked = self.asked().to_lowercase();
        asked.lines().filter_map(|line| line.strip_prefix("range: bytes=")).map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Break {
    Cut,
    Silence,
}
