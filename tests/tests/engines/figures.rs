//! What securectr costs under containerd, beside other runtimes, in one run and interleaved.
//!
//! `cargo test --workspace --test engines -- --ignored --nocapture figures`

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Finished, Lan, User, containerd, registry::Registry};

use crate::docker::{docker, storage};

const ROUNDS: usize = 10;

/// How long memory may take to settle.
const SETTLE: Duration = Duration::from_secs(3);

const SENT_MIB: u64 = 64;

/// Name and options of `ctr run`.
const RUNTIMES: [(&str, &[&str]); 3] = [
    ("runc", &["--runtime", "io.containerd.runc.v2"]),
    ("crun", &["--runtime", "io.containerd.runc.v2", "--runc-binary", "/usr/bin/crun"]),
    ("securectr", &["--runtime", "io.containerd.securectr.v2"]),
];

fn ctr_run(options: &[&str], id: &str, words: &[&str]) -> Result<Finished> {
    let all: Vec<_> =
        ["run"].iter().chain(options).chain(&["busybox:latest", id]).chain(words).copied().collect();
    let finished = containerd()?.ctr(all)?;
    ensure!(finished.code == 0, "{id}: {finished:?}");
    Ok(finished)
}

fn timed(work: impl FnOnce() -> Result<Finished>) -> Result<f64> {
    let began = Instant::now();
    let finished = work()?;
    ensure!(finished.code == 0, "{finished:?}");
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Rows of a table: what, and a figure for each runtime with its ratio to the first.
fn print(what: &str, unit: &str, figures: &[(&str, f64)]) {
    let base = figures.first().map_or(f64::NAN, |(_, figure)| *figure);
    let cells: Vec<_> =
        figures.iter().map(|(name, figure)| format!("{name} {figure:.1} ({:.2})", figure / base)).collect();
    println!("{what}, {unit}: {}", cells.join("  "));
}

/// PSS of all processes but containerd's own, in kB: what one container more adds to it is what it costs.
fn pss_kb() -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == "containerd") {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(entry.path().join("smaps_rollup")) else { continue };
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        sum += line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

#[test]
#[ignore = "a measurement"]
fn starts_execs_and_memory() -> Result<()> {
    let mut starts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=ROUNDS {
        for (name, options) in RUNTIMES {
            let options: Vec<_> = ["--rm"].iter().chain(options).copied().collect();
            let took = timed(|| ctr_run(&options, &format!("{name}-{round}"), &["true"]))?;
            // The first warms up.
            if round > 0 {
                starts.entry(name).or_default().push(took);
            }
        }
    }
    let of = |all: &BTreeMap<&str, Vec<f64>>| -> Vec<(&str, f64)> {
        RUNTIMES.iter().map(|(name, _)| (*name, median(all.get(name).cloned().unwrap_or_default()))).collect()
    };
    print("ctr run --rm, to its exit", "ms", &of(&starts));

    let (mut execs, mut memory) = (BTreeMap::<&str, Vec<f64>>::new(), BTreeMap::<&str, Vec<f64>>::new());
    for (name, options) in RUNTIMES {
        let before = pss_kb()?;
        let options: Vec<_> = ["-d", "--null-io"].iter().chain(options).copied().collect();
        ctr_run(&options, name, &["sleep", "10000"])?;
        thread::sleep(SETTLE);
        memory.entry(name).or_default().push((pss_kb()?.saturating_sub(before)) as f64 / 1024.0);
    }
    print("memory of an idle container, PSS of its processes", "MiB", &of(&memory));
    for round in 0..=ROUNDS {
        for (name, _) in RUNTIMES {
            let id = format!("e{round}");
            let took = timed(|| containerd()?.ctr(["task", "exec", "--exec-id", &id, name, "true"]))?;
            if round > 0 {
                execs.entry(name).or_default().push(took);
            }
        }
    }
    print("ctr task exec, to its exit", "ms", &of(&execs));
    for (name, _) in RUNTIMES {
        containerd()?.ctr(["task", "rm", "-f", name])?;
        containerd()?.ctr(["container", "rm", name])?;
    }
    Ok(())
}

#[test]
#[ignore = "a measurement"]
fn network() -> Result<()> {
    let (mut rates, mut trips) = (Vec::new(), Vec::new());
    for (name, options) in RUNTIMES {
        let lan = Lan::new()?;
        let listener = lan.listen("10.88.0.1:5000".parse()?)?;
        let sink = thread::spawn(move || -> Result<f64> {
            let (mut stream, _) = listener.accept()?;
            let (began, mut left, mut buffer) = (Instant::now(), SENT_MIB << 20, vec![0; 1 << 16]);
            while left > 0 {
                let len = stream.read(&mut buffer)?;
                ensure!(len > 0, "{left} bytes are missing");
                left = left.saturating_sub(len as u64);
            }
            Ok(SENT_MIB as f64 / began.elapsed().as_secs_f64())
        });
        let namespace = format!("network:{}", lan.path().display());
        let options: Vec<_> = ["--rm", "--with-ns", &namespace].iter().chain(options).copied().collect();
        let send = format!(
            "ping -q -c 50 -i 0.02 10.88.0.1; dd if=/dev/zero bs=64k count={} 2>/dev/null | nc 10.88.0.1 5000",
            SENT_MIB * 16
        );
        let said = ctr_run(&options, &format!("net-{name}"), &["sh", "-c", &send])?.out();
        // "round-trip min/avg/max = 0.1/0.2/0.3 ms"
        let trip =
            said.split(" = ").nth(1).and_then(|rest| rest.split('/').nth(1)).with_context(|| said.clone())?;
        trips.push((name, trip.parse::<f64>()? * 1000.0));
        rates.push((name, sink.join().ok().context("the sink")??));
    }
    print("network, one stream out", "MiB/s", &rates);
    print("network, round trip", "us", &trips);
    Ok(())
}

/// Docker with runc, and securectr by itself.
const COMMANDS: [&str; 2] = ["docker", "securectr"];

/// What a tree takes of its disk, in MiB.
fn mib_of(path: &Path) -> Result<f64> {
    let metadata = fs::symlink_metadata(path)?;
    let mut mib = (metadata.blocks() * 512) as f64 / f64::from(1 << 20);
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            mib += mib_of(&entry?.path())?;
        }
    }
    Ok(mib)
}

