//! What holds for a container.

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use securectr_protocol::agent::{Empty, rootfs::Upper};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::guest::{Guest, process, spec};

scenarios! {
    output_and_exit_code_come_back,
    output_and_errors_stay_apart,
    a_signal_is_told_from_a_code,
    input_streams_and_ends,
    much_output_is_complete,
    a_background_process_does_not_keep_the_container_alive,
    a_missing_program_is_told_by_errno,
    programs_are_found_in_the_containers_path,
    the_container_sees_only_itself,
    devices_are_the_usual_ones,
    other_devices_cannot_be_opened,
    paths_are_masked_and_read_only,
    a_read_only_root_has_its_mounts,
    the_user_is_as_asked,
    capabilities_are_as_asked,
    small_things_are_as_asked,
    a_seccomp_profile_holds,
    limits_are_written,
    too_much_memory_is_an_oom_kill,
    a_terminal_is_a_terminal,
    another_process_joins_the_container,
    a_process_in_a_terminal_joins_the_container,
    signals_go_to_one_or_to_all,
    two_containers_share_namespaces_by_path,
    binds_and_links_stay_in_the_root,
    what_cannot_be_done_is_refused_by_name,
    a_failed_creation_leaves_nothing,
    nothing_is_left_of_a_deleted_container,
    how_long_it_takes,
}

async fn output_and_exit_code_come_back(guest: &mut Guest) -> Result<()> {
    let output = guest.run(&spec("echo hello; exit 42")).await?;
    ensure!(output.stdout == "hello\n" && output.end.exit_code == 42 && output.end.signal == 0, "{output:?}");
    Ok(())
}

async fn output_and_errors_stay_apart(guest: &mut Guest) -> Result<()> {
    let output =
        guest.run(&spec("echo out; echo err >&2; echo again > /dev/stdout; echo more > /dev/stderr")).await?;
    ensure!(output.stdout == "out\nagain\n" && output.stderr == "err\nmore\n", "{output:?}");
    Ok(())
}

async fn a_signal_is_told_from_a_code(guest: &mut Guest) -> Result<()> {
    // Init itself takes no signal that it does not handle.
    let running = guest.create(&spec("sleep 1000")).await?;
    guest.start(&running).await?;
    guest.signal(&running.id, 9, false).await?;
    let output = guest.finish(running).await?;
    ensure!(output.end.signal == 9 && output.end.exit_code == 0 && !output.end.oom_killed, "{output:?}");
    Ok(())
}

async fn input_streams_and_ends(guest: &mut Guest) -> Result<()> {
    let mut running = guest.create(&spec("cat; echo end")).await?;
    guest.start(&running).await?;
    running.write("one\n").await?;
    ensure!(running.read_until("one\n").await? == "one\n");
    running.write("two\n").await?;
    running.stdin.as_mut().context("stdin")?.shutdown().await?;
    ensure!(guest.finish(running).await?.stdout == "two\nend\n");
    Ok(())
}

async fn much_output_is_complete(guest: &mut Guest) -> Result<()> {
    let output = guest.run(&spec("yes 0123456 | head -c 16777216; seq 1 50000 >&2")).await?;
    ensure!(output.stdout.len() == 16 << 20 && output.stderr.lines().count() == 50_000);
    ensure!(output.stderr.ends_with("\n50000\n"));
    Ok(())
}

async fn a_background_process_does_not_keep_the_container_alive(guest: &mut Guest) -> Result<()> {
    let began = Instant::now();
    ensure!(guest.say("sleep 1000 & echo done").await? == "done\n");
    // Neither does one that another process leaves behind, which goes on.
    let init = guest.create(&spec("sleep 1000")).await?;
    guest.start(&init).await?;
    let mut exec = guest.exec(&init.id, &process("sleep 1000 & echo done")).await?;
    guest.start(&exec).await?;
    exec.read_until("done\n").await?;
    ensure!(guest.wait(&exec.id).await?.exit_code == 0);
    guest.signal(&init.id, 9, true).await?;
    guest.finish(init).await?;
    ensure!(began.elapsed().as_secs() < 30);
    Ok(())
}

