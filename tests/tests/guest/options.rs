//! What `run` is told arrives in the container, as with docker.

use anyhow::Result;
use securectr_tests::{User, run_in};

/// What a script says in a container with these options.
fn said(options: &[&str], script: &str) -> Result<String> {
    let finished = run_in(options, ["sh", "-c", script])?;
    assert_eq!(finished.code, 0, "{options:?}: {finished:?}");
    Ok(finished.out())
}

#[test]
fn limits_of_processes_and_of_the_container_hold() -> Result<()> {
    let options =
        ["--ulimit", "nofile=100:200", "--ulimit", "core=0", "--pids-limit", "33", "--cpu-shares", "2048"];
    let script =
        "ulimit -Sn; ulimit -Hn; ulimit -c; cat /sys/fs/cgroup/pids.max; cat /sys/fs/cgroup/cpu.weight";
    assert_eq!(said(&options, script)?, "100\n200\n0\n33\n79\n");
    let options =
        ["--memory", "64m", "--memory-swap", "-1", "--memory-reservation", "32m", "--oom-score-adj", "7"];
    let script = "cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max /proc/self/oom_score_adj";
    assert_eq!(said(&options, script)?, format!("{}\n{}\nmax\n7\n", 64 << 20, 32 << 20));
    Ok(())
}

#[test]
fn file_systems_in_memory_are_as_large_as_asked_for() -> Result<()> {
    let options = [
        "--tmpfs",
        "/t:size=1m,mode=700",
        "--mount",
        "type=tmpfs,target=/m,tmpfs-size=2m",
        "--shm-size",
        "4m",
    ];
    let script =
        "for place in /t /m /dev/shm; do df -k $place | tail -n 1 | awk '{ print $2 }'; done; stat -c %a /t";
    assert_eq!(said(&options, script)?, "1024\n2048\n4096\n700\n");
    Ok(())
}

#[test]
fn names_and_name_servers_are_told() -> Result<()> {
    let options = ["--add-host", "db:192.0.2.7", "--add-host", "six:[2001:db8::1]", "--dns", "192.0.2.53"];
    let more = ["--dns-search", "example.com", "--dns-option", "ndots:2"];
    let script = "grep -E 'db|six' /etc/hosts; cat /etc/resolv.conf";
    let expected =
        "192.0.2.7\tdb\n2001:db8::1\tsix\nnameserver 192.0.2.53\nsearch example.com\noptions ndots:2\n";
    assert_eq!(said(&[options.as_slice(), &more].concat(), script)?, expected);
    Ok(())
}

#[test]
fn settings_come_from_options_and_files() -> Result<()> {
    let user = User::new()?;
    user.write("env", "# nothing\n\nFROM_FILE=1\nBOTH=file\n")?;
    let file = user.home().join("env").display().to_string();
    let options = ["--env-file", &file, "-e", "BOTH=option", "--sysctl", "kernel.msgmax=9000"];
    assert_eq!(said(&options, "echo $FROM_FILE $BOTH; cat /proc/sys/kernel/msgmax")?, "1 option\n9000\n");
    let privileges = "grep NoNewPrivs /proc/self/status";
    assert_eq!(said(&["--security-opt", "no-new-privileges"], privileges)?, "NoNewPrivs:\t1\n");
    assert_eq!(said(&["--security-opt", "seccomp=unconfined"], privileges)?, "NoNewPrivs:\t0\n");
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_by_name() -> Result<()> {
    for (option, value) in [
        ("--ulimit", "nothing=1"),
        ("--mount", "type=nfs,source=a,target=/b"),
        ("--add-host", "db"),
        ("--security-opt", "seccomp:profile"),
        ("--env-file", "/no/such/file"),
    ] {
        let refused = run_in(&[option, value], ["true"])?;
        assert!(refused.code == 125 && refused.err().contains(value), "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_volume_outlives_its_containers() -> Result<()> {
    let user = User::with_box()?;
    let volume = ["run", "-v", "data:/data", "box"];
    user.succeed(
        &[volume.as_slice(), &["sh", "-c", "echo kept >/data/file; chown 7:8 /data/file"]].concat(),
    )?;
    let read = ["run", "--mount", "source=data,target=/x,readonly", "box", "sh", "-c"];
    let script = "cat /x/file; stat -c %u:%g /x/file; touch /x/new 2>/dev/null || echo read-only";
    assert_eq!(user.succeed(&[read.as_slice(), &[script]].concat())?, "kept\n7:8\nread-only");
    assert_eq!(user.succeed(&["volume", "ls", "-q"])?, "data");
    user.succeed(&["run", "-d", "--name", "user", "-v", "data:/data", "box", "true"])?;
    let refused = user.call(&["volume", "rm", "data"])?;
    assert!(refused.code == 1 && refused.err().contains("is used by"), "{refused:?}");
    user.succeed(&["rm", "-f", "user"])?;
    user.succeed(&["volume", "rm", "data"])?;
    assert_eq!(user.succeed(&["volume", "ls", "-q"])?, "");
    let gone = user.call(&["volume", "inspect", "data"])?;
    assert!(gone.code == 1 && gone.err().contains("No such volume: data"), "{gone:?}");
    Ok(())
}

#[test]
fn the_privileged_have_all_of_their_guest() -> Result<()> {
    let script = "mkdir -p /srv; grep CapEff /proc/self/status; test -b /dev/vda && echo disk; mkdir /sys/fs/cgroup/own && echo cgroup; \
                  mount -t tmpfs none /srv && echo mounted; echo 7 >/proc/sys/kernel/core_uses_pid && echo set; tty; \
                  echo x >/dev/null; head -c 1 /dev/urandom | wc -c; ls /dev/pts /dev/shm | wc -l";
    let expected = "CapEff:\t000001ffffffffff\ndisk\ncgroup\nmounted\nset\nnot a tty\n1\n";
    let finished = run_in(&["--privileged", "--userns", "host"], ["sh", "-c", script])?;
    assert!(finished.out().starts_with(expected), "{finished:?}");
    let plain = run_in(&[], ["sh", "-c", script])?;
    assert!(!plain.out().contains("cgroup") && !plain.out().contains("mounted"), "{plain:?}");
    let refused = run_in(&["--userns", "private"], ["true"])?;
    assert!(refused.code == 125 && refused.err().contains("of its guest"), "{refused:?}");
    Ok(())
}
