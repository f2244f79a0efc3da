//! Random operations on a tree of files, the same in two directories, which are to answer the same and to be the same afterwards.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{listing, random::Random, tree::place::Place};

mod change;
mod place;

use change::Change;

/// After so many changes the trees are compared as a whole.
const ROUND: u64 = 200;

/// Prints how many were refused, and what the tree is in the end.
pub(crate) fn run(roots: [&Path; 2], seed: u64, count: u64) -> Result<()> {
    let [mut control, mut tried] = roots.map(Place::new);
    let mut random = Random::new(seed);
    let mut refused = 0;
    for number in 0..count {
        let change = Change::random(&mut random);
        let [expected, found] = [&mut control, &mut tried].map(|place| place.perform(&change));
        ensure!(
            found == expected,
            "seed {seed}, change {number}: {change:?}\nis     {found:?}\nin place of {expected:?}"
        );
        refused += u64::from(found.is_err());
        if number % ROUND == ROUND - 1 {
            compare(roots).with_context(|| format!("seed {seed}, after change {number}: {change:?}"))?;
        }
    }
    compare(roots).with_context(|| format!("seed {seed}, after all {count} changes"))?;
    println!("{count} changes, {refused} refused");
    print!("{}", listing::list(roots[1])?);
    Ok(())
}

fn compare(roots: [&Path; 2]) -> Result<()> {
    let [expected, found] = [listing::list(roots[0])?, listing::list(roots[1])?];
    let other = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    if let Some((expected, found)) = other {
        anyhow::bail!("the trees differ:\nis     {found}\nin place of {expected}");
    }
    ensure!(expected == found, "the trees differ in length:\n{found}\nin place of\n{expected}");
    Ok(())
}
