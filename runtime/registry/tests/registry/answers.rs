//! A server that answers as a test says, one request a connection.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::image::Image;

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// Lower case names.
    headers: Vec<(String, String)>,
}

impl Asked {
    /// Empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Bytes(Vec<u8>),
    /// These, and no more, where so many are stated.
    Stated(Vec<u8>, usize),
    /// These over and over, without a stated length.
    Endless(Vec<u8>),
    /// These, of twice as many that are stated, then nothing.
    Stalled(Vec<u8>),
    /// These, piece by piece, for about a second.
    Slow(Vec<u8>),
    /// These, then no HTTP but the others over and over.
    Garbage(Vec<u8>, Vec<u8>),
}

impl Answer {
    pub(crate) fn new(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Self::new(status, Body::Bytes(value.to_string().into_bytes()))
    }

    /// As an honest registry that has no more than this image.
    pub(crate) fn of(image: &Image, path: &str) -> Self {
        let found = match path.rsplit_once('/') {
            Some((rest, _)) if rest.ends_with("/manifests") => Some(&image.manifest),
            Some((_, digest)) => image.blobs.get(digest),
            None => None,
        };
        match found {
            Some(bytes) => Self::new(200, Body::Bytes(bytes.clone())),
            None if path == "/v2/" => Self::new(200, Body::Bytes(Vec::new())),
            None => Self::new(404, Body::Bytes(Vec::new())),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn write(self, mut client: TcpStream) -> std::io::Result<()> {
        if let Body::Garbage(begin, more) = &self.body {
            client.write_all(begin)?;
            loop {
                client.write_all(more)?;
            }
        }
        let mut head = format!("HTTP/1.1 {} Test\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let stated = match &self.body {
            Body::Bytes(bytes) | Body::Slow(bytes) => Some(bytes.len()),
            Body::Stated(_, stated) => Some(*stated),
            Body::Stalled(bytes) => Some(2 * bytes.len()),
            Body::Endless(_) | Body::Garbage(..) => None,
        };
        head.push_str(&stated.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default());
        client.write_all(format!("{head}\r\n").as_bytes())?;
        match self.body {
            Body::Bytes(bytes) | Body::Stated(bytes, _) => client.write_all(&bytes),
            Body::Slow(bytes) => bytes.chunks(bytes.len().div_ceil(50)).try_for_each(|piece| {
                thread::sleep(Duration::from_millis(20));
                client.write_all(piece)
            }),
            Body::Endless(bytes) | Body::Garbage(_, bytes) => loop {
                client.write_all(&bytes)?;
            },
            Body::Stalled(bytes) => {
                client.write_all(&bytes)?;
                thread::sleep(Duration::from_secs(60));
                Ok(())
            }
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap().to_string(), asked: Arc::default() };
        let (all, answer) = (Arc::clone(&server.asked), Arc::new(answer));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (all, answer, client) = (Arc::clone(&all), Arc::clone(&answer), client.unwrap());
                thread::spawn(move || {
                    let asked = read(&client)?;
                    all.lock().unwrap().push(asked.clone());
                    // The program may have gone.
                    let _ = answer(&asked).write(client);
                    Some(())
                });
            }
        });
        server
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// None when the connection ends before.
fn read(client: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(client).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    });
    Some(Asked { path, headers: headers.collect() })
}
