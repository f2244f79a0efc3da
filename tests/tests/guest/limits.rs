//! Limits hold, inside the guest and for it.

use std::time::{Duration, Instant};

use anyhow::Result;
use securectr_tests::{Ext4, LoopDevice, User, run, run_in};

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

/// How long a command in a container takes, by the host's clock.
fn time_of(user: &User, script: &str) -> Result<Duration> {
    let began = Instant::now();
    user.succeed(&["exec", "slow", "sh", "-c", script])?;
    Ok(began.elapsed())
}

#[test]
fn a_device_with_limits_takes_its_time_and_what_was_written_stays() -> Result<()> {
    let store = Ext4::mount(96 << 20)?;
    let user = User::new_in(store.path())?.having_box()?;
    let device = store.device.path.display();
    let (bytes, requests) = (format!("{device}:512k"), format!("{device}:20"));
    let limits = ["--device-write-bps", &bytes, "--device-write-iops", &requests];
    let start = ["run", "-d", "--name", "slow", "--disk", "64m"];
    let started = user.call(&[&start, limits.as_slice(), &["box", "sleep", "1000"]].concat())?;
    assert_eq!((started.code, started.err().as_str()), (0, ""), "{started:?}");
    // What a tenth of a second saves up and the last, largest request are left out.
    let written = time_of(&user, "dd if=/dev/zero of=/four bs=1M count=4 conv=fsync 2>/dev/null")?;
    assert!(written >= Duration::from_secs(4), "{written:?}");
    let often = "for i in $(seq 60); do echo $i | dd of=/often bs=512 conv=fsync 2>/dev/null; done";
    let written = time_of(&user, often)?;
    assert!(written >= Duration::from_millis(2800), "{written:?}");
    // That would take more time than the container has to stop.
    user.succeed(&["exec", "slow", "dd", "if=/dev/urandom", "of=/large", "bs=1M", "count=8"])?;
    let sum = user.succeed(&["exec", "slow", "md5sum", "/large"])?;
    user.succeed(&["stop", "-t", "0", "slow"])?;
    user.succeed(&["start", "slow"])?;
    assert_eq!(user.succeed(&["exec", "slow", "md5sum", "/large"])?, sum);
    Ok(())
}

#[test]
fn limits_of_a_device_where_nothing_lies_are_told() -> Result<()> {
    let device = LoopDevice::new(1 << 20)?;
    let (bytes, requests) = (format!("{}:1m", device.path.display()), format!("{}:5", device.path.display()));
    let told = run_in(&["--device-read-bps", &bytes, "--device-read-iops", &requests], ["echo", "runs"])?;
    assert_eq!((told.code, told.out().as_str()), (0, "runs\n"), "{told:?}");
    let warning = format!("no disk of the container lies on {}", device.path.display());
    assert!(told.err().lines().count() == 1 && told.err().contains(&warning), "{told:?}");
    let refused = run_in(&["--blkio-weight", "500"], ["true"])?;
    assert!(refused.code == 125 && refused.err().contains("a kernel of its own"), "{refused:?}");
    Ok(())
}
