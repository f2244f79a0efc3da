//! Which pages of a template a machine touches on its way to a running program: the first one that goes on from it shows it, and all others
//! find these pages in their places. Whether that is right is no question of safety, only of time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use securectr_vmm::spec::{Expected, MOST_PAGE_RUNS, PageRun};

/// In a template.
const NAME: &str = "touched.json";

/// A machine that has touched more, or is older, has done more than to start: 16 MiB.
const MOST_PAGES: u32 = 4 << 10;
const MOST_AGE: Duration = Duration::from_secs(5);

/// What the first machine from a template shows.
#[derive(Debug)]
pub(crate) struct Observation {
    template: PathBuf,
    since: Instant,
}

/// What was shown; with nothing, the one who asks is to show it.
pub(super) fn expected(template: &Path) -> (Expected, Option<Observation>) {
    let read = fs::read(template.join(NAME));
    let runs = read.ok().and_then(|json| serde_json::from_slice::<Vec<PageRun>>(&json).ok());
    match runs.filter(|runs| runs.len() <= MOST_PAGE_RUNS) {
        Some(runs) => (Expected::Pages(runs), None),
        None => {
            (Expected::Unknown, Some(Observation { template: template.to_owned(), since: Instant::now() }))
        }
    }
}

impl Observation {
    /// Whether what the machine has touched by now is what a start takes.
    pub(crate) fn is_of_start(&self) -> bool {
        self.since.elapsed() <= MOST_AGE
    }

    /// Notes what a machine says that it has touched, if that is not more than a start takes. Where it could not see it, nothing is expected
    /// of others.
    pub(crate) fn note(&self, runs: &[PageRun]) -> io::Result<()> {
        let count = runs.iter().fold(0_u32, |count, PageRun(_, more, _)| count.saturating_add(*more));
        if count > MOST_PAGES || runs.len() > MOST_PAGE_RUNS {
            return Ok(());
        }
        // Whole or not there, whoever else does it now.
        let file = tempfile::NamedTempFile::new_in(&self.template)?;
        serde_json::to_writer(&file, runs)?;
        file.persist(self.template.join(NAME))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_start_takes_is_not_noted() {
        let template = tempfile::tempdir().unwrap();
        let observation = Observation { template: template.path().to_owned(), since: Instant::now() };
        for runs in [vec![PageRun(1, MOST_PAGES + 1, true)], vec![PageRun(1, u32::MAX, true); 2]] {
            observation.note(&runs).unwrap();
            assert!(matches!(expected(template.path()), (Expected::Unknown, Some(_))));
        }
        observation.note(&[PageRun(1, 2, true)]).unwrap();
        assert!(matches!(expected(template.path()), (Expected::Pages(_), None)));
    }

    #[test]
    fn what_was_noted_is_expected_and_anything_else_is_noted_anew() {
        let template = tempfile::tempdir().unwrap();
        let path = template.path().join(NAME);
        assert!(matches!(expected(template.path()), (Expected::Unknown, Some(_))));
        fs::write(&path, "[[3,2,false]]").unwrap();
        let (Expected::Pages(pages), None) = expected(template.path()) else { panic!("it was not read") };
        assert_eq!(pages, [PageRun(3, 2, false)]);
        fs::write(&path, "[[3,2,").unwrap();
        assert!(matches!(expected(template.path()), (Expected::Unknown, Some(_))));
    }
}
