//! Pods, as a kubelet makes them by CRI.

use std::{fs, process::Command, thread};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{ContainerConfig, DnsConfig, LinuxContainerResources, NamespaceMode, PortMapping};
use securectr_tests::{
    Runtime,
    cri::{BY_CONTAINER, Member, Pod, cri, mount},
    eventually, fetch, on_each,
};
use tempfile::TempDir;

fn volume() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("securectr-tests-").tempdir_in("/run")?)
}

/// What a command in a container says, when it ends well.
fn say(member: &Member<'_>, script: &str) -> Result<String> {
    let finished = member.exec(&["sh", "-c", script])?;
    ensure!(finished.code == 0, "{script}: {finished:?}");
    Ok(finished.out())
}

#[test]
fn the_containers_of_a_pod_share_a_volume_a_network_a_name_and_memory() -> Result<()> {
    on_each(|runtime| {
        let shared = volume()?;
        let dns = DnsConfig {
            servers: vec!["192.0.2.1".into(), "192.0.2.2".into()],
            searches: vec!["a.test".into(), "b.test".into()],
            options: vec!["ndots:5".into()],
        };
        let pod = cri()?.pod(runtime, |config| config.dns_config = Some(dns))?;
        let path = shared.path();
        let with_volume =
            |readonly| move |config: &mut ContainerConfig| config.mounts.push(mount(path, "/data", readonly));
        let serve = "echo a page >/data/index.html; httpd -p 127.0.0.1:8080 -h /data; echo $$ >/dev/shm/x; sleep 1000";
        let web = pod.start("web", serve, with_volume(false))?;
        let other = pod.start("other", "sleep 1000", with_volume(true))?;
        eventually("the page is served", || {
            Ok(other.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"])?.out() == "a page\n")
        })?;
        assert_eq!(say(&other, "cat /data/index.html /dev/shm/x")?, "a page\n1\n");
        assert!(other.exec(&["touch", "/data/x"])?.err().contains("Read-only"));
        fs::write(shared.path().join("from-host"), "news\n")?;
        eventually("the host's news", || Ok(web.exec(&["cat", "/data/from-host"])?.out() == "news\n"))?;
        let name = &pod.config.hostname;
        assert_eq!(say(&web, "hostname; cat /etc/hostname")?, format!("{name}\n{name}\n"));
        assert_eq!(say(&other, "hostname; set -- /proc/[0-9]*; echo $#")?, format!("{name}\n2\n"));
        assert_eq!(say(&other, "df -m /dev/shm | tail -n 1 | awk '{ print $2 }'")?, "64\n");
        let resolver = "search a.test b.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n";
        assert_eq!(say(&web, "cat /etc/resolv.conf")?, resolver);
        assert!(say(&other, "cat /etc/hosts")?.contains("localhost"));
        let address = pod.address()?;
        assert!(say(&other, "ip -o -4 addr show dev eth0; ip route")?.contains(&address), "{address}");
        Ok(())
    })
}

#[test]
fn logs_and_commands_come_back_as_a_kubelet_reads_them() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |_| {})?;
        let member = pod.start("log", "echo out; sleep 1; echo err >&2; sleep 1000", |_| {})?;
        assert_eq!(member.log(2)?, ["stdout out", "stderr err"]);
        let ran = member.exec(&["sh", "-c", "echo to out; echo to err >&2; exit 3"])?;
        assert_eq!((ran.code, ran.out(), ran.err()), (3, "to out\n".into(), "to err\n".into()));
        let stats = member.stats()?;
        let memory = stats.memory.context("memory")?.working_set_bytes.context("a working set")?;
        assert!((1..256 << 20).contains(&memory.value), "{memory:?}");
        ensure!(stats.cpu.context("cpu")?.usage_core_nano_seconds.context("usage")?.value > 0);
        Ok(())
    })
}

