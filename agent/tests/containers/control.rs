//! What holds for a container that is paused, changed, measured.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use securectr_protocol::agent::{ProcessId, StatsResponse};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::guest::{Guest, Running, code, process, spec};

scenarios! {
    a_paused_container_stands_still,
    a_paused_container_can_be_killed,
    only_a_running_container_is_paused,
    nothing_begins_in_a_paused_container,
    limits_change_while_a_container_runs,
    an_update_changes_only_what_it_says,
    what_is_used_is_counted,
    what_is_used_is_known_as_long_as_the_container,
    processes_are_listed_with_their_names,
    an_oom_kill_is_told_at_once,
    waiting_for_an_oom_kill_has_an_end,
    another_process_is_as_asked,
    process_names_are_unique_and_may_be_long,
    hooks_run_in_the_container_before_its_program,
    a_hook_that_fails_is_the_end_of_a_start,
}

const MOMENT: Duration = Duration::from_millis(300);

async fn running(guest: &mut Guest, script: &str) -> Result<Running> {
    let running = guest.create(&spec(script)).await?;
    guest.start(&running).await?;
    Ok(running)
}

async fn kill(guest: &Guest, running: Running) -> Result<()> {
    guest.signal(&running.id, 9, true).await?;
    let end = guest.finish(running).await?.end;
    ensure!(end.signal == 9, "{end:?}");
    Ok(())
}

async fn a_paused_container_stands_still(guest: &mut Guest) -> Result<()> {
    let mut counting = running(guest, "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done").await?;
    counting.read_until("3\n").await?;
    guest.pause(&counting.id).await?;
    let used = async |guest: &Guest, id: &ProcessId| cpu(&guest.stats(id).await?);
    let before = used(guest, &counting.id).await?;
    tokio::time::sleep(MOMENT).await;
    ensure!(used(guest, &counting.id).await? == before, "it went on");
    guest.resume(&counting.id).await?;
    tokio::time::sleep(MOMENT).await;
    ensure!(used(guest, &counting.id).await? > before, "it did not go on");
    kill(guest, counting).await
}

fn cpu(stats: &StatsResponse) -> Result<u64> {
    Ok(stats.cpu.as_ref().context("cpu")?.usage_usec)
}

async fn a_paused_container_can_be_killed(guest: &mut Guest) -> Result<()> {
    for all in [false, true] {
        let paused = running(guest, "sleep 1000 & sleep 1000").await?;
        guest.pause(&paused.id).await?;
        guest.signal(&paused.id, 15, all).await?;
        tokio::time::sleep(MOMENT).await;
        ensure!(
            !guest.pids(&paused.id).await?.processes.is_empty(),
            "it stands still, so it handles nothing"
        );
        guest.signal(&paused.id, 9, all).await?;
        let end = guest.finish(paused).await?.end;
        ensure!(end.signal == 9, "all: {all}, {end:?}");
    }
    Ok(())
}

async fn only_a_running_container_is_paused(guest: &mut Guest) -> Result<()> {
    let one = guest.create(&spec("exec sleep 1000")).await?;
    ensure!(code(guest.pause(&one.id).await)? == Code::FAILED_PRECONDITION, "created");
    guest.start(&one).await?;
    ensure!(code(guest.resume(&one.id).await)? == Code::FAILED_PRECONDITION, "running");
    guest.pause(&one.id).await?;
    ensure!(code(guest.pause(&one.id).await)? == Code::FAILED_PRECONDITION, "paused");
    guest.resume(&one.id).await?;
    guest.signal(&one.id, 9, false).await?;
    guest.wait(&one.id).await?;
    ensure!(code(guest.pause(&one.id).await)? == Code::FAILED_PRECONDITION, "ended");
    ensure!(code(guest.resume(&one.id).await)? == Code::FAILED_PRECONDITION, "ended");
    let id = one.id.clone();
    guest.finish(one).await?;
    ensure!(code(guest.pause(&id).await)? == Code::NOT_FOUND, "deleted");
    Ok(())
}

