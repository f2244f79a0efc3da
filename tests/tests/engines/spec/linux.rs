//! config-linux.md: devices, namespaces, cgroups, sysctls, seccomp, personality.

use anyhow::Result;
use securectr_tests::on_each;
use serde_json::{Value, json};

use super::{on_securectr, refuses, script};

#[test]
fn default_file_systems_devices_and_links_are_there() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "for place in /proc /sys /dev/pts /dev/shm; do grep \" $place \" /proc/mounts | cut -d' ' -f3; done; \
             cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty; \
             for link in fd stdin stdout stderr; do readlink $link; done; ls -lL ptmx | cut -c1-10; readlink -f ptmx",
        )?;
        let expected = "proc\nsysfs\ndevpts\ntmpfs\n\
            null character special file 1:3 666\nzero character special file 1:5 666\n\
            full character special file 1:7 666\nrandom character special file 1:8 666\n\
            urandom character special file 1:9 666\ntty character special file 5:0 666\n\
            /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\ncrw-rw-rw-\n/dev/pts/ptmx\n";
        assert_eq!(bundle.run()?, expected);
        Ok(())
    })
}

#[test]
fn devices_are_made_as_described_and_used_as_allowed() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "stat -c '%n %F %t:%T %a %u:%g' /dev/given /srv/pipe; echo x > /dev/given && echo written; \
             (true < /dev/given) 2>/dev/null || echo not read; true > /dev/null && echo default",
        )?;
        bundle.edit(|spec| {
            // Messages for the kernel's log: a device that is in no container by default.
            spec["linux"]["devices"] = json!([
                {"path": "/dev/given", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/srv/pipe", "type": "p", "fileMode": 0o604},
            ]);
            // Later ones outrank earlier ones.
            spec["linux"]["resources"]["devices"] = json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
                {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "r"},
            ]);
        })?;
        let expected = "/dev/given character special file 1:b 640 5:6\n/srv/pipe fifo 0:0 604 0:0\n\
            written\nnot read\ndefault\n";
        assert_eq!(bundle.run()?, expected);
        Ok(())
    })
}

#[test]
fn a_device_does_not_take_the_place_of_something_else() -> Result<()> {
    on_securectr(|runtime| {
        let bundle = script(runtime, "true")?;
        std::fs::create_dir(bundle.path("rootfs/srv"))?;
        std::fs::write(bundle.path("rootfs/srv/taken"), "content")?;
        let device = json!([{"path": "/srv/taken", "type": "c", "major": 1, "minor": 3}]);
        refuses(&bundle, "a file in the device's place", "linux.devices", device)?;
        assert_eq!(bundle.read("rootfs/srv/taken")?, "content");
        Ok(())
    })
}

#[test]
fn a_container_has_the_namespaces_that_are_listed_without_a_path() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "echo $$; cat /proc/1/comm; echo /proc/[0-9]*; ls /sys/class/net; hostname; cat /proc/self/cgroup",
        )?;
        bundle.edit(|spec| {
            let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
            spec["linux"]["namespaces"] = kinds.iter().map(|kind| json!({"type": kind})).collect();
            spec["hostname"] = json!("inside");
        })?;
        let seen = bundle.run()?;
        assert_eq!(seen, "1\nsh\n/proc/1\nlo\ninside\n0::/\n");
        Ok(())
    })
}

#[test]
fn a_namespace_that_makes_no_sense_is_refused() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "true")?;
        for (why, changed) in [
            ("an unknown type", json!({"type": "dream"})),
            ("another type's path", json!({"type": "network", "path": "/proc/self/ns/mnt"})),
            ("no namespace", json!({"type": "network", "path": "/proc/self/status"})),
            ("no path", json!({"type": "network", "path": "/nowhere"})),
        ] {
            let listed = json!([{"type": "pid"}, {"type": "mount"}, changed]);
            refuses(&bundle, why, "linux.namespaces", listed)?;
        }
        let twice = json!([{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "network"}]);
        refuses(&bundle, "one that is listed twice", "linux.namespaces", twice)
    })
}