#[test]
fn a_container_that_ends_tells_why_and_can_be_followed_by_another() -> Result<()> {
    on_each(|runtime| {
        let place = volume()?;
        let last_words = place.path().join("last-words");
        fs::write(&last_words, "")?;
        let pod = cri()?.pod(runtime, |_| {})?;
        let first = pod.start("job", "echo no luck >/dev/termination-log; exit 3", |config| {
            config.mounts.push(mount(&last_words, "/dev/termination-log", false));
        })?;
        let status = first.ended()?;
        assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"), "{status:?}");
        // containerd notes the start when it has heard of it: of a short life that may be after its end.
        assert!(
            status.created_at <= status.started_at && status.created_at <= status.finished_at,
            "{status:?}"
        );
        assert_eq!(fs::read_to_string(&last_words)?, "no luck\n");
        ensure!(pod.is_ready()?, "the pod outlives its container");
        let second = pod.start("job", "exit 0", |config| {
            config.log_path = "job-1.log".to_owned();
            config.metadata.get_or_insert_default().attempt = 1;
        })?;
        let status = second.ended()?;
        assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "{status:?}");
        first.remove()?;
        second.remove()
    })
}

#[test]
fn memory_beyond_the_limit_is_told_as_such() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |_| {})?;
        let eater = pod.start(
            "eater",
            "sleep 1; x=$(head -c 90000000 /dev/zero | tr '\\0' x); echo $x | wc -c",
            |config| {
                config.linux.get_or_insert_default().resources =
                    Some(LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() });
            },
        )?;
        let status = eater.ended()?;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
        Ok(())
    })
}

#[test]
fn limits_change_while_a_container_runs() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |_| {})?;
        let member = pod.start("limited", "sleep 1000", |config| {
            config.linux.get_or_insert_default().resources =
                Some(LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
        })?;
        let limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
        assert_eq!(say(&member, limits)?, "67108864\nmax 100000\n");
        member.update(LinuxContainerResources {
            memory_limit_in_bytes: 48 << 20,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            ..Default::default()
        })?;
        assert_eq!(say(&member, limits)?, "50331648\n20000 100000\n");
        Ok(())
    })
}

#[test]
fn a_pods_containers_may_share_their_processes() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |config| {
            let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            context.namespace_options.get_or_insert_default().set_pid(NamespaceMode::Pod);
        })?;
        let share = |config: &mut ContainerConfig| {
            let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            context.namespace_options.get_or_insert_default().set_pid(NamespaceMode::Pod);
        };
        let first = pod.start("first", "echo $$ >/dev/shm/pid; exec sleep 4321", share)?;
        let second = pod.start("second", "exec sleep 1000", share)?;
        eventually("the first says its number", || {
            Ok(second.exec(&["test", "-s", "/dev/shm/pid"])?.code == 0)
        })?;
        say(
            &second,
            "tr '\\0' ' ' </proc/$(cat /dev/shm/pid)/cmdline | grep -q 'sleep 4321'; kill -9 $(cat /dev/shm/pid)",
        )?;
        assert_eq!(first.ended()?.exit_code, 137);
        Ok(())
    })
}

#[test]
fn settings_of_the_kernel_hold_in_the_pod() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |config| {
            let sysctls = &mut config.linux.get_or_insert_default().sysctls;
            sysctls.insert("net.ipv4.ip_local_port_range".into(), "40000 40100".into());
            sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
        })?;
        let member = pod.start("one", "sleep 1000", |_| {})?;
        let said =
            say(&member, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced")?;
        assert_eq!(said, "40000\t40100\n1\n");
        Ok(())
    })
}

#[test]
fn a_page_of_a_pod_is_fetched_by_its_address_and_by_the_hosts_port() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |config| {
            config.port_mappings =
                vec![PortMapping { container_port: 80, host_port: 8089, ..Default::default() }];
        })?;
        let serve = "mkdir /www; echo a page >/www/index.html; exec httpd -f -p 80 -h /www";
        let _web = pod.start("web", serve, |_| {})?;
        for url in [format!("http://{}/", pod.address()?), "http://127.0.0.1:8089/".to_owned()] {
            eventually(&format!("the page of {url}"), || Ok(fetch(&url)? == "a page\n"))?;
        }
        Ok(())
    })
}