async fn nothing_begins_in_a_paused_container(guest: &mut Guest) -> Result<()> {
    let one = running(guest, "exec sleep 1000").await?;
    let exec = guest.exec(&one.id, &process("exit 3")).await?;
    guest.pause(&one.id).await?;
    ensure!(code(guest.exec(&one.id, &process("true")).await)? == Code::FAILED_PRECONDITION);
    ensure!(code(guest.start(&exec).await)? == Code::FAILED_PRECONDITION);
    guest.resume(&one.id).await?;
    ensure!(guest.start(&exec).await?.is_none() && guest.finish(exec).await?.end.exit_code == 3);
    kill(guest, one).await
}

/// A file of a container's cgroup, without its last newline.
fn file(running: &Running, name: &str) -> Result<String> {
    let path = format!("/sys/fs/cgroup/containers/{}/{name}", running.id.container_id);
    Ok(fs::read_to_string(&path).context(path)?.trim_end().to_owned())
}

fn ensure_files(running: &Running, expected: &[(&str, &str)]) -> Result<()> {
    expected.iter().try_for_each(|(name, value)| {
        let found = file(running, name)?;
        ensure!(found == *value, "{name}: {found}, not {value}");
        Ok(())
    })
}

async fn limits_change_while_a_container_runs(guest: &mut Guest) -> Result<()> {
    let one = running(guest, "exec sleep 1000").await?;
    let wanted = json!({
        "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 16 << 20 },
        "cpu": { "shares": 1024, "quota": 50_000, "period": 100_000, "burst": 20_000, "cpus": "0" },
        "pids": { "limit": 50 },
        "blockIO": { "weight": 1000 },
        "unified": { "memory.high": "50331648" },
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    guest.update(&one.id, &wanted).await?;
    ensure_files(
        &one,
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("memory.low", "16777216"),
            ("memory.high", "50331648"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("cpu.max.burst", "20000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "50"),
            ("io.weight", "default 10000"),
        ],
    )?;
    // Below the burst that holds.
    guest.update(&one.id, &json!({ "cpu": { "quota": 10_000, "burst": 5_000, "idle": 1 } })).await?;
    ensure_files(&one, &[("cpu.max", "10000 100000"), ("cpu.max.burst", "5000"), ("cpu.idle", "1")])?;
    guest.update(&one.id, &json!({ "cpu": { "shares": 2048, "idle": 0 } })).await?;
    ensure_files(&one, &[("cpu.idle", "0"), ("cpu.weight", "79")])?;
    let none =
        json!({ "memory": { "limit": -1, "swap": -1 }, "cpu": { "quota": -1 }, "pids": { "limit": -1 } });
    guest.update(&one.id, &none).await?;
    ensure_files(
        &one,
        &[("memory.max", "max"), ("memory.swap.max", "max"), ("cpu.max", "max 100000"), ("pids.max", "max")],
    )?;
    kill(guest, one).await
}

async fn an_update_changes_only_what_it_says(guest: &mut Guest) -> Result<()> {
    let mut limited = spec("exec sleep 1000");
    limited["linux"]["resources"] =
        json!({ "memory": { "limit": 64 << 20 }, "cpu": { "quota": 50_000 }, "pids": { "limit": 20 } });
    let one = guest.create(&limited).await?;
    guest.update(&one.id, &json!({ "memory": { "swap": 80 << 20 } })).await?;
    guest.update(&one.id, &json!({ "cpu": { "period": 200_000 } })).await?;
    guest.update(&one.id, &json!({})).await?;
    ensure_files(
        &one,
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "16777216"),
            ("cpu.max", "50000 200000"),
            ("pids.max", "20"),
        ],
    )?;
    for wrong in [json!("none"), json!({ "unified": { "cgroup.procs": "1" } })] {
        ensure!(code(guest.update(&one.id, &wrong).await)? == Code::INVALID_ARGUMENT, "{wrong}");
    }
    guest.start(&one).await?;
    guest.signal(&one.id, 9, false).await?;
    guest.wait(&one.id).await?;
    let late = json!({ "pids": { "limit": 30 } });
    ensure!(code(guest.update(&one.id, &late).await)? == Code::FAILED_PRECONDITION);
    guest.finish(one).await?;
    Ok(())
}

async fn what_is_used_is_counted(guest: &mut Guest) -> Result<()> {
    let mut limited = spec(
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=4 2>/dev/null; n=0; while [ $n -lt 3000 ]; do n=$((n+1)); done; echo ready; exec sleep 1000",
    );
    limited["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 20 },
        "cpu": { "quota": 20_000, "period": 100_000 } });
    let mut one = guest.create(&limited).await?;
    guest.start(&one).await?;
    one.read_until("ready").await?;
    let stats = guest.stats(&one.id).await?;
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    ensure!(cpu.usage_usec > 0 && cpu.user_usec + cpu.system_usec <= cpu.usage_usec + 1000, "{cpu:?}");
    ensure!(cpu.nr_periods > 0 && cpu.nr_throttled > 0 && cpu.throttled_usec > 0, "{cpu:?}");
    ensure!(memory.limit == 64 << 20 && memory.swap_limit == u64::MAX, "{memory:?}");
    ensure!(memory.usage >= 4 << 20 && memory.peak >= memory.usage && memory.usage < 64 << 20, "{memory:?}");
    ensure!(memory.stat["shmem"] == 4 << 20 && memory.stat.contains_key("inactive_file"), "{memory:?}");
    ensure!(stats.pids.current == 1 && stats.pids.limit == 20, "{:?}", stats.pids);
    let whole = &stats.guest;
    ensure!(whole.mem_total > whole.mem_available && whole.mem_available > 1 << 20, "{whole:?}");
    kill(guest, one).await
}

