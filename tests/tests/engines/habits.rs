//! The same commands with `docker` and with `securectr`: what is typed, what comes back and with which code is the same, but for a short
//! list.

use anyhow::{Result, ensure};
use securectr_tests::{Finished, User};

use crate::docker::docker;

/// What is otherwise on purpose, by its command, and why.
const DIFFERENT: [(&str, &str); 4] = [
    ("run --rm box cat /proc/sys/kernel/osrelease", "the container has a kernel of its own"),
    ("exec web nosuch", "127 as with run, where Docker 20 has 126 for exec"),
    ("exec -u ghost web true", "1 as with any refusal: no program was looked for, which 126 is about"),
    ("top web", "the container's own pids, and users by number"),
];

/// A line each, as a shell takes it: words in single quotes are one. What a line says that ends with braces is an id, and not compared.
const SCRIPT: &str = "
run --rm box echo hello
run --rm box sh -c 'echo out; echo err >&2; exit 3'
run --rm box sh -c 'kill -9 $$'
run --rm box nosuch
run --rm box /etc
run --rm box cat /proc/sys/kernel/osrelease
run --rm -e A=1 -e B box sh -c 'echo $A $B'
run --rm -w /tmp box pwd
run --rm -u 1000:1001 box sh -c 'id -u; id -g'
run --rm --user root box id -u
run --rm --privileged --userns host box sh -c 'mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x && mount -t tmpfs none /tmp'
run --rm --userns private box true
run --rm --hostname h1 box hostname
run --rm --read-only box touch /x
run --rm --tmpfs /t:size=1m box sh -c 'df -k /t | tail -n 1 | awk \"{ print \\$2 }\"'
run --rm --entrypoint echo box over
run --rm --cap-drop ALL box chown 1:1 /tmp
run --rm --cap-drop ALL --cap-add CHOWN box chown 1:1 /tmp
run --rm --pids-limit 50 box cat /sys/fs/cgroup/pids.max
run --rm --memory 64m box cat /sys/fs/cgroup/memory.max
run --rm --cpus 0.5 box cat /sys/fs/cgroup/cpu.max
run --rm --ulimit nofile=100:200 box sh -c 'ulimit -Sn; ulimit -Hn'
run --rm --add-host db:192.0.2.7 box grep db /etc/hosts
run --rm --shm-size 4m box sh -c 'df -k /dev/shm | tail -n 1 | awk \"{ print \\$2 }\"'
run --rm --sysctl kernel.msgmax=9000 box cat /proc/sys/kernel/msgmax
run --rm --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status
run --rm --oom-score-adj 7 box cat /proc/self/oom_score_adj
run --memory 1k box true
run --no-such-option box true
run -d --name web --label tier=front --log-opt max-size=64k --log-opt max-file=2 box sh -c 'trap \"exit 7\" TERM; echo up; while :; do sleep 0.1; done' {}
run -d --name web box true
ps --format {{.Names}}
ps --filter label=tier=front --format '{{.Names}} {{.Image}}'
inspect -f {{.State.Status}} web
inspect -f '{{.Name}} {{.State.Running}} {{json .Args}}' web
exec web echo inside
exec -e C=2 web sh -c 'echo $C'
exec -w /tmp web pwd
inspect -f {{.HostConfig.LogConfig.Type}} web
exec -u 5:6 web sh -c 'id -u; id -g'
exec -u www-data web sh -c 'id -u; id -g; echo $HOME'
exec -u user:audio web id -G
exec -u ghost web true
exec web sh -c 'exit 4'
exec web nosuch
exec web sh -c 'echo kept >/file'
diff web
top web
cp web:/nosuch /tmp
cp /nosuch web:/tmp
cp /etc/hostname web:/nowhere/
cp web:/file /nowhere/
cp /etc/fstab web:/tmp/copied
cp /etc web:/file
cp web:/etc/passwd /tmp/habits-passwd
exec web sh -c 'test -f /tmp/copied'
commit -m why -c 'ENV MADE=1' web made:1 {}
run --rm made:1 sh -c 'cat /file; echo $MADE'
image inspect -f '{{json .Config.Cmd}} {{.Comment}}' made:1
rmi made:1 {}
update --restart on-failure web
inspect -f {{.HostConfig.RestartPolicy.Name}} web
update --restart no web
logs web
logs --tail 1 web
pause web
inspect -f {{.State.Status}} web
exec web true
unpause web
rm web
stop -t 20 web
inspect -f '{{.State.Status}} {{.State.ExitCode}}' web
ps -q
ps -a --filter name=web --format {{.Names}}
exec web true
start web
exec web cat /file
restart -t 20 web
exec web cat /file
kill web
wait web
rename web www
logs --tail 1 www
rm www
rm www
inspect -f {{.Id}} www
stop www
run -d --name brief box sh -c 'exit 5' {}
wait brief
rm -f brief
volume create data
run --rm -v data:/d box sh -c 'echo x >/d/file'
run --rm -v data:/d:ro box sh -c 'cat /d/file; touch /d/new'
run --rm --mount type=volume,source=data,target=/e box cat /e/file
volume ls -q
volume rm data
volume rm data
run --rm -v fresh:/usr/sbin box sh -c 'ls /usr/sbin | wc -l'
volume rm fresh
images --format {{.Repository}}:{{.Tag}} box
tag box other:1
images --format {{.Repository}}:{{.Tag}} other
image inspect -f {{.Os}} other:1
rmi other:1
rmi nosuch
history nosuch
";

/// A line's words.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match (c, is_quoted) {
            ('\'', _) => is_quoted = !is_quoted,
            (' ', false) => words.push(String::new()),
            (c, _) => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words
}

/// What counts of an answer: of a failure its code alone, since errors are told in everybody's own words.
fn answer(finished: &Finished, has_id: bool) -> (i32, String) {
    let is_ours = matches!(finished.code, 125..=127) || finished.code == 1;
    let out = if has_id || is_ours { String::new() } else { finished.out() };
    (finished.code, out)
}

#[test]
fn what_is_typed_for_docker_works() -> Result<()> {
    let user = User::with_box()?;
    let tagged = docker(&["tag", "busybox", "box"])?;
    ensure!(tagged.code == 0, "{tagged:?}");
    let mut differences = Vec::new();
    for line in SCRIPT.lines().filter(|line| !line.is_empty()) {
        let (line, has_id) = line.strip_suffix(" {}").map_or((line, false), |line| (line, true));
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // securectr has no network unless it is asked for one.
        let alone = match words.split_first() {
            Some((&"run", rest)) => [&["run", "--network", "none"], rest].concat(),
            _ => words.clone(),
        };
        let (theirs, ours) = (docker(&alone)?, user.call(&words)?);
        let is_known = DIFFERENT.iter().any(|(known, _)| *known == line);
        if (answer(&theirs, has_id) == answer(&ours, has_id)) == is_known {
            differences.push(format!("{line}\n  docker: {theirs:?}\n  securectr: {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}
