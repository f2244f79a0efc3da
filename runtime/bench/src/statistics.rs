//! What is said about a series of measurements.

use serde::Serialize;

/// Of a series in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub median_us: u64,
    pub p90_us: u64,
    pub least_us: u64,
    pub most_us: u64,
}

impl Summary {
    /// Nothing can be said about an empty series.
    pub(crate) fn of(mut series: Vec<u64>) -> Option<Self> {
        series.sort_unstable();
        let at = |share: f64| series.get(((series.len() - 1) as f64 * share).round() as usize).copied();
        let least_us = *series.first()?;
        Some(Self { median_us: at(0.5)?, p90_us: at(0.9)?, least_us, most_us: *series.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_up_by_its_ranks() {
        let summary = Summary::of((1..=11).rev().collect()).unwrap();
        assert_eq!(summary, Summary { median_us: 6, p90_us: 10, least_us: 1, most_us: 11 });
    }

    #[test]
    fn an_empty_series_has_no_summary() {
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