async fn what_is_used_is_known_as_long_as_the_container(guest: &mut Guest) -> Result<()> {
    let one = guest.create(&spec("exec sleep 1000")).await?;
    ensure!(guest.stats(&one.id).await?.pids.current == 1, "created");
    guest.start(&one).await?;
    guest.pause(&one.id).await?;
    ensure!(guest.stats(&one.id).await?.pids.current == 1, "paused");
    guest.signal(&one.id, 9, false).await?;
    guest.wait(&one.id).await?;
    let stats = guest.stats(&one.id).await?;
    ensure!(stats.pids.current == 0 && cpu(&stats)? > 0, "ended: {stats:?}");
    let id = one.id.clone();
    guest.finish(one).await?;
    ensure!(code(guest.stats(&id).await)? == Code::NOT_FOUND, "deleted");
    Ok(())
}

async fn processes_are_listed_with_their_names(guest: &mut Guest) -> Result<()> {
    let mut one = running(guest, "sleep 1000 & echo ready; wait").await?;
    one.read_until("ready").await?;
    let exec = guest.exec(&one.id, &process("exec sleep 1000")).await?;
    guest.start(&exec).await?;
    let listed = guest.pids(&one.id).await?.processes;
    ensure!(listed.len() == 3, "{listed:?}");
    for process in &listed {
        let expected = if process.pid == exec.pid { exec.id.exec_id.as_str() } else { "" };
        ensure!(process.exec_id == expected, "{listed:?}");
    }
    ensure!(listed.iter().any(|process| process.pid == one.pid), "{listed:?}");
    guest.signal(&exec.id, 9, false).await?;
    guest.finish(exec).await?;
    ensure!(guest.pids(&one.id).await?.processes.len() == 2);
    guest.signal(&one.id, 9, false).await?;
    guest.wait(&one.id).await?;
    ensure!(guest.pids(&one.id).await?.processes.is_empty());
    guest.finish(one).await?;
    Ok(())
}

const EAT: &str = "head -c 100m /dev/zero | tail >/dev/null; echo eaten";