async fn launch_error(guest: &mut Guest, args: &[&str]) -> Result<(u32, String, u32)> {
    let mut spec = spec("");
    spec["process"]["args"] = json!(args);
    let running = guest.create(&spec).await?;
    let failure = guest.start(&running).await?.context("the program was started")?;
    let output = guest.finish(running).await?;
    Ok((failure.errno, failure.program, output.end.exit_code))
}

async fn a_missing_program_is_told_by_errno(guest: &mut Guest) -> Result<()> {
    ensure!(launch_error(guest, &["no-such-program"]).await? == (2, "no-such-program".into(), 127));
    ensure!(launch_error(guest, &["/bin/nothing", "x"]).await? == (2, "/bin/nothing".into(), 127));
    ensure!(launch_error(guest, &["/etc/not-executable"]).await? == (13, "/etc/not-executable".into(), 126));
    ensure!(launch_error(guest, &["/etc"]).await?.0 == 13);
    Ok(())
}

async fn programs_are_found_in_the_containers_path(guest: &mut Guest) -> Result<()> {
    let mut spec = spec("");
    spec["process"]["args"] = json!(["echo", "found"]);
    spec["process"]["env"] = json!(["PATH=/etc:/nowhere:/bin"]);
    ensure!(guest.say_in(&spec).await? == "found\n");
    spec["process"]["env"] = json!(["PATH=/etc"]);
    let running = guest.create(&spec).await?;
    ensure!(guest.start(&running).await?.is_some_and(|failure| failure.errno == 2));
    guest.finish(running).await?;
    Ok(())
}

async fn the_container_sees_only_itself(guest: &mut Guest) -> Result<()> {
    let said = guest
        .say("echo $$; hostname; ls /; wc -l < /proc/mounts; ls -l /proc/self/fd | wc -l; ps | wc -l")
        .await?;
    let lines: Vec<_> = said.lines().collect();
    ensure!(lines[..2] == ["1", "guest"], "{said}");
    ensure!(lines[2..lines.len() - 3] == ["bin", "dev", "etc", "home", "proc", "sys", "tmp"], "{said}");
    let counts: Vec<u32> = lines[lines.len() - 3..].iter().map(|line| line.trim().parse().unwrap()).collect();
    // The root, seven mounts, at most four masked and three read-only paths; "total", three streams and ls's own.
    ensure!(counts[0] <= 15 && counts[1] == 5 && counts[2] <= 5, "{said}");
    let outside = guest.say("cat /proc/self/mountinfo; cat /proc/self/cgroup").await?;
    ensure!(!outside.contains("/run/securectr/root") && outside.ends_with("0::/\n"), "{outside}");
    Ok(())
}

async fn devices_are_the_usual_ones(guest: &mut Guest) -> Result<()> {
    let said = guest
        .say(
            "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %a %t %T %u' $d; done;
        for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x > null; head -c 3 zero | wc -c",
        )
        .await?;
    let expected = "null 666 1 3 0\nzero 666 1 5 0\nfull 666 1 7 0\nrandom 666 1 8 0\nurandom 666 1 9 0\ntty 666 5 0 0\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3\n";
    ensure!(said == expected, "{said}");
    let mut spec = spec("stat -c '%a %t %T %u %g' /dev/net/fuse; ls -l /dev/net/fuse | cut -c1");
    spec["linux"]["devices"] = json!([{ "path": "/dev/net/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640,
        "uid": 7, "gid": 8 }]);
    ensure!(guest.say_in(&spec).await? == "640 a e5 7 8\nc\n");
    Ok(())
}