#[test]
#[ignore = "a measurement"]
fn beside_docker() -> Result<()> {
    let user = User::with_box()?;
    let registry = Registry::start()?;
    let remote = registry.push("debian", "team/debian")?;
    ensure!(docker(&["tag", "busybox", "box"])?.code == 0, "docker tag");
    let call = |who: &str, words: &[&str]| if who == "docker" { docker(words) } else { user.call(words) };
    for who in COMMANDS {
        timed(|| call(who, &["run", "-d", "--name", "stays", "--network", "none", "box", "sleep", "10000"]))?;
    }
    let mut all: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let (mut disk, ran) = (Vec::new(), ["run", "--rm", "--network", "none"]);
    for round in 0..=ROUNDS {
        for who in COMMANDS {
            let store = if who == "docker" { storage()? } else { user.home().join("store") };
            let before = mib_of(&store)?;
            let figures = [
                (
                    "run --rm of an image that is here, to its exit",
                    timed(|| call(who, &[&ran[..], &["box", "true"]].concat()))?,
                ),
                ("exec, to its exit", timed(|| call(who, &["exec", "stays", "true"]))?),
                (
                    "pull and first run, to its exit",
                    timed(|| call(who, &[&ran[..], &[&remote, "true"]].concat()))?,
                ),
            ];
            if round == ROUNDS {
                disk.push((who, mib_of(&store)? - before));
            }
            call(who, &["rmi", &remote])?;
            // The first warms up.
            for (what, took) in figures.into_iter().filter(|_| round > 0) {
                all.entry((what, who)).or_default().push(took);
            }
        }
    }
    for what in all.keys().map(|(what, _)| *what).collect::<std::collections::BTreeSet<_>>() {
        let of = |who| all.get(&(what, who)).cloned().unwrap_or_default();
        print(what, "ms", &COMMANDS.map(|who| (who, median(of(who)))));
    }
    print("an image of Debian on the disk", "MiB", &disk);
    for who in COMMANDS {
        call(who, &["rm", "-f", "stays"])?;
    }
    Ok(())
}
