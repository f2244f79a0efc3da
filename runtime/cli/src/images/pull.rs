//! Images from registries. The program that speaks to them is `securectr-registry`; here its events are shown, and what it has fetched
//! comes into the store.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use securectr_image::{Digest, Listed, Name, Platform, Pulling, Store};
use securectr_registry::{Blob, Event, Limits, Patience, Request, program};

use super::{args::Pull, familiar, registries};
use crate::{output, progress::Bar, report::Report};

/// As large as images may be that the store takes.
const LIMITS: Limits = Limits { json_bytes: 4 << 20, layers: 512, bytes: 64 << 30 };

const TEMPLATE: &str = "{prefix}: {msg:<14} [{bar:30}] {bytes}/{total_bytes}";
const SHORT_ID_LEN: usize = 12;

/// Bars move without news, too.
const TICK: Duration = Duration::from_millis(200);

pub(super) fn pull(pull: &Pull, store: &Store, report: &Report) -> Result<u8> {
    let before = store.find(&pull.name.to_string())?;
    let platform = pull.platform.clone().unwrap_or_else(Platform::of_this_machine);
    let image = fetch(&pull.name, &platform, store, &View { quiet: pull.quiet, report })?;
    if pull.quiet {
        return output::lines([pull.name.to_string()]).map(|()| 0);
    }
    let digest = image.index.as_ref().unwrap_or(&image.manifest);
    let is_new = before.is_none_or(|before| before.manifest != image.manifest);
    let news = if is_new { "Downloaded newer image for" } else { "Image is up to date for" };
    output::lines([
        format!("Digest: {digest}"),
        format!("Status: {news} {}", familiar(&pull.name)),
        pull.name.to_string(),
    ])?;
    Ok(0)
}

/// How much a person is to see.
pub(crate) struct View<'a> {
    pub quiet: bool,
    pub report: &'a Report,
}

/// Fetches an image and makes its root file system.
pub(crate) fn fetch(name: &Name, platform: &Platform, store: &Store, view: &View<'_>) -> Result<Listed> {
    let failed = || format!("pull {}", familiar(name));
    let pulling = store.pull(name, platform, &mut || {
        if !view.quiet {
            eprintln!("waiting for another securectr, which pulls the same image");
        }
    })?;
    let index = run(name, platform, &pulling, view).with_context(failed)?;
    let bar = (!view.quiet).then(Bar::new);
    let mut progress = |step| bar.iter().for_each(|bar| bar.show(step));
    let image = pulling.finish(index.as_ref(), &mut progress)?;
    // For another machine it is only kept.
    if *platform == Platform::of_this_machine() {
        store.open_image(&image, &mut progress)?;
    }
    Ok(image)
}

/// Answers with the digest of the index that led to the image.
fn run(name: &Name, platform: &Platform, pulling: &Pulling<'_>, view: &View<'_>) -> Result<Option<Digest>> {
    let request = Request {
        image: name.to_string(),
        hosts: registries::hosts(name.host())?,
        platform: securectr_registry::Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        },
        destination: pulling.directory().to_owned(),
        present: pulling.present(),
        limits: LIMITS,
        patience: Patience::default(),
    };
    let program = program::find()?;
    let mut command = Command::new(&program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let heard = hear(&mut child, &request, view);
    // It ends with its standard input.
    drop(child.stdin.take());
    let status = child.wait().context("wait for the download's end")?;
    match (heard, status.signal()) {
        (Err(_), Some(libc::SIGABRT)) => bail!("what the registry sends takes more memory than it is given"),
        (Err(_), Some(signal)) => bail!("the download was ended by signal {signal}"),
        (heard, _) => heard,
    }
}

/// Says what is wanted, and listens to the last event.
fn hear(child: &mut Child, request: &Request, view: &View<'_>) -> Result<Option<Digest>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let stdin = child.stdin.as_mut().context("talk to the download")?;
    stdin.write_all(&line).context("talk to the download")?;
    let stdout = child.stdout.take().context("hear the download")?;
    let mut bars = Bars::new(view.quiet);
    let mut led_by = None;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("hear the download")?;
        match serde_json::from_str(&line).context("understand the download")? {
            Event::Resolved { index, blobs, .. } => {
                led_by = index.map(|digest| digest.parse()).transpose()?;
                bars.begin(&blobs);
            }
            Event::Progress { digest, done_bytes } => bars.advance(&digest, done_bytes),
            Event::Fetched { digest } => bars.finish(&digest),
            Event::HostFailed { address, cause } => {
                view.report.warning(&format!("{address} does not have it: {cause}"));
            }
            Event::Done => return Ok(led_by),
            Event::Failed { cause } => return Err(anyhow!(cause)),
        }
    }
    bail!("the download ended without a word")
}

/// One for each blob: on a terminal they move, elsewhere each is a line when it is there.
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
    has_lines: bool,
}

impl Bars {
    fn new(quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let all = MultiProgress::with_draw_target(target);
        Self { all, bars: HashMap::new(), has_lines: !quiet && !is_terminal }
    }

    fn begin(&mut self, blobs: &[Blob]) {
        self.bars.clear();
        let _ = self.all.clear();
        for blob in blobs {
            let bar = self.all.add(ProgressBar::new(blob.bytes));
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(short(&blob.digest));
            bar.set_message("Waiting");
            bar.enable_steady_tick(TICK);
            self.bars.insert(blob.digest.clone(), bar);
            if blob.is_present {
                self.end(&blob.digest, "Already exists");
            }
        }
    }

    fn advance(&self, digest: &str, done_bytes: u64) {
        if let Some(bar) = self.bars.get(digest) {
            bar.set_message("Downloading");
            bar.set_position(done_bytes);
        }
    }

    fn finish(&self, digest: &str) {
        self.end(digest, "Pull complete");
    }

    fn end(&self, digest: &str, how: &'static str) {
        if let Some(bar) = self.bars.get(digest) {
            bar.set_position(bar.length().unwrap_or(0));
            bar.finish_with_message(how);
            if self.has_lines {
                eprintln!("{}: {how}", short(digest));
            }
        }
    }
}

fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(SHORT_ID_LEN).collect()
}
