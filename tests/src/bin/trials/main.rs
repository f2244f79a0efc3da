//! What the tests of volumes run, in a container and on the host: file operations that are checked against a model, or done in two
//! directories at once, of which one is a local file system's.

mod content;
mod errors;
mod listing;
mod permissions;
mod random;
mod step;
mod sys;
mod tree;
mod worker;

use std::{env, path::Path};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::Mode,
    mount::{MountFlags, mount_remount},
    process::umask,
};

const USAGE: &str = "trials content FILE SEED COUNT | tree CONTROL DIR SEED COUNT | permissions CONTROL DIR SEED COUNT | prepare DIR | seal MOUNT | \
                     errors CONTROL DIR | list DIR";

fn main() -> Result<()> {
    // Modes are to be as they are asked for.
    umask(Mode::empty());
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["content", file, seed, count] => content::run(Path::new(file), number(seed)?, number(count)?),
        ["worker", file] => worker::serve(Path::new(file)),
        ["tree", control, dir, seed, count] => {
            tree::run([Path::new(control), Path::new(dir)], number(seed)?, number(count)?)
        }
        ["permissions", control, dir, seed, count] => {
            permissions::run([Path::new(control), Path::new(dir)], number(seed)?, number(count)?)
        }
        ["prepare", dir] => errors::prepare(Path::new(dir)),
        ["seal", dir] => mount_remount(*dir, MountFlags::RDONLY, "").context("make it read-only"),
        ["errors", control, dir] => errors::run([Path::new(control), Path::new(dir)]),
        ["list", dir] => {
            print!("{}", listing::list(Path::new(dir))?);
            Ok(())
        }
        _ => bail!("usage: {USAGE}"),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("not a number: {text}"))
}