async fn other_devices_cannot_be_opened(guest: &mut Guest) -> Result<()> {
    let mut listed =
        spec("mknod /tmp/loop b 7 0 && mknod /tmp/kmsg c 1 11 && ! cat /tmp/loop && ! cat /tmp/kmsg");
    listed["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    let output = guest.run(&listed).await?;
    ensure!(output.end.exit_code == 0 && output.stderr.matches("not permitted").count() == 2, "{output:?}");
    let mut spec = spec("mknod /tmp/loop b 7 0; head -c 4096 /tmp/loop | wc -c; echo x > /tmp/loop");
    spec["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "b", "major": 7, "access": "r" }]);
    let output = guest.run(&spec).await?;
    ensure!(output.stdout == "4096\n" && output.stderr.contains("not permitted"), "{output:?}");
    Ok(())
}

async fn paths_are_masked_and_read_only(guest: &mut Guest) -> Result<()> {
    let output = guest
        .run(&spec(
            "wc -c < /proc/kcore; ls /sys/firmware | wc -l; echo 1 > /proc/sys/vm/swappiness;
        echo h > /proc/sysrq-trigger; echo x > /sys/kernel/mm/ksm/run; mkdir /sys/fs/cgroup/x; echo end",
        ))
        .await?;
    ensure!(output.stdout == "0\n0\nend\n" && output.stderr.matches("Read-only").count() >= 3, "{output:?}");
    Ok(())
}

async fn a_read_only_root_has_its_mounts(guest: &mut Guest) -> Result<()> {
    let script = "! touch /x 2>/dev/null && ! touch /etc/x 2>/dev/null && touch /dev/shm/x && head -1 /proc/uptime > /dev/null && echo ok";
    let mut read_only = spec(script);
    read_only["root"]["readonly"] = json!(true);
    ensure!(guest.say_in(&read_only).await? == "ok\n");
    let running = guest.create_on(&spec(script), Upper::None(Empty::default())).await?;
    guest.start(&running).await?;
    let output = guest.finish(running).await?;
    ensure!(output.stdout == "ok\n", "{output:?}");
    Ok(())
}

async fn the_user_is_as_asked(guest: &mut Guest) -> Result<()> {
    let mut spec = spec(
        "id; umask; touch /tmp/x 2>/dev/null || echo refused; echo via > /dev/stdout; grep -c . /dev/stdin",
    );
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 29], "umask": 0o27 });
    let said = guest.run(&spec).await?.stdout;
    ensure!(said == "uid=1000 gid=1001 groups=5,29\n0027\nrefused\nvia\n0\n", "{said}");
    Ok(())
}

/// The value of a line in /proc/self/status.
fn status<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim()
}

async fn capabilities_are_as_asked(guest: &mut Guest) -> Result<()> {
    let mut spec = spec("cat /proc/self/status");
    spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_NET_RAW"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_NET_RAW"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"] });
    spec["process"]["user"] = json!({ "uid": 5, "gid": 5 });
    spec["process"]["noNewPrivileges"] = json!(true);
    let said = guest.say_in(&spec).await?;
    let bits =
        |numbers: &[u32]| format!("{:016x}", numbers.iter().fold(0_u64, |all, number| all | 1 << number));
    ensure!(status(&said, "CapBnd") == bits(&[5, 13]), "{said}");
    ensure!(status(&said, "CapEff") == bits(&[5]) && status(&said, "CapAmb") == bits(&[5]), "{said}");
    ensure!(status(&said, "NoNewPrivs") == "1" && status(&said, "Seccomp") == "0", "{said}");
    spec["process"]["capabilities"] = Value::Null;
    spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    let said = guest.say_in(&spec).await?;
    ensure!(status(&said, "CapBnd") == bits(&[]) && status(&said, "CapEff") == bits(&[]), "{said}");
    Ok(())
}

async fn small_things_are_as_asked(guest: &mut Guest) -> Result<()> {
    let mut spec = spec("pwd; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/ip_unprivileged_port_start;
        cat /proc/sys/kernel/domainname; uname -m; grep SigIgn /proc/self/status; grep SigBlk /proc/self/status");
    spec["process"]["cwd"] = json!("/made/for/it");
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }]);
    spec["process"]["oomScoreAdj"] = json!(77);
    spec["domainname"] = json!("example");
    spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "80" });
    spec["linux"]["namespaces"].as_array_mut().context("a list")?.push(json!({ "type": "network" }));
    let said = guest.say_in(&spec).await?;
    let expected = "/made/for/it\n100\n200\n77\n80\nexample\ni686\nSigIgn:\t0000000000000000\nSigBlk:\t0000000000000000\n";
    ensure!(said == expected, "{said}");
    Ok(())
}

