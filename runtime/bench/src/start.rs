//! From exec of the runtime to the container's first byte, and to the runtime's exit.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::{bundle, statistics::Summary};

/// Starts before those that count: caches fill, images are unpacked.
const WARM_UPS: usize = 2;

/// What is compared.
pub(crate) struct Runtimes {
    pub securectr: PathBuf,
    pub image: String,
    pub store: PathBuf,
    bundle: PathBuf,
}

#[derive(Debug, Serialize)]
pub(crate) struct Starts {
    pub to_first_byte: BTreeMap<&'static str, Summary>,
    pub to_exit: BTreeMap<&'static str, Summary>,
    /// Medians of securectr's own stamps, in microseconds after its `main` began.
    pub phases_us: BTreeMap<String, u64>,
    pub failures: BTreeMap<&'static str, usize>,
}

/// One start.
struct Start {
    first_byte_us: u64,
    exit_us: u64,
    phases: BTreeMap<String, u64>,
}

impl Runtimes {
    pub(crate) fn prepare(securectr: &Path, image: &Path, place: &Path) -> Result<Self> {
        let bundle = place.join("bundle");
        bundle::make(image, &bundle).context("make a bundle for runc")?;
        let securectr = securectr.canonicalize().with_context(|| format!("find {}", securectr.display()))?;
        let image = image.canonicalize().with_context(|| format!("find {}", image.display()))?;
        Ok(Self {
            securectr,
            image: format!("oci-archive:{}", image.display()),
            store: place.join("store"),
            bundle,
        })
    }

    fn runc(&self, number: usize) -> Command {
        let mut command = Command::new("runc");
        command.args(["run", "--bundle"]).arg(&self.bundle).arg(format!("bench-{number}"));
        command
    }

    pub(crate) fn securectr(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&self.securectr);
        command.arg("--store").arg(&self.store).arg("run").args(options).arg(&self.image);
        command
    }
}

/// Interleaved, so that whatever disturbs the machine disturbs both.
pub(crate) fn measure(runtimes: &Runtimes, runs: usize) -> Result<Starts> {
    let mut starts: BTreeMap<&'static str, Vec<Start>> = BTreeMap::new();
    let mut failures = BTreeMap::from([("runc", 0), ("securectr", 0)]);
    for number in 0..WARM_UPS + runs {
        let commands =
            [("runc", runtimes.runc(number)), ("securectr", with_words(runtimes.securectr(&["--timings"])))];
        for (name, mut command) in commands {
            match start(&mut command) {
                Ok(start) if number >= WARM_UPS => starts.entry(name).or_default().push(start),
                Ok(_) => {}
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    *failures.entry(name).or_default() += 1;
                }
            }
        }
    }
    let summary = |of: fn(&Start) -> u64| -> BTreeMap<&'static str, Summary> {
        let each = starts.iter();
        each.filter_map(|(name, all)| Some((*name, Summary::of(all.iter().map(of).collect())?))).collect()
    };
    Ok(Starts {
        to_first_byte: summary(|start| start.first_byte_us),
        to_exit: summary(|start| start.exit_us),
        phases_us: phases(starts.get("securectr").map(Vec::as_slice).unwrap_or_default()),
        failures,
    })
}

fn with_words(mut command: Command) -> Command {
    command.args(["echo", "x"]);
    command
}

fn phases(starts: &[Start]) -> BTreeMap<String, u64> {
    let mut series: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (phase, stamp) in starts.iter().flat_map(|start| &start.phases) {
        series.entry(phase.clone()).or_default().push(*stamp);
    }
    series.into_iter().filter_map(|(phase, all)| Some((phase, Summary::of(all)?.median_us))).collect()
}

fn start(command: &mut Command) -> Result<Start> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let mut first = [0];
    child.stdout.as_mut().context("standard output")?.read_exact(&mut first).ok();
    let first_byte_us = begin.elapsed().as_micros() as u64;
    let output = child.wait_with_output()?;
    let exit_us = begin.elapsed().as_micros() as u64;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && first == *b"x", "{}: {stderr}", output.status);
    let stamps = stderr.lines().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
    let phases = stamps.as_object().into_iter().flatten();
    let phases = phases.filter_map(|(phase, stamp)| Some((phase.clone(), stamp.as_u64()?))).collect();
    Ok(Start { first_byte_us, exit_us, phases })
}
