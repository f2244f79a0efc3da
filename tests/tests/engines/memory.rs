//! Memory of running containers, more and less of it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{ContainerConfig, LinuxContainerResources};
use securectr_tests::{
    Bundle, Finished, Runtime,
    cri::{Member, cri},
    eventually, on_each,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A container that waits, limited to 64 MiB, with a tmpfs that holds much more.
fn small(runtime: Runtime) -> Result<Bundle> {
    let bundle = Bundle::new(runtime, &["sleep", "1000"])?;
    bundle.set("linux.resources.memory.limit", json!(64 * MIB))?;
    bundle.edit(|spec| {
        let fill =
            json!({"destination": "/fill", "type": "tmpfs", "source": "tmpfs", "options": ["size=1g"]});
        let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
        mounts.into_iter().for_each(|mounts| mounts.push(fill.clone()));
    })?;
    bundle.create(&[])?;
    bundle.succeed(&["start", "c1"])?;
    Ok(bundle)
}

fn fill(bundle: &Bundle, mib: u32) -> Result<Finished> {
    let script = format!("rm -f /fill/x; dd if=/dev/zero of=/fill/x bs=1M count={mib} && stat -c %s /fill/x");
    bundle.call(&["exec", "c1", "sh", "-c", &script])
}

/// What lies in the new memory is written to the container's root, which is the host's, and said.
fn reaches_the_host(bundle: &Bundle) -> Result<()> {
    let script = "dd if=/dev/urandom of=/fill/y bs=1M count=40; cp /fill/y /root-y; sha256sum </fill/y";
    let said = bundle.call(&["exec", "c1", "sh", "-c", script])?;
    let written = fs::File::open(bundle.path("rootfs/root-y"))?;
    let found = Command::new("sha256sum").stdin(written).output()?;
    ensure!(said.out() == String::from_utf8_lossy(&found.stdout), "{said:?}, {found:?}");
    Ok(())
}

fn limit(bundle: &Bundle, mib: u64) -> Result<()> {
    bundle.succeed(&["update", "--memory", &(mib * MIB).to_string(), "c1"])
}

/// What the host backs of the machine's memory.
fn machine_mib(id: &str) -> Result<u64> {
    let state = fs::read(Path::new("/run/securectr").join(id).join("state.json"))?;
    let state: Value = serde_json::from_slice(&state)?;
    let pid = state.get("vmm_pid").context("the VMM's pid")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

#[test]
fn a_limit_that_is_raised_can_be_used_and_one_that_is_lowered_gives_back() -> Result<()> {
    on_each(|runtime| {
        let bundle = small(runtime)?;
        let killed = fill(&bundle, 100)?;
        assert_eq!(killed.code, 137, "{killed:?}");
        limit(&bundle, 1536)?;
        let filled = fill(&bundle, 600)?;
        assert_eq!((filled.code, filled.out()), (0, format!("{}\n", 600 * MIB)), "{filled:?}");
        if runtime == Runtime::Securectr {
            let full_mib = machine_mib("c1")?;
            assert!(full_mib > 600, "{full_mib} MiB");
        }
        reaches_the_host(&bundle)?;
        bundle.succeed(&["exec", "c1", "rm", "/fill/x", "/fill/y"])?;
        limit(&bundle, 64)?;
        if runtime == Runtime::Securectr {
            eventually("the machine gives back", || Ok(machine_mib("c1")? < 300))?;
        }
        // And again.
        limit(&bundle, 512)?;
        let filled = fill(&bundle, 300)?;
        assert_eq!(filled.code, 0, "{filled:?}");
        Ok(())
    })
}

#[test]
fn more_than_the_host_could_give_is_refused_and_changes_nothing() -> Result<()> {
    let bundle = small(Runtime::Securectr)?;
    let refused = bundle.fail(&["update", "--memory", &(64_u64 << 40).to_string(), "c1"])?;
    assert!(refused.err().contains("MiB are the most"), "{refused:?}");
    let limit = bundle.call(&["exec", "c1", "cat", "/sys/fs/cgroup/memory.max"])?;
    assert_eq!(limit.out(), format!("{}\n", 64 * MIB));
    Ok(())
}

fn limited_to(mib: u64) -> LinuxContainerResources {
    LinuxContainerResources { memory_limit_in_bytes: (mib * MIB) as i64, ..Default::default() }
}

fn with_limit(mib: u64) -> impl FnOnce(&mut ContainerConfig) {
    move |config| config.linux.get_or_insert_default().resources = Some(limited_to(mib))
}

/// What its kernel has in all.
fn total_mib(member: &Member<'_>) -> Result<u64> {
    let told = member.exec(&["sh", "-c", "grep MemTotal /proc/meminfo | tr -dc 0-9"])?;
    ensure!(told.code == 0, "{told:?}");
    Ok(told.out().parse::<u64>()? / 1024)
}

#[test]
fn a_pod_has_what_its_containers_may_use_whenever_they_come() -> Result<()> {
    on_each(|runtime| {
        let pod = cri()?.pod(runtime, |_| {})?;
        let first = pod.start("first", "sleep 1000", with_limit(64))?;
        first.update(limited_to(1400))?;
        let total = total_mib(&first)?;
        assert!(total >= 1400, "{total} MiB");
        let second = pod.start("second", "sleep 1000", with_limit(600))?;
        let total = total_mib(&second)?;
        assert!(total >= 1400 + 600, "{total} MiB");
        assert_eq!(second.exec(&["cat", "/sys/fs/cgroup/memory.max"])?.out(), format!("{}\n", 600 * MIB));
        if runtime == Runtime::Securectr {
            second.stop(0)?;
            second.remove()?;
            first.update(limited_to(64))?;
            eventually("the pod is small again", || Ok(total_mib(&first)? < 1400))?;
        }
        Ok(())
    })
}
