//! Host after host is asked for the image, until one has given all of it.

use std::{
    io,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::{client::BlobResponse, errors::DigestError};
use oci_spec::distribution::Reference;
use securectr_registry::{Blob, Event, Patience, Request};
use thiserror::Error;
use tokio::{task, time::sleep};

use crate::{
    blobs::Part,
    error,
    host::{Host, HostError},
    layout::{Layout, LayoutError},
    name::{Name, NameError},
    parent::Parent,
    partial::{Partial, PartialError, WrongBlob},
    resolve::{self, Image, ResolveError},
};

const TRANSFERS_AT_ONCE: usize = 3;

/// How often a transfer that breaks is tried again, as long as it gets on.
const MAX_RETRIES: u32 = 5;

/// Attempts in a row that have brought nothing.
const MAX_IDLE_ATTEMPTS: u32 = 2;

const PROGRESS_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the request names no host")]
    NoHost,
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("run a step aside")]
    Aside(#[source] task::JoinError),
    #[error("fetch it from {address}")]
    Host { address: String, source: HostFailure },
}

/// Another host may do better.
#[derive(Debug, Error)]
pub(crate) enum HostFailure {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Wrong(#[from] WrongBlob),
    #[error("the transfer of {digest} broke off {attempts} times, at last after {done_bytes} bytes")]
    Broken { digest: String, attempts: u32, done_bytes: u64, source: Break },
}

/// Why a transfer has not come to its end; the next attempt may.
#[derive(Debug, Error)]
pub(crate) enum Break {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("read it")]
    Read(#[source] io::Error),
    #[error("it ended {0} bytes too soon")]
    Short(u64),
}

/// How fetching a part from one host may fail.
enum Failure {
    /// Here, so that another host would not help.
    Here(FetchError),
    There(HostFailure),
}

impl<E: Into<HostFailure>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::There(error.into())
    }
}

fn here(error: impl Into<FetchError>) -> Failure {
    Failure::Here(error.into())
}

pub(crate) async fn image(request: &Request, parent: &Parent) -> Result<(), FetchError> {
    let name = Name::parse(&request.image)?;
    let layout = Layout::open(request)?;
    let mut hosts = request.hosts.iter().peekable();
    while let Some(host) = hosts.next() {
        match from_host(host, &name, request, &layout, *parent).await {
            Ok(image) => return Ok(layout.complete(&image, &request.image)?),
            Err(Failure::Here(error)) => return Err(error),
            Err(Failure::There(source)) => {
                let address = host.address.clone();
                if hosts.peek().is_none() {
                    return Err(FetchError::Host { address, source });
                }
                parent.send(&Event::HostFailed { address, cause: error::in_one_line(&source) });
            }
        }
    }
    Err(FetchError::NoHost)
}

async fn from_host(
    asked: &securectr_registry::Host,
    name: &Name,
    request: &Request,
    layout: &Layout,
    parent: Parent,
) -> Result<Image, Failure> {
    let mut host = Host::new(asked, request.patience)?;
    let reference = name.at(&asked.address);
    host.log_in(&reference).await?;
    let image = resolve::image(&host, &asked.address, name, request).await?;
    // The parent reads the configuration in the destination, also when it has it elsewhere.
    let parts = [(&image.config, layout.has(&image.config))]
        .into_iter()
        .chain(image.layers.iter().map(|layer| (layer, layout.has(layer) || layout.is_present(layer))));
    let parts: Vec<(&Part, bool)> = parts.collect();
    let blobs = parts.iter().map(|&(part, is_present)| Blob {
        digest: part.digest.to_string(),
        bytes: part.bytes,
        is_present,
    });
    parent.send(&Event::Resolved {
        manifest: image.digest.to_string(),
        index: image.index.as_ref().map(ToString::to_string),
        blobs: blobs.collect(),
    });
    let transfer =
        |part| Transfer { host: &host, reference: &reference, layout, part, parent }.run(request.patience);
    let missing = parts.iter().filter(|(_, is_present)| !is_present).map(|&(part, _)| transfer(part));
    stream::iter(missing).buffer_unordered(TRANSFERS_AT_ONCE).try_collect::<()>().await?;
    Ok(image)
}

/// One blob from one host.
struct Transfer<'a> {
    host: &'a Host,
    reference: &'a Reference,
    layout: &'a Layout,
    part: &'a Part,
    parent: Parent,
}

impl Transfer<'_> {
    async fn run(self, patience: Patience) -> Result<(), Failure> {
        let (layout, part) = (self.layout.clone(), self.part.clone());
        let mut partial = aside(move || Partial::open(&layout, &part)).await?.map_err(here)?;
        let mut pause = Duration::from_millis(patience.pause_ms);
        let (mut attempts, mut idle_attempts) = (0, 0);
        // An empty blob is all there from the start.
        while !partial.is_all_there() {
            let before = partial.done_bytes();
            let Err(source) = self.attempt(&mut partial).await? else { break };
            attempts += 1;
            idle_attempts = if partial.done_bytes() > before { 0 } else { idle_attempts + 1 };
            if attempts > MAX_RETRIES || idle_attempts >= MAX_IDLE_ATTEMPTS {
                let (digest, done_bytes) = (self.part.digest.to_string(), partial.done_bytes());
                return Err(HostFailure::Broken { digest, attempts, done_bytes, source }.into());
            }
            sleep(pause).await;
            pause *= 2;
        }
        let layout = self.layout.clone();
        aside(move || partial.finish(&layout)).await?.map_err(failure_of)?;
        self.parent.send(&Event::Fetched { digest: self.part.digest.to_string() });
        Ok(())
    }

    /// Asks for what is missing, and takes what comes of it.
    async fn attempt(&self, partial: &mut Partial) -> Result<Result<(), Break>, Failure> {
        let answer = match self.host.blob(self.reference, &self.part.digest, partial.done_bytes()).await {
            Ok(answer) => answer,
            Err(error) if error.may_pass() => return Ok(Err(error.into())),
            Err(error) => return Err(error.into()),
        };
        let mut body = match answer {
            BlobResponse::Partial(body) => body,
            BlobResponse::Full(body) => {
                partial.restart().map_err(here)?;
                body
            }
        };
        if body.content_length.is_some_and(|bytes| bytes > partial.missing_bytes()) {
            return Err(failure_of(partial.refuse_longer()));
        }
        let mut told = Instant::now();
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(bytes) => partial.append(&bytes).map_err(failure_of)?,
                // The library's own check of a whole blob's digest, at the stream's end.
                Err(error) if partial.is_all_there() || is_of_digest(&error) => break,
                Err(error) => return Ok(Err(Break::Read(error))),
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let digest = self.part.digest.to_string();
                self.parent.send(&Event::Progress { digest, done_bytes: partial.done_bytes() });
            }
        }
        Ok(match partial.missing_bytes() {
            0 => Ok(()),
            missing => Err(Break::Short(missing)),
        })
    }
}

fn is_of_digest(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<DigestError>())
}

fn failure_of(error: PartialError) -> Failure {
    match error {
        PartialError::Layout(error) => here(error),
        PartialError::Wrong(error) => error.into(),
    }
}

/// What may wait for a disk for long holds up no other transfer.
async fn aside<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    task::spawn_blocking(step).await.map_err(|error| Failure::Here(FetchError::Aside(error)))
}
