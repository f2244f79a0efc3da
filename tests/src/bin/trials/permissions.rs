//! Who may do what: each operation on each kind of file in each kind of directory by each user, in two directories, which are to
//! answer the same and to be the same afterwards.

use std::{path::Path, thread};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::lstat,
    io::Errno,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    listing::{self, attributes},
    random::Random,
};

mod fixture;
mod operations;

use fixture::{Directory, Fixture, Target};
use operations::Operation;

/// A thread has ids of its own (the C library's are the process's).
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
    groups: &'static [u32],
}

/// What directories and files belong to.
pub(crate) const OWNER: u32 = 1000;
pub(crate) const SHARED_GROUP: u32 = 4000;

pub(crate) const USERS: [User; 4] = [
    User { name: "root", uid: 0, gid: 0, groups: &[] },
    User { name: "owner", uid: OWNER, gid: OWNER, groups: &[] },
    User { name: "member", uid: 2000, gid: 2000, groups: &[3000, SHARED_GROUP] },
    User { name: "stranger", uid: 3000, gid: 3000, groups: &[] },
];

impl User {
    /// Does something as this user, in a thread that ends with it.
    pub(crate) fn perform<T: Send>(self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let as_user = move || {
            set_thread_groups(
                &self.groups.iter().map(|&id| rustix::process::Gid::from_raw(id)).collect::<Vec<_>>(),
            )?;
            let gid = rustix::process::Gid::from_raw(self.gid);
            set_thread_res_gid(gid, gid, gid)?;
            let uid = rustix::process::Uid::from_raw(self.uid);
            set_thread_res_uid(uid, uid, uid)?;
            Ok::<T, Errno>(work())
        };
        let done = thread::scope(|scope| scope.spawn(as_user).join());
        Ok(done.ok().context("a thread")??)
    }
}

/// In each directory each user tries so many things, which chance chooses. Prints how many were tried and refused.
pub(crate) fn run(roots: [&Path; 2], seed: u64, count: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let (mut tried, mut refused) = (0, 0);
    for directory in Directory::ALL {
        for user in USERS {
            let fixtures = roots.map(|root| Fixture::new(root, directory));
            for fixture in &fixtures {
                fixture.build().context("build a fixture")?;
            }
            for (target, operation) in attempts(&mut random, count) {
                let what = || {
                    let [operation, target] = [operation.name, target.name];
                    format!("seed {seed}: {operation} of {target} in {} by {}", directory.name, user.name)
                };
                tried += 1;
                refused += u64::from(compare(&fixtures, target, operation, user).with_context(what)?);
            }
            for fixture in &fixtures {
                fixture.remove().context("remove a fixture")?;
            }
        }
    }
    println!("{tried} tried, {refused} refused");
    Ok(())
}

/// Each at most once.
fn attempts(random: &mut Random, count: u64) -> Vec<(&'static Target, &'static Operation)> {
    let all =
        Target::ALL.iter().flat_map(|target| Operation::ALL.iter().map(move |operation| (target, operation)));
    let mut drawn: Vec<_> = all.map(|attempt| (random.next(), attempt)).collect();
    drawn.sort_by_key(|(lot, _)| *lot);
    drawn.into_iter().map(|(_, attempt)| attempt).take(count as usize).collect()
}

/// Whether it is refused.
fn compare(fixtures: &[Fixture; 2], target: &Target, operation: &Operation, user: User) -> Result<bool> {
    let mut answers = Vec::new();
    for fixture in fixtures {
        let places = fixture.places(target);
        let answer = user.perform(|| (operation.perform)(&places))?;
        let after = [&places.target, &places.new, &places.aside]
            .map(|path| lstat(path).map(|stat| attributes(&stat)));
        answers.push((answer, after));
    }
    let [expected, found] = answers.as_slice() else { return Ok(false) };
    ensure!(found == expected, "is\n{found:?}\nin place of\n{expected:?}");
    let is_refused = found.0.is_err();
    if !is_refused && operation.changes {
        for fixture in fixtures {
            fixture.restore(target).context("restore a fixture")?;
        }
    }
    Ok(is_refused)
}

/// Both are the same now.
pub(crate) fn same(roots: [&Path; 2]) -> Result<()> {
    let [expected, found] = [listing::list(roots[0])?, listing::list(roots[1])?];
    ensure!(expected == found, "is\n{found}\nin place of\n{expected}");
    Ok(())
}
