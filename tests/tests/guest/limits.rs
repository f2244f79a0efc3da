//! Limits hold, inside the guest and for it.

use anyhow::Result;
use securectr_tests::{run, run_in};

/// Takes more memory than it may have, a megabyte at a time.
const HOG: &str = "x=$(head -c 1000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done";

#[test]
fn a_container_beyond_its_memory_is_killed_and_told_so() -> Result<()> {
    let killed = run_in(&["--memory", "128m"], ["sh", "-c", HOG])?;
    assert_eq!(killed.code, 137, "{killed:?}");
    assert!(killed.err().contains("out of memory"), "{killed:?}");
    Ok(())
}

#[test]
fn one_cpu_is_one() -> Result<()> {
    assert_eq!(run_in(&["--cpus", "1"], ["nproc"])?.out(), "1\n");
    assert_eq!(run_in(&["--cpus", "2"], ["nproc"])?.out(), "2\n");
    Ok(())
}

#[test]
fn a_fraction_of_a_cpu_is_a_quota() -> Result<()> {
    assert_eq!(run_in(&["--cpus", "0.5"], ["cat", "/sys/fs/cgroup/cpu.max"])?.out(), "50000 100000\n");
    Ok(())
}

#[test]
fn the_limit_is_what_the_container_sees() -> Result<()> {
    let limit = run_in(&["--memory", "100m"], ["cat", "/sys/fs/cgroup/memory.max"])?;
    assert_eq!(limit.out(), format!("{}\n", 100 << 20), "{limit:?}");
    Ok(())
}

#[test]
fn the_guest_has_its_own_memory_not_the_hosts() -> Result<()> {
    let total = run_in(&["--memory", "100m"], ["sh", "-c", "grep MemTotal /proc/meminfo | tr -dc 0-9"])?;
    let kib: u64 = total.out().parse()?;
    assert!(kib < 200 * 1024, "{kib} KiB");
    assert_eq!(run(["true"])?.code, 0);
    Ok(())
}
