//! Many containers of one image cost little more than one, and nothing when they have gone.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use securectr_tests::{Ext4, User, eventually, image, no_process_is_left};

/// As many as run at once.
const CONTAINERS: usize = 8;

/// What a container that has just begun may take of the store, in bytes.
const MOST_AT_START: u64 = 384 << 10;

/// The journal of events tells of containers after their end, as it is meant to.
const MUST_DIFFER: [&str; 1] = ["events.jsonl"];

/// All below a directory: type, mode, owner and content by path.
fn picture(top: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let file = fs::symlink_metadata(&path)?;
            let content = match file.file_type() {
                kind if kind.is_dir() => {
                    ahead.push(path.clone());
                    String::new()
                }
                kind if kind.is_file() => digest(&path)?,
                kind if kind.is_symlink() => fs::read_link(&path)?.display().to_string(),
                kind => format!("socket {}", kind.is_socket()),
            };
            let name = path.strip_prefix(top)?.display().to_string();
            if !MUST_DIFFER.contains(&name.as_str()) {
                found.insert(name, format!("{:o} {}:{} {content}", file.mode(), file.uid(), file.gid()));
            }
        }
    }
    Ok(found)
}

/// Of its length, and of what is in it beside holes: an empty disk is 10 GiB of them.
fn digest(path: &Path) -> Result<String> {
    let mut command = std::process::Command::new("sh");
    let script = r#"stat -c %s "$0"; tar --sparse -cf - --mtime=@0 -C / "${0#/}" 2>/dev/null | sha256sum"#;
    let said = command.args(["-ec", script]).arg(path).output()?;
    ensure!(said.status.success(), "{said:?}");
    Ok(String::from_utf8(said.stdout)?.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What a directory takes of its disk, in bytes.
fn taken(directory: &Path) -> Result<u64> {
    let mut blocks = fs::metadata(directory)?.blocks();
    for entry in fs::read_dir(directory)? {
        blocks += fs::symlink_metadata(entry?.path())?.blocks();
    }
    Ok(blocks * 512)
}

/// From now on a read of a file is one of its disk.
fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    Ok(fs::write("/proc/sys/vm/drop_caches", "3")?)
}

#[test]
fn eight_containers_read_their_image_once_and_take_kilobytes_each_and_leave_nothing() -> Result<()> {
    // A disk of the store's own, which counts what is read of it.
    let disk = Ext4::mount(1 << 30)?;
    let user = User::new_in(disk.path())?;
    let store = user.home().join("store");
    user.succeed(&["load", "-q", "-t", "debian", &image("debian")])?;
    let script =
        "find / -xdev -type f -size -200k | head -n 100 | xargs cat | wc -c; echo read; exec sleep 1000";
    let run = |number: usize| -> Result<()> {
        let name = format!("c{number}");
        user.succeed(&["run", "-d", "--name", &name, "--memory", "64m", "debian", "sh", "-c", script])?;
        eventually("it has read its files", || Ok(user.succeed(&["logs", &name])?.ends_with("read")))
    };
    // The empty disk that others are copies of is made with the first container.
    user.succeed(&["run", "-d", "--name", "c0", "debian", "true"])?;
    user.succeed(&["wait", "c0"])?;
    user.succeed(&["rm", "c0"])?;
    let before = picture(&store)?;

    drop_caches()?;
    let at_first = disk.read_bytes()?;
    run(0)?;
    let after_one = disk.read_bytes()?;
    (1..CONTAINERS).try_for_each(run)?;
    let (by_one, by_others) = (after_one - at_first, disk.read_bytes()? - after_one);
    let image_bytes = image_of(&store)?;
    println!(
        "image {image_bytes} bytes; read by the first container {by_one}, by {} more {by_others}",
        CONTAINERS - 1
    );
    ensure!(by_one <= image_bytes + (4 << 20), "{by_one} bytes read of {image_bytes}");
    ensure!(by_others < by_one / 10, "{by_others} bytes read again, {by_one} at first");

    rustix::fs::sync();
    for entry in fs::read_dir(store.join("containers"))? {
        let bytes = taken(&entry?.path())?;
        println!("a container takes {bytes} bytes of the disk");
        ensure!(bytes <= MOST_AT_START, "{bytes} bytes");
    }
    let listed = user.succeed(&["ps", "-q", "--no-trunc"])?;
    let ids: Vec<String> = listed.lines().map(str::to_owned).collect();
    ensure!(ids.len() == CONTAINERS, "{listed}");
    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    user.succeed(&[["rm", "-f"].as_slice(), &names].concat())?;
    no_process_is_left()?;
    assert_eq!(picture(&store)?, before);
    // Others may have containers meanwhile: none of these has left anything.
    let state = picture(Path::new("/run/securectr"))?;
    let left: Vec<_> = state.keys().filter(|path| ids.iter().any(|id| path.contains(id.as_str()))).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Length of the only image's file, in bytes.
fn image_of(store: &Path) -> Result<u64> {
    let images: Vec<_> = fs::read_dir(store.join("v1/images"))?.collect::<Result<_, _>>()?;
    let [image] = images.as_slice() else { bail!("not one image: {images:?}") };
    Ok(fs::metadata(image.path().join("rootfs.erofs"))?.len())
}