#[test]
fn limits_are_what_the_cgroup_has() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max memory.high cpu.max cpu.weight cpuset.cpus pids.max memory.oom.group",
        )?;
        bundle.edit(|spec| {
            let resources = &mut spec["linux"]["resources"];
            resources["memory"] =
                json!({"limit": 67_108_864, "reservation": 33_554_432, "swap": 100_663_296});
            resources["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"});
            resources["pids"] = json!({"limit": 99});
            resources["unified"] = json!({"memory.high": "50331648", "memory.oom.group": "1"});
        })?;
        let expected = "67108864\n33554432\n33554432\n50331648\n50000 100000\n20\n0\n99\n1\n";
        assert_eq!(bundle.run()?, expected);
        let nobodys = json!({"nosuchcontroller.max": "1"});
        refuses(&bundle, "a controller that there is not", "linux.resources.unified", nobodys)
    })
}

#[test]
fn sysctls_are_set() -> Result<()> {
    on_each(|runtime| {
        let bundle =
            script(runtime, "cd /proc/sys; cat net/ipv4/ip_forward net/core/somaxconn kernel/msgmax")?;
        bundle.edit(|spec| {
            spec["linux"]["sysctl"] =
                json!({"net.ipv4.ip_forward": "1", "net.core.somaxconn": "256", "kernel.msgmax": "12345"});
        })?;
        assert_eq!(bundle.run()?, "1\n256\n12345\n");
        Ok(())
    })
}

fn rule(names: &[&str], action: &str) -> Value {
    json!({"names": names, "action": action})
}

#[test]
fn system_calls_are_answered_as_the_profile_says() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(
            runtime,
            "mkdir /new 2>&1; chmod 600 /bin 2>&1; kill -0 1 && echo probed; kill -USR2 1 2>&1 || echo refused; \
             grep Seccomp: /proc/self/status",
        )?;
        let mut mkdir = rule(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO");
        // EOPNOTSUPP
        mkdir["errnoRet"] = json!(95);
        let mut kill = rule(&["kill"], "SCMP_ACT_ERRNO");
        kill["args"] = json!([{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}]);
        let chmod = rule(&["chmod", "fchmodat"], "SCMP_ACT_ERRNO");
        bundle.edit(|spec| {
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [mkdir, kill, chmod],
            });
        })?;
        let said = bundle.run()?;
        for words in [
            "/new': Operation not supported",
            "/bin: Operation not permitted",
            "probed",
            "refused",
            "Seccomp:\t2",
        ] {
            assert!(said.contains(words), "{words:?} in {said:?}");
        }
        for (why, profile) in [
            ("an unknown action", json!({"defaultAction": "SCMP_ACT_DREAM"})),
            (
                "an unknown action of a call",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(&["mkdir"], "NO")]}),
            ),
            (
                "an unknown architecture",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}),
            ),
        ] {
            refuses(&bundle, why, "linux.seccomp", profile)?;
        }
        Ok(())
    })
}

#[test]
fn what_a_profile_does_not_name_gets_its_default_error() -> Result<()> {
    on_each(|runtime| {
        let bundle = script(runtime, "mkdir /new 2>&1; echo lives")?;
        bundle.edit(|spec| {
            spec["linux"]["seccomp"] = json!({
                // ENODATA
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 61, "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [rule(NEEDED, "SCMP_ACT_ALLOW")],
            });
        })?;
        assert_eq!(bundle.run()?, "mkdir: can't create directory '/new': No data available\nlives\n");
        Ok(())
    })
}

/// By a shell that runs `mkdir`, and by runtimes between the filter and the program.
const NEEDED: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_gettime",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "prctl",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "sched_getaffinity",
    "sched_yield",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
    "sigaltstack",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "umask",
    "uname",
    "vfork",
    "wait4",
    "write",
    "writev",
];

#[test]
fn a_profile_that_gives_an_error_to_an_action_without_one_is_refused() -> Result<()> {
    on_securectr(|runtime| {
        let bundle = script(runtime, "true")?;
        let mut allow = rule(&["mkdir"], "SCMP_ACT_ALLOW");
        allow["errnoRet"] = json!(1);
        for profile in [
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [allow]}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(&[], "SCMP_ACT_LOG")]}),
        ] {
            refuses(&bundle, &profile.to_string(), "linux.seccomp", profile)?;
        }
        Ok(())
    })
}

#[test]
fn a_personality_is_the_specs() -> Result<()> {
    // This runc knows none.
    on_securectr(|runtime| {
        let bundle = script(runtime, "uname -m")?;
        bundle.set("linux.personality", json!({"domain": "LINUX32"}))?;
        assert_eq!(bundle.run()?, "i686\n");
        let domain = json!({"domain": "OS2"});
        refuses(&bundle, "an unknown domain", "linux.personality", domain)
    })
}