#[test]
fn volumes_of_all_kinds_are_as_on_the_host() -> Result<()> {
    on_each(|runtime| {
        let place = volume()?;
        // As a kubelet lays a ConfigMap: a link leads to the current version, and another one in a rename.
        let lay = |version: &str| -> Result<()> {
            let directory = place.path().join("config").join(version);
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("key"), format!("{version}\n"))?;
            let new = place.path().join("config/..new");
            std::os::unix::fs::symlink(version, &new)?;
            Ok(fs::rename(new, place.path().join("config/..data"))?)
        };
        lay("..1")?;
        std::os::unix::fs::symlink("..data/key", place.path().join("config/key"))?;
        let memory = place.path().join("memory");
        fs::create_dir_all(&memory)?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&memory).status()?;
        ensure!(mounted.success());
        fs::create_dir_all(place.path().join("disk/sub/path"))?;
        let pod = cri()?.pod(runtime, |_| {})?;
        let member = pod.start("one", "sleep 1000", |config| {
            config.mounts = vec![
                mount(&place.path().join("config"), "/config", true),
                mount(&memory, "/memory", false),
                mount(&place.path().join("disk/sub"), "/sub", false),
            ];
        })?;
        assert_eq!(say(&member, "cat /config/key; echo x >/sub/path/file; ls /sub")?, "..1\npath\n");
        assert_eq!(fs::read_to_string(place.path().join("disk/sub/path/file"))?, "x\n");
        lay("..2")?;
        eventually("the new version", || Ok(say(&member, "cat /config/key")? == "..2\n"))?;
        let full = member.exec(&["sh", "-c", "dd if=/dev/zero of=/memory/x bs=1M count=5"])?;
        assert!(full.code != 0 && full.err().contains("No space left"), "{full:?}");
        member.stop(0)?;
        pod.stop()?;
        ensure!(Command::new("umount").arg(&memory).status()?.success(), "something holds the volume");
        Ok(())
    })
}

#[test]
fn the_hosts_network_is_refused_and_nothing_is_left() -> Result<()> {
    // By the sandbox API, containerd 2.1 ends with a nil pointer of its own before the shim is asked.
    let refused = cri()?.pod_by(BY_CONTAINER, |config| {
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().set_network(NamespaceMode::Node);
    });
    let error = format!("{:#}", refused.err().context("it was made")?);
    assert!(error.contains("the host's network"), "{error}");
    Ok(())
}

#[test]
fn a_pod_whose_machine_is_killed_has_failed() -> Result<()> {
    let pod = cri()?.pod(Runtime::Securectr, |_| {})?;
    let member = pod.start("one", "sleep 1000", |_| {})?;
    ensure!(Command::new("pkill").args(["-KILL", "-x", "securectr-vmm"]).status()?.success());
    let status = member.ended()?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "{status:?}");
    eventually("the pod is not ready", || Ok(!pod.is_ready()?))?;
    pod.stop()?;
    pod.remove()?;
    // The next one is not concerned.
    let pod = cri()?.pod(Runtime::Securectr, |_| {})?;
    assert_eq!(pod.start("two", "exit 4", |_| {})?.ended()?.exit_code, 4);
    Ok(())
}

#[test]
fn many_pods_start_at_once_and_end() -> Result<()> {
    on_each(|runtime| {
        let one = move || -> Result<()> {
            let pod: Pod<'_> = cri()?.pod(runtime, |_| {})?;
            let member = pod.start("one", "hostname; sleep 1000", |_| {})?;
            let name = &pod.config.hostname;
            assert_eq!(member.log(1)?, [format!("stdout {name}")]);
            member.stop(0)?;
            pod.stop()?;
            pod.remove()
        };
        // With runc, that the test is right.
        let many = if runtime == Runtime::Runc { 5 } else { 20 };
        let all: Vec<_> = (0..many).map(|_| thread::spawn(one)).collect();
        all.into_iter().try_for_each(|pod| pod.join().ok().context("a pod's thread")?)
    })
}
