//! What a start costs, held to what it was: only with a clock that counts instructions, as the test host's with `--icount`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

/// The steps that are held to it, in microseconds after `main` began.
const STEPS: [&str; 3] = ["restored_us", "first_byte_us", "exit_us"];

/// In percent, either way: what became cheaper by more is to be kept so.
const TOLERANCE: u64 = 5;

/// Writes down what it costs now.
pub(crate) fn write(path: &Path, phases: &BTreeMap<String, u64>) -> Result<()> {
    let steps: BTreeMap<_, _> = STEPS.iter().filter_map(|step| phases.get_key_value(*step)).collect();
    let json = serde_json::to_string_pretty(&steps)? + "\n";
    fs::write(path, json).with_context(|| format!("write {}", path.display()))
}

/// Fails where a step costs more, or less, than it did.
pub(crate) fn check(path: &Path, phases: &BTreeMap<String, u64>) -> Result<()> {
    let before = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let before = serde_json::from_slice(&before).with_context(|| format!("understand {}", path.display()))?;
    let off = compare(&before, phases);
    if !off.is_empty() {
        bail!(
            "a start costs other than {} says, by more than {TOLERANCE} %: {} (if that is meant: make start-cost)",
            path.display(),
            off.join(", ")
        );
    }
    Ok(())
}

fn compare(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<String> {
    let off = STEPS.iter().filter_map(|&step| match (before.get(step), now.get(step)) {
        (Some(&before), Some(&now)) if now.abs_diff(before) * 100 <= before * TOLERANCE => None,
        (before, now) => {
            let told = |us: Option<&u64>| us.map_or("nothing".to_owned(), |us| format!("{us} µs"));
            Some(format!("{} {} instead of {}", step.trim_end_matches("_us"), told(now), told(before)))
        }
    });
    off.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(restored: u64, first_byte: u64, exit: u64) -> BTreeMap<String, u64> {
        STEPS.iter().map(ToString::to_string).zip([restored, first_byte, exit]).collect()
    }

    #[test]
    fn a_start_that_costs_other_than_it_did_is_told() {
        let before = steps(1000, 2000, 3000);
        assert_eq!(compare(&before, &steps(1050, 1900, 3000)), [""; 0]);
        assert_eq!(
            compare(&before, &steps(1051, 2000, 2849)),
            ["restored 1051 µs instead of 1000 µs", "exit 2849 µs instead of 3000 µs"]
        );
    }

    #[test]
    fn a_step_that_is_missing_is_told() {
        let mut now = steps(1000, 2000, 3000);
        now.remove("restored_us");
        assert_eq!(compare(&steps(1000, 2000, 3000), &now), ["restored nothing instead of 1000 µs"]);
        assert_eq!(compare(&BTreeMap::new(), &now).len(), 3);
    }

    #[test]
    fn what_is_written_is_what_is_checked() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cost.json");
        write(&path, &steps(1, 2, 3)).unwrap();
        check(&path, &steps(1, 2, 3)).unwrap();
        assert!(check(&path, &steps(1, 2, 4)).unwrap_err().to_string().contains("exit 4 µs instead of 3 µs"));
    }
}