async fn a_seccomp_profile_holds(guest: &mut Guest) -> Result<()> {
    for no_new_privileges in [true, false] {
        let mut spec = spec("mkdir /tmp/x; chmod 700 /tmp; grep Seccomp: /proc/self/status");
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                { "names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO",
                  "args": [{ "index": 1, "value": 448, "op": "SCMP_CMP_EQ" }] }] });
        let output = guest.run(&spec).await?;
        ensure!(
            output.stderr.contains("No space left") && output.stderr.contains("not permitted"),
            "{output:?}"
        );
        ensure!(output.stdout == "Seccomp:\t2\n", "{output:?}");
    }
    Ok(())
}

async fn limits_are_written(guest: &mut Guest) -> Result<()> {
    let files = "memory.max memory.low memory.swap.max cpu.max cpu.weight pids.max memory.high";
    let mut spec = spec(&format!(
        "cd /sys/fs/cgroup; cat {files}; (for i in $(seq 50); do sleep 5 & done) 2>&1 | grep -c fork"
    ));
    spec["linux"]["resources"] = json!({
        "memory": { "limit": 33554432, "reservation": 16777216, "swap": 67108864 },
        "cpu": { "shares": 1024, "quota": 150000, "period": 100000 },
        "pids": { "limit": 20 }, "unified": { "memory.high": "25165824" } });
    let said = guest.say_in(&spec).await?;
    ensure!(said == "33554432\n16777216\n33554432\n150000 100000\n39\n20\n25165824\n1\n", "{said}");
    Ok(())
}

async fn too_much_memory_is_an_oom_kill(guest: &mut Guest) -> Result<()> {
    let mut spec = spec("exec tail -c 200m /dev/zero");
    spec["linux"]["resources"] = json!({ "memory": { "limit": 16777216, "swap": 16777216 } });
    let output = guest.run(&spec).await?;
    ensure!(output.end.signal == 9 && output.end.oom_killed, "{output:?}");
    Ok(())
}

async fn a_terminal_is_a_terminal(guest: &mut Guest) -> Result<()> {
    let mut spec = spec(
        "tty; stty size; ls -l /dev/console | cut -c1; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done",
    );
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({ "height": 33, "width": 101 });
    let mut running = guest.create(&spec).await?;
    guest.start(&running).await?;
    let said = running.read_until("ready").await?;
    ensure!(said.starts_with("/dev/pts/0\r\n33 101\r\nc\r\n"), "{said:?}");
    guest.resize(&running.id, 120, 40).await?;
    let output = guest.finish(running).await?;
    ensure!(output.stdout.ends_with("40 120\r\n") && output.end.exit_code == 3, "{output:?}");
    // Ctrl-C is the terminal's.
    spec["process"]["args"] =
        json!(["sh", "-c", "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done"]);
    let mut running = guest.create(&spec).await?;
    guest.start(&running).await?;
    running.read_until("ready").await?;
    running.write("\x03").await?;
    running.read_until("caught").await?;
    ensure!(guest.finish(running).await?.end.exit_code == 4);
    Ok(())
}

