//! Nothing is left behind, however a container ends. Alone in its program: it counts what the whole machine holds.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use securectr_tests::{Started, image, securectr};

/// What this machine holds that a container could have left.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    vmm_processes: usize,
    mounts: usize,
    cgroups: usize,
    state: BTreeSet<String>,
    sockets: usize,
}

fn holdings() -> Result<Holdings> {
    let is_ours =
        |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with("securectr"));
    let names = |path: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    Ok(Holdings {
        vmm_processes: fs::read_dir("/proc")?.flatten().filter(|entry| is_ours(&entry.path())).count(),
        mounts: fs::read_to_string("/proc/self/mountinfo")?.lines().count(),
        cgroups: names("/sys/fs/cgroup").len(),
        state: names("/run/securectr"),
        sockets: fs::read_to_string("/proc/net/unix")?.matches("/securectr").count(),
    })
}

/// A killed VMM takes a moment to go: its guest's memory is freed first.
fn wait_for(expected: &Holdings) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = holdings()?;
        if now == *expected {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "left behind: {now:?}, expected: {expected:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn true_in_busybox() -> Result<Started> {
    Started::spawn(securectr().arg("run").arg(image("busybox")).arg("true"))
}

/// One container runs to its end, so that the image is unpacked and the state directory made.
fn settled() -> Result<Holdings> {
    anyhow::ensure!(true_in_busybox()?.finish(b"")?.code == 0);
    thread::sleep(Duration::from_secs(2));
    holdings()
}

/// All in one test: each part counts what the whole machine holds.
#[test]
fn no_way_to_end_leaves_anything() -> Result<()> {
    let before = settled()?;
    assert!(before.state.is_empty() && before.vmm_processes == 0, "{before:?}");

    for n in 0..200 {
        let finished = true_in_busybox()?.finish(b"")?;
        assert_eq!(finished.code, 0, "start {n} of 200: {finished:?}");
        if n % 20 == 0 {
            writeln!(io::stderr(), "start {n} of 200")?;
        }
    }
    wait_for(&before)?;

    let together = (0..20).map(|_| true_in_busybox()).collect::<Result<Vec<_>>>()?;
    for started in together {
        let finished = started.finish(b"")?;
        assert_eq!(finished.code, 0, "{finished:?}");
    }
    wait_for(&before)?;

    // From the first system calls to a running container, and spread by chance.
    for kill_after_ms in (0..40).map(|n| n * 37) {
        let started = true_in_busybox()?;
        thread::sleep(Duration::from_millis(kill_after_ms));
        started.signal("KILL").ok();
        started.finish(b"")?;
    }
    // What a killed one left, the next cleans up.
    assert_eq!(true_in_busybox()?.finish(b"")?.code, 0);
    wait_for(&before)
}
