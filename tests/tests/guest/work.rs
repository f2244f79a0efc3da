//! Programs that are hard on a file system, on volumes: a database that is killed, a compiler, repositories.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail};
use securectr_tests::{Started, User, checkout, no_process_is_left};

/// Somebody who has the image with these programs, by the name `workshop`.
fn user() -> Result<User> {
    let user = User::new()?;
    let archive = format!("oci-archive:{}", checkout().join("target/workshop/workshop.tar").display());
    user.succeed(&["load", "-q", "-t", "workshop", &archive])?;
    Ok(user)
}

/// Waits until it answers: in an emulated host it takes its time.
fn database(user: &User) -> Result<()> {
    for _ in 0..120 {
        if user.call(&["exec", "db", "psql", "-tAc", "select 1"])?.out() == "1\n" {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(3));
    }
    bail!("the database does not answer: {:?}", user.call(&["logs", "db"])?)
}

#[test]
fn what_a_killed_database_has_committed_is_there_when_it_starts_again() -> Result<()> {
    let user = user()?;
    let volume = "data:/var/lib/postgresql/data";
    user.succeed(&["run", "-d", "--name", "db", "--memory", "512m", "-v", volume, "workshop"])?;
    database(&user)?;
    user.succeed(&["exec", "db", "pgbench", "-q", "-i", "-s", "1"])?;
    user.succeed(&["exec", "db", "psql", "-qc", "create table marks(mark int)"])?;
    let load = Started::spawn(&mut user.command(&["exec", "db", "pgbench", "-n", "-c", "2", "-T", "1000"]))?;
    // Each mark is said when it is committed.
    let marks = "i=1; while :; do echo \"insert into marks values ($i);\"; echo \"\\\\echo $i\"; i=$((i + 1)); done | psql -q";
    let mut marking = Started::spawn(&mut user.command(&["exec", "db", "sh", "-c", marks]))?;
    marking.wait_for_output("\n20\n")?;
    while user.succeed(&["exec", "db", "psql", "-tAc", "select count(*) > 0 from pgbench_history"])? == "f" {
        thread::sleep(Duration::from_secs(1));
    }
    user.succeed(&["kill", "-s", "KILL", "db"])?;
    let said = marking.finish(b"")?.out();
    load.finish(b"")?;
    let last: u64 = said.lines().filter_map(|line| line.parse().ok()).next_back().unwrap_or(20);
    assert_eq!(user.succeed(&["wait", "db"])?, "137");
    user.succeed(&["start", "db"])?;
    database(&user)?;
    let query = "select count(*), max(mark) from marks where mark <= ";
    let there = user.succeed(&["exec", "db", "psql", "-tAc", &format!("{query}{last}")])?;
    assert_eq!(there, format!("{last}|{last}"));
    // pgbench books each change in three tables and a history, or in none.
    let books = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
                 (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches), \
                 (select count(*) > 0 from pgbench_history)";
    assert_eq!(user.succeed(&["exec", "db", "psql", "-tAc", books])?, "t|t|t");
    user.succeed(&["rm", "-f", "db"])?;
    no_process_is_left()
}

#[test]
fn repositories_databases_in_files_and_compilers_work_on_a_volume() -> Result<()> {
    let user = user()?;
    let script = r#"
        set -e
        cd /work && git init -q one && cd one && git config user.name n && git config user.email e@example.com
        i=0; while [ $i -lt 200 ]; do mkdir -p d$((i % 10)); echo $i >d$((i % 10))/f$i; i=$((i + 1)); done
        git add . && git commit -qm first && git gc -q && git fsck --strict 2>&1
        git clone -q /work/one /work/two && cd /work/two && git log --format=%s && git status --short && git ls-files | wc -l
        cd /work && sqlite3 data.db "pragma journal_mode = wal; create table t(x); with recursive c(x) as (select 1 union all select x + 1 from c limit 5000) insert into t select x from c;"
        sqlite3 data.db "delete from t where x % 2; vacuum; pragma integrity_check; select count(*) from t;"
        printf '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n' >hello.c
        tcc -o hello hello.c && ./hello
    "#;
    let done = user.call(&["run", "--user", "root", "-v", "work:/work", "workshop", "sh", "-c", script])?;
    assert_eq!((done.code, done.out().as_str()), (0, "first\n200\nwal\nok\n2500\ncompiled\n"), "{done:?}");
    let again = user.succeed(&["run", "--user", "root", "-v", "work:/work:ro", "workshop", "/work/hello"])?;
    assert_eq!(again, "compiled");
    let path = user.succeed(&["volume", "inspect", "--format", "{{.Mountpoint}}", "work"])?;
    let head = std::fs::read_to_string(format!("{path}/two/.git/HEAD")).context("look from this side")?;
    assert!(head.starts_with("ref: refs/heads/"), "{head}");
    Ok(())
}