async fn another_process_joins_the_container(guest: &mut Guest) -> Result<()> {
    let init = guest.create(&spec("echo mine > /tmp/mark; hostname; exec sleep 1000")).await?;
    ensure!(guest.exec(&init.id, &process("cat")).await.is_ok(), "also before it is started");
    guest.start(&init).await?;
    let mut init = init;
    init.read_until("guest").await?;
    let mut wanted = process(
        "cat /tmp/mark; hostname; pidof sleep | wc -w; cat /proc/self/cgroup; ls /proc/self/fd | wc -l; cat; exit 7",
    );
    wanted["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [9] });
    let mut exec = guest.exec(&init.id, &wanted).await?;
    guest.start(&exec).await?;
    exec.write("words").await?;
    let output = guest.finish(exec).await?;
    ensure!(output.stdout == "mine\nguest\n1\n0::/\n4\nwords" && output.end.exit_code == 7, "{output:?}");
    ensure!(guest.delete(&init.id).await.is_err(), "a running container cannot be deleted");
    guest.signal(&init.id, 9, false).await?;
    guest.wait(&init.id).await?;
    ensure!(guest.exec(&init.id, &process("true")).await.is_err(), "nothing runs in an ended container");
    guest.finish(init).await?;
    Ok(())
}

async fn a_process_in_a_terminal_joins_the_container(guest: &mut Guest) -> Result<()> {
    let init = guest.create(&spec("exec sleep 1000")).await?;
    guest.start(&init).await?;
    let mut wanted = process("tty; echo typed: $(head -1)");
    wanted["terminal"] = json!(true);
    let mut exec = guest.exec(&init.id, &wanted).await?;
    guest.start(&exec).await?;
    exec.write("words\r").await?;
    let said = exec.read_until("typed: words").await?;
    ensure!(said.contains("/dev/pts/0\r\n"), "{said:?}");
    guest.finish(exec).await?;
    guest.signal(&init.id, 9, true).await?;
    guest.finish(init).await?;
    Ok(())
}

async fn signals_go_to_one_or_to_all(guest: &mut Guest) -> Result<()> {
    let script = "trap 'echo init' USR1; (trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.05; done) & wait; wait; wait";
    let mut running = guest.create(&spec(script)).await?;
    guest.start(&running).await?;
    running.read_until("ready").await?;
    guest.signal(&running.id, 10, false).await?;
    ensure!(!running.read_until("init\n").await?.contains("child"));
    guest.signal(&running.id, 10, true).await?;
    let output = guest.finish(running).await?;
    ensure!(output.stdout.contains("child\n") && output.stdout.contains("init\n"), "{output:?}");
    Ok(())
}

async fn two_containers_share_namespaces_by_path(guest: &mut Guest) -> Result<()> {
    let mut first = spec("hostname first; echo ready; exec sleep 1000");
    first["process"]["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN"]);
    first["process"]["capabilities"]["permitted"] = json!(["CAP_SYS_ADMIN"]);
    first["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    first["linux"]["namespaces"].as_array_mut().context("a list")?.push(json!({ "type": "network" }));
    let mut init = guest.create(&first).await?;
    guest.start(&init).await?;
    init.read_until("ready").await?;
    let mut second =
        spec("hostname; pidof sleep | wc -w; readlink /proc/self/ns/net; readlink /proc/1/ns/net");
    let path = |name: &str| format!("/proc/{}/ns/{name}", init.pid);
    second["hostname"] = Value::Null;
    second["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid", "path": path("pid") },
        { "type": "uts", "path": path("uts") }, { "type": "network", "path": path("net") }]);
    second["process"]["capabilities"]["effective"] = json!(["CAP_SYS_PTRACE"]);
    second["process"]["capabilities"]["permitted"] = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    second["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    let said = guest.say_in(&second).await?;
    let lines: Vec<_> = said.lines().collect();
    ensure!(lines[..2] == ["first", "1"] && lines[2] == lines[3], "{said}");
    guest.signal(&init.id, 9, false).await?;
    guest.finish(init).await?;
    Ok(())
}

