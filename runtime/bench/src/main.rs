//! `securectr-bench`: securectr beside runc, in one run on one machine, interleaved.
//!
//! Only ratios taken in one run are results: the machine, its load and its clock are the same for both.

mod bundle;
mod gate;
mod memory;
mod report;
mod start;
mod statistics;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::report::Report;

/// Measure starts and memory of securectr beside runc
#[derive(Debug, Parser)]
#[command(name = "securectr-bench", version)]
struct Args {
    /// Starts of each runtime
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// The program to measure
    #[arg(long, default_value = "target/release/securectr")]
    securectr: PathBuf,
    /// The image that all run: an OCI archive with one uncompressed layer
    #[arg(long, default_value = "target/images/busybox.tar")]
    image: PathBuf,
    /// Where bench.json goes
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Fail where securectr's steps take other than this file says; for a clock that counts instructions
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Write that file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.runs > 0, "measure starts: at least one run is needed");
    let place = tempfile::tempdir().context("make a temporary directory")?;
    let runtimes = start::Runtimes::prepare(&args.securectr, &args.image, place.path())?;
    eprintln!("measuring {} starts of each runtime", args.runs);
    let starts = start::measure(&runtimes, args.runs)?;
    let phases = starts.phases_us.clone();
    let memory = memory::measure(&runtimes)?;
    let report = Report::new(args.runs, starts, memory)?;
    print!("{report}");
    if let Some(out) = &args.out {
        fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
        let path = out.join("bench.json");
        fs::write(&path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.write {
        gate::write(path, &phases)?;
    }
    args.check.as_ref().map_or(Ok(()), |path| gate::check(path, &phases))
}
