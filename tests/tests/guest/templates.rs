//! Machines that go on where another one was saved: made when they are needed, never used when they are not what they should be, and
//! each a machine of its own.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use securectr_tests::{Finished, Started, User, no_process_is_left, program};

/// So many machines have nothing in common that they should not have.
const CLONES: usize = 100;

fn user() -> Result<User> {
    User::without_templates()?.having_box()
}

/// A container that only says "there"; what it says beside that.
fn started(user: &User, options: &[&str]) -> Result<Finished> {
    let finished = user.call(&[&["run", "--timings"], options, &["box", "echo", "there"]].concat())?;
    ensure!(finished.code == 0 && finished.out() == "there\n", "{finished:?}");
    Ok(finished)
}

fn is_restored(started: &Finished) -> bool {
    started.err().contains("\"restored_us\"")
}

fn keys(user: &User) -> Result<Vec<String>> {
    Ok(user.succeed(&["template", "ls", "-q"])?.lines().map(str::to_owned).collect())
}

fn only_template(user: &User) -> Result<PathBuf> {
    let keys = keys(user)?;
    let [key] = keys.as_slice() else { anyhow::bail!("not one template: {keys:?}") };
    Ok(user.home().join("store/templates").join(key))
}

#[test]
fn the_first_start_makes_a_template_from_which_all_others_go_on() -> Result<()> {
    let user = user()?;
    assert!(is_restored(&started(&user, &[])?));
    let made = keys(&user)?;
    assert_eq!(made.len(), 1);
    assert!(is_restored(&started(&user, &[])?));
    assert_eq!(keys(&user)?, made);
    no_process_is_left()
}

#[test]
fn machines_that_differ_have_templates_that_differ() -> Result<()> {
    let user = user()?;
    for options in [&[][..], &["-m", "100m"], &["--read-only"], &["--network", "nat"], &["-v", "/srv:/srv"]] {
        assert!(is_restored(&started(&user, options)?), "{options:?}");
    }
    assert_eq!(keys(&user)?.len(), 5);
    assert!(is_restored(&started(&user, &["-m", "100m"])?));
    assert_eq!(keys(&user)?.len(), 5);
    Ok(())
}

#[test]
fn a_template_is_made_anew_when_an_input_changes() -> Result<()> {
    let user = user()?;
    let kernel = user.home().join("vmlinux");
    let lay = || fs::copy(program("../guest/vmlinux"), &kernel);
    lay()?;
    let options = ["--kernel", kernel.to_str().context("a path")?];
    assert!(is_restored(&started(&user, &options)?));
    lay()?;
    let again = started(&user, &options)?;
    assert!(is_restored(&again) && !again.err().contains("without a template"), "{again:?}");
    assert_eq!(keys(&user)?.len(), 2);
    Ok(())
}

#[test]
fn a_damaged_template_is_refused_once_with_a_message() -> Result<()> {
    let user = user()?;
    started(&user, &[])?;
    for (file, place) in [("machine", 16 << 20), ("machine", (512 << 20) + 10)] {
        let path = only_template(&user)?.join(file);
        fs::File::options().write(true).open(path)?.write_all_at(b"damage", place)?;
        let booted = started(&user, &[])?;
        assert!(!is_restored(&booted));
        let words = format!("is not used: {file} was changed after it was made");
        assert!(booted.err().contains("booted without a template: the template"), "{booted:?}");
        assert!(booted.err().contains(&words), "{booted:?}");
        assert!(is_restored(&started(&user, &[])?));
    }
    no_process_is_left()
}

#[test]
fn a_state_that_no_machine_can_take_up_makes_it_boot() -> Result<()> {
    let user = user()?;
    started(&user, &[])?;
    let template = only_template(&user)?;
    // As somebody would do it who can write all of it.
    let machine = fs::File::options().read(true).write(true).open(template.join("machine"))?;
    let mut format = *b"\"format\":2";
    machine.read_exact_at(&mut format, (512 << 20) + 1)?;
    assert_eq!(&format, b"\"format\":2");
    machine.write_all_at(b"9", (512 << 20) + 10)?;
    let described = fs::read_to_string(template.join("manifest.json"))?;
    let mut manifest: serde_json::Value = serde_json::from_str(&described)?;
    let changed = machine.metadata()?;
    manifest["machine"]["changed"] = serde_json::json!([changed.ctime(), changed.ctime_nsec()]);
    fs::write(template.join("manifest.json"), manifest.to_string())?;
    let booted = started(&user, &[])?;
    assert!(!is_restored(&booted));
    assert!(booted.err().contains("the state has format 9"), "{booted:?}");
    assert!(is_restored(&started(&user, &[])?));
    no_process_is_left()
}