async fn an_oom_kill_is_told_at_once(guest: &mut Guest) -> Result<()> {
    let mut limited = spec(&format!("read line; {EAT}; read line; {EAT}; exec sleep 1000"));
    limited["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    let mut one = guest.create(&limited).await?;
    guest.start(&one).await?;
    let patience = Duration::from_secs(60);
    one.write("go\n").await?;
    let first = guest.wait_oom(&one.id, 0, patience).await?;
    ensure!(first >= 1);
    one.read_until("eaten").await?;
    // More than one may be killed for the same want.
    let seen = guest.wait_oom(&one.id, first - 1, patience).await?;
    ensure!(seen >= first, "what was missed is told");
    one.write("go\n").await?;
    ensure!(guest.wait_oom(&one.id, seen, patience).await? > seen);
    one.read_until("eaten").await?;
    let counted = guest.stats(&one.id).await?.memory.events_oom_kill;
    ensure!(counted > seen, "{counted}");
    guest.signal(&one.id, 9, true).await?;
    guest.wait(&one.id).await?;
    ensure!(guest.wait_oom(&one.id, 0, patience).await? == counted, "also when it has ended");
    guest.finish(one).await?;
    Ok(())
}

async fn waiting_for_an_oom_kill_has_an_end(guest: &mut Guest) -> Result<()> {
    let one = running(guest, "exec sleep 1000").await?;
    let id = one.id.clone();
    let open = fs::read_dir("/proc/self/fd")?.count();
    ensure!(guest.wait_oom(&id, 0, MOMENT).await.is_err(), "the host's patience ends");
    tokio::time::sleep(MOMENT).await;
    ensure!(fs::read_dir("/proc/self/fd")?.count() == open, "nothing is left of it");
    let killed = async {
        tokio::time::sleep(MOMENT).await;
        guest.signal(&id, 9, false).await
    };
    let (told, killed) = tokio::join!(guest.wait_oom(&id, 0, Duration::from_secs(60)), killed);
    killed?;
    ensure!(code(told)? == Code::FAILED_PRECONDITION, "the container's end");
    guest.finish(one).await?;
    ensure!(code(guest.wait_oom(&id, 0, MOMENT).await)? == Code::NOT_FOUND);
    Ok(())
}

async fn another_process_is_as_asked(guest: &mut Guest) -> Result<()> {
    let one = running(guest, "exec sleep 1000").await?;
    let mut wanted = process(
        "id -u; id -g; id -G; pwd; echo $WORD; ulimit -n; cat /proc/self/oom_score_adj; \
         grep -E 'CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs' /proc/self/status | tr '\\t' ' '",
    );
    wanted["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [8, 9, 10] });
    wanted["capabilities"] = json!({ "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN"],
        "effective": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"] });
    wanted["cwd"] = json!("/home");
    wanted["env"] = json!(["PATH=/bin", "WORD=spoken"]);
    wanted["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }]);
    wanted["noNewPrivileges"] = json!(true);
    wanted["oomScoreAdj"] = json!(321);
    wanted["apparmorProfile"] = json!("docker-default");
    let exec = guest.exec(&one.id, &wanted).await?;
    ensure!(guest.start(&exec).await?.is_none());
    let said = guest.finish(exec).await?.stdout;
    let expected = "7\n8\n8 9 10\n/home\nspoken\n77\n321\nCapPrm: 0000000000000001\nCapEff: 0000000000000001\n\
        CapBnd: 0000000000000021\nCapAmb: 0000000000000001\nNoNewPrivs: 1\n";
    ensure!(said == expected, "{said}");
    let mut wanted = process("stty size; id -u; test -t 0 && test -t 2 && echo terminal");
    wanted["terminal"] = json!(true);
    wanted["consoleSize"] = json!({ "height": 41, "width": 123 });
    wanted["user"] = json!({ "uid": 7, "gid": 8 });
    let exec = guest.exec(&one.id, &wanted).await?;
    guest.start(&exec).await?;
    let said = guest.finish(exec).await?.stdout;
    ensure!(said == "41 123\r\n7\r\nterminal\r\n", "{said:?}");
    let mut wanted = process("true");
    wanted["cwd"] = json!("/no/such/place");
    let exec = guest.exec(&one.id, &wanted).await?;
    let said = format!("{:#}", guest.start(&exec).await.err().context("it was started")?);
    ensure!(said.contains("/no/such/place"), "{said}");
    guest.finish(exec).await?;
    kill(guest, one).await
}

async fn process_names_are_unique_and_may_be_long(guest: &mut Guest) -> Result<()> {
    let one = running(guest, "exec sleep 1000").await?;
    let long = format!("{}_-.9", "f".repeat(124));
    for name in [long, format!("{:064x}", 0xabc_u32)] {
        let exec = guest.exec_as(name.clone(), &one.id, &process("true")).await?;
        let again = guest.exec_as(name.clone(), &one.id, &process("true")).await;
        ensure!(code(again)? == Code::ALREADY_EXISTS, "{name}");
        guest.start(&exec).await?;
        guest.finish(exec).await?;
    }
    for name in ["f".repeat(129), "a/b".to_owned(), "..".to_owned()] {
        let refused = guest.exec_as(name.clone(), &one.id, &process("true")).await;
        ensure!(code(refused)? == Code::INVALID_ARGUMENT, "{name}");
    }
    guest.signal(&one.id, 9, false).await?;
    guest.wait(&one.id).await?;
    let late = guest.exec(&one.id, &process("true")).await;
    ensure!(code(late)? == Code::FAILED_PRECONDITION, "it has ended");
    guest.finish(one).await?;
    Ok(())
}

fn with_hooks(script: &str, hooks: &[(&str, u32)]) -> Value {
    let hook = |(script, seconds): &(&str, u32)| {
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script],
        "env": ["PATH=/bin", "WORD=of the hook"], "timeout": seconds })
    };
    let mut spec = spec(script);
    spec["hooks"] = json!({ "startContainer": hooks.iter().map(hook).collect::<Vec<_>>() });
    spec["annotations"] = json!({ "note": "kept" });
    spec
}

async fn hooks_run_in_the_container_before_its_program(guest: &mut Guest) -> Result<()> {
    let mut hooked = with_hooks(
        "cat /dev/shm/state; cat /dev/shm/made",
        &[
            ("cat > /dev/shm/state; hostname > /dev/shm/made", 60),
            (
                "cat /proc/self/stat > /dev/null; id -u >> /dev/shm/made; echo $WORD >> /dev/shm/made; grep -c . >> /dev/shm/made",
                60,
            ),
        ],
    );
    hooked["process"]["user"] = json!({ "uid": 7, "gid": 8 });
    let created = guest.create(&hooked).await?;
    let id = created.id.container_id.clone();
    ensure!(guest.start(&created).await?.is_none());
    let said = guest.finish(created).await?.stdout;
    let (state, made) = said.split_once('}').context("a state")?;
    ensure!(state.contains(&format!("\"id\":\"{id}\"")) && state.contains("\"note\":\"kept\""), "{state}");
    ensure!(made == "}guest\n7\nof the hook\n1\n", "{made:?}");
    Ok(())
}

async fn a_hook_that_fails_is_the_end_of_a_start(guest: &mut Guest) -> Result<()> {
    let cases = [("exit 3", "it ended with 3"), ("sleep 1000", "timed out"), ("kill -9 $$", "signal 9")];
    for (hook, words) in cases {
        let created = guest.create(&with_hooks("echo ran", &[("true", 60), (hook, 2)])).await?;
        let said = format!("{:#}", guest.start(&created).await.err().context("it was started")?);
        ensure!(said.contains("run the hook /bin/sh") && said.contains(words), "{hook}: {said}");
        let output = guest.finish(created).await?;
        ensure!(output.stdout.is_empty() && output.end.exit_code == 125, "{output:?}");
    }
    Ok(())
}