async fn binds_and_links_stay_in_the_root(guest: &mut Guest) -> Result<()> {
    fs::create_dir_all("/run/shared/deep")?;
    fs::write("/run/shared/file", "shared")?;
    let mut spec = spec(
        "cat /in/file; touch /in/x 2>/dev/null || echo refused; cat /one; ls -d /run/elsewhere/*; cat /etc/link/file",
    );
    let mounts = spec["mounts"].as_array_mut().context("a list")?;
    mounts.push(json!({ "destination": "/in", "type": "bind", "source": "/run/shared", "options": ["rbind", "rprivate", "ro"] }));
    mounts.push(json!({ "destination": "/one", "source": "/run/shared/file", "options": ["bind"] }));
    mounts.push(json!({ "destination": "/run/elsewhere", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0700"] }));
    // The image has /etc/link -> /run/elsewhere: it leads there in the container.
    mounts.push(json!({ "destination": "/etc/link/deep", "type": "bind", "source": "/run/shared", "options": ["bind"] }));
    let output = guest.run(&spec).await?;
    ensure!(output.stdout == "sharedrefused\nshared/run/elsewhere/deep\n", "{output:?}");
    ensure!(!std::path::Path::new("/run/elsewhere").exists(), "nothing was made outside");
    Ok(())
}

async fn refusal(guest: &mut Guest, spec: &Value) -> Result<String> {
    match guest.create(spec).await {
        Ok(_) => anyhow::bail!("it was created"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

async fn what_cannot_be_done_is_refused_by_name(guest: &mut Guest) -> Result<()> {
    let cases = [
        ("/process/selinuxLabel", json!("label"), "process.selinuxLabel"),
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/linux/uidMappings", json!([{}]), "linux.uidMappings"),
        ("/linux/namespaces/1", json!({ "type": "mount", "path": "/proc/1/ns/mnt" }), "mount namespace"),
        ("/linux/namespaces/1", json!({ "type": "user" }), "user namespace"),
        ("/linux/resources/memory", json!({ "swappiness": 10 }), "swappiness"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "SCMP_ACT_NOTIFY"),
        ("/hooks", json!({ "createContainer": [{ "path": "/x" }] }), "hooks.createContainer"),
        ("/hooks", json!({ "startContainer": [{ "path": "x" }] }), "hooks.startContainer"),
        ("/mounts/0/options", json!(["remount"]), "/proc"),
        ("/mounts/0/options", json!(["no_such_option"]), "/proc"),
        ("/mounts/0/type", json!("nosuchfs"), "/proc"),
        ("/linux/sysctl", json!({ "net.no.such": "1" }), "net/no/such"),
        ("/linux/sysctl", json!({ "../../x": "1" }), "linux.sysctl"),
    ];
    for (place, value, words) in cases {
        let mut spec = spec("true");
        let (parent, name) = place.rsplit_once('/').context("a path")?;
        let parent = spec.pointer_mut(parent).context("a parent")?;
        match name.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[name] = value,
        }
        let said = refusal(guest, &spec).await.with_context(|| place.to_owned())?;
        ensure!(said.contains(words), "{place}: {said}");
    }
    Ok(())
}

fn mounts_and_groups() -> Result<(String, usize)> {
    let groups = fs::read_dir("/sys/fs/cgroup/containers")?
        .filter(|entry| entry.as_ref().is_ok_and(|e| e.path().is_dir()));
    Ok((fs::read_to_string("/proc/self/mounts")?, groups.count()))
}

async fn a_failed_creation_leaves_nothing(guest: &mut Guest) -> Result<()> {
    let before = mounts_and_groups()?;
    let mut broken = spec("true");
    broken["mounts"]
        .as_array_mut()
        .context("a list")?
        .push(json!({ "destination": "/x", "type": "bind", "source": "/missing" }));
    let said = refusal(guest, &broken).await?;
    ensure!(said.contains("mount /x") && said.contains("No such file"), "{said}");
    ensure!(mounts_and_groups()? == before);
    Ok(())
}

async fn nothing_is_left_of_a_deleted_container(guest: &mut Guest) -> Result<()> {
    let before = mounts_and_groups()?;
    let descriptors = || Ok::<_, anyhow::Error>(fs::read_dir("/proc/self/fd")?.count());
    let open = descriptors()?;
    for _ in 0..10 {
        guest.say("(sleep 1000 &) ; true").await?;
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    ensure!(mounts_and_groups()? == before);
    ensure!(descriptors()? <= open, "{} descriptors, then {}", open, descriptors()?);
    let zombies = fs::read_to_string("/proc/thread-self/children")?;
    ensure!(zombies.trim().is_empty(), "children: {zombies}");
    Ok(())
}

async fn how_long_it_takes(guest: &mut Guest) -> Result<()> {
    let mut times = Vec::new();
    let mut spec = spec("");
    spec["process"]["args"] = json!(["true"]);
    for _ in 0..30 {
        let began = Instant::now();
        let running = guest.create(&spec).await?;
        let created = began.elapsed();
        guest.start(&running).await?;
        let started = began.elapsed();
        guest.wait(&running.id).await?;
        times.push((created, started, began.elapsed()));
        guest.finish(running).await?;
    }
    times.sort();
    let (created, started, ended) = times[times.len() / 2];
    println!(
        "     created after {created:?}, started after {started:?}, ended after {ended:?} (median of {})",
        times.len()
    );
    Ok(())
}