#[test]
fn templates_are_built_listed_verified_and_removed_by_hand() -> Result<()> {
    let user = user()?;
    let key = user.succeed(&["template", "build", "-m", "100m"])?;
    let listed = user.succeed(&["template", "ls", "--format", "{{.ID}} {{.Memory}} {{.Disks}}"])?;
    assert_eq!(listed, format!("{key} 164MiB 2"));
    assert!(is_restored(&started(&user, &["-m", "100m"])?));
    assert_eq!(keys(&user)?, [key.as_str()]);
    assert_eq!(user.succeed(&["template", "verify"])?, format!("{key}: good"));
    assert_eq!(user.succeed(&["template", "rm", &key[..6]])?, key);
    let missing = user.call(&["template", "verify", &key])?;
    assert_eq!((missing.code, missing.err()), (1, format!("securectr: there is no template {key}\n")));
    no_process_is_left()
}

#[test]
fn who_wants_no_template_boots() -> Result<()> {
    let user = user()?;
    let mut command = user.command(&["run", "--timings", "box", "true"]);
    let booted = Started::spawn(command.env("SECURECTR_TEMPLATES", "never"))?.finish(b"")?;
    assert!(booted.code == 0 && !is_restored(&booted), "{booted:?}");
    assert!(keys(&user)?.is_empty());
    Ok(())
}

#[test]
fn many_who_need_a_template_at_once_make_it_once() -> Result<()> {
    let user = user()?;
    let starting: Vec<_> = (0..4)
        .map(|_| Started::spawn(&mut user.command(&["run", "--timings", "box", "true"])))
        .collect::<Result<_>>()?;
    for started in starting {
        let finished = started.finish(b"")?;
        assert!(finished.code == 0 && is_restored(&finished), "{finished:?}");
    }
    assert_eq!(keys(&user)?.len(), 1);
    Ok(())
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

#[test]
fn clones_have_no_random_number_no_identity_and_no_leap_of_time() -> Result<()> {
    let user = User::with_box()?;
    // Random numbers of the kernel by four ways, and of a program's start: where its stack begins.
    let script = "cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1; \
        mktemp -u; grep stack /proc/self/maps; hostname; echo times; \
        cut -d ' ' -f 1 /proc/uptime; date +%s; cut -d ' ' -f 1 /proc/uptime";
    let mut seen = BTreeSet::new();
    for number in 0..CLONES {
        let before = now()?;
        let said = user.succeed(&["run", "box", "sh", "-c", script])?;
        let after = now()?;
        let (identities, times) = said.split_once("times\n").context("times")?;
        assert_eq!(identities.lines().count(), 6, "{said}");
        for identity in identities.lines() {
            assert!(seen.insert(identity.to_owned()), "clone {number}: {identity} was there before");
        }
        let times = times.lines().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [up, clock, up_later] = times.as_slice() else { anyhow::bail!("{said}") };
        // `date` leaves out parts of a second.
        assert!(before - 1.1 < *clock && *clock < after + 0.1, "{before} {clock} {after}");
        assert!(*up > 0.0 && up <= up_later && *up_later < 60.0, "{up} {up_later}");
    }
    Ok(())
}

#[test]
fn a_template_is_its_owners_alone() -> Result<()> {
    let user = User::ordinary()?.having_box()?;
    user.succeed(&["run", "box", "true"])?;
    let key = keys(&user)?.first().context("a template")?.clone();
    let template = user.home().join("store/templates").join(key);
    for name in ["", "machine", "manifest.json"] {
        let file = fs::metadata(template.join(name))?;
        assert_eq!((file.mode() & 0o077, file.uid()), (0, securectr_tests::ORDINARY_ID), "{name}");
    }
    Ok(())
}

#[test]
fn the_first_start_shows_the_next_ones_which_pages_they_need_without_root_too() -> Result<()> {
    for user in [User::new()?, User::ordinary()?] {
        let user = user.having_box()?;
        started(&user, &[])?;
        let templates = fs::read_dir(user.home().join("store/templates"))?;
        let noted = templates.filter_map(|entry| fs::read(entry.ok()?.path().join("touched.json")).ok());
        let noted: Vec<Vec<(u32, u32, bool)>> =
            noted.map(|json| Ok(serde_json::from_slice(&json)?)).collect::<Result<_>>()?;
        let has_pages =
            |runs: &Vec<(u32, u32, bool)>| runs.iter().map(|(_, count, _)| count).sum::<u32>() > 500;
        assert!(noted.iter().any(has_pages), "{noted:?}");
    }
    Ok(())
}
