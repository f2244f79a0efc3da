//! Random operations on one file by two processes in turn, each checked against a model in memory: after the idea of fsx.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result, ensure};

use crate::{
    random::Random,
    step::{MAX_LEN, Step, Way},
    worker::Worker,
};

/// After so many steps all of the file is compared.
const ROUND: u64 = 50;

/// Makes the file, and leaves it as the last step left it.
pub(crate) fn run(path: &Path, seed: u64, count: u64) -> Result<()> {
    File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut trial = Trial {
        workers: [Worker::start(path)?, Worker::start(path)?],
        model: Vec::new(),
        random: Random::new(seed),
        unsupported: 0,
    };
    for number in 0..count {
        let step = Step::random(&mut trial.random, trial.model.len());
        let worker = trial.random.below(2) as usize;
        let whole = number % ROUND == ROUND - 1;
        let done = trial.perform(worker, &step).and_then(|()| if whole { trial.compare() } else { Ok(()) });
        done.with_context(|| format!("seed {seed}, step {number}: {step:?} by process {worker}"))?;
    }
    trial.compare()?;
    ensure!(fs::read(path)? == trial.model, "the file is not the model at the end");
    println!("{count} steps, {} not supported, {} bytes", trial.unsupported, trial.model.len());
    Ok(())
}

struct Trial {
    workers: [Worker; 2],
    model: Vec<u8>,
    random: Random,
    unsupported: u64,
}

impl Trial {
    fn perform(&mut self, worker: usize, step: &Step) -> Result<()> {
        let worker = self.workers.get_mut(worker).context("a worker")?;
        let (answer, found) = worker.perform(step)?;
        if answer.is_supported {
            let expected = step.apply(&mut self.model);
            same(&found, &expected, step)?;
        } else {
            self.unsupported += 1;
        }
        let len = self.model.len() as u64;
        ensure!(answer.file_len == len, "the file has {} bytes in place of {len}", answer.file_len);
        Ok(())
    }

    /// All of it, as each process sees it each way.
    fn compare(&mut self) -> Result<()> {
        for worker in [0, 1] {
            for way in [Way::Buffered, Way::Direct, Way::Mapped] {
                let len = if way == Way::Mapped { self.model.len() } else { MAX_LEN };
                self.perform(worker, &Step::Read { way, offset: 0, len })?;
            }
        }
        Ok(())
    }
}

fn same(found: &[u8], expected: &[u8], step: &Step) -> Result<()> {
    let offset = if let Step::Read { offset, .. } = step { *offset } else { 0 };
    let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(first) = first {
        let wrong = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        let [is, should] = [found, expected].map(|bytes| bytes.get(first).copied().unwrap_or_default());
        anyhow::bail!("byte {} is {is:#x} in place of {should:#x}, {wrong} are wrong", offset + first);
    }
    ensure!(found.len() == expected.len(), "{} bytes read in place of {}", found.len(), expected.len());
    Ok(())
}
