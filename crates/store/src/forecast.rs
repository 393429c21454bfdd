//! When the registry will be full: a trend through daily samples that a single bad day does not bend.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// Days until the limit. None: it is not growing, or not within ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    pub days: Option<u32>,
    /// If it grows as in the faster quarter of the pairs of days.
    pub earliest_days: Option<u32>,
    /// If it grows as in the slower quarter.
    pub latest_days: Option<u32>,
    /// The median growth of a day.
    pub bytes_per_day: i64,
}

/// Below this, a trend is chance.
const MIN_SAMPLES: usize = 3;
const TEN_YEARS: f64 = 3650.0;

/// Theil–Sen: the median of the slopes between all pairs of samples, and its quartiles for the spread. None: too few
/// samples.
pub fn forecast(samples: &[(NaiveDate, i64)], limit: u64) -> Option<Forecast> {
    let (_, newest) = *samples.last()?;
    if samples.len() < MIN_SAMPLES {
        return None;
    }
    let mut slopes: Vec<f64> = Vec::with_capacity(samples.len() * samples.len() / 2);
    for (place, (day, bytes)) in samples.iter().enumerate() {
        for (later, more) in &samples[place + 1..] {
            let days = (*later - *day).num_days();
            if days > 0 {
                slopes.push((more - bytes) as f64 / days as f64);
            }
        }
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let quantile = |of: f64| {
        let place = (slopes.len().checked_sub(1)? as f64 * of).round() as usize;
        slopes.get(place).copied()
    };
    let room = limit as f64 - newest as f64;
    let until = |slope: f64| {
        if room <= 0.0 {
            return Some(0);
        }
        let days = room / slope;
        (slope > 0.0 && days <= TEN_YEARS).then_some(days as u32)
    };
    let median = quantile(0.5)?;
    Some(Forecast {
        days: until(median),
        earliest_days: until(quantile(0.75)?),
        latest_days: until(quantile(0.25)?),
        bytes_per_day: median as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(bytes: &[i64]) -> Vec<(NaiveDate, i64)> {
        let first = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
        bytes
            .iter()
            .enumerate()
            .map(|(day, bytes)| (first + chrono::Days::new(day as u64), *bytes))
            .collect()
    }

    #[test]
    fn steady_growth_reaches_the_limit_on_the_day() {
        let forecast = forecast(&samples(&[10, 20, 30, 40]), 100).unwrap();
        assert_eq!((forecast.days, forecast.bytes_per_day), (Some(6), 10));
        assert_eq!((forecast.earliest_days, forecast.latest_days), (Some(6), Some(6)));
    }

    #[test]
    fn one_bad_day_does_not_bend_it_but_widens_the_spread() {
        let steady: Vec<i64> = (0..15).map(|day| 100 + 10 * day).collect();
        let mut bad = steady.clone();
        bad[7] = 5_000;
        let (steady, bad) =
            (forecast(&samples(&steady), 440).unwrap(), forecast(&samples(&bad), 440).unwrap());
        assert_eq!((steady.days, bad.days), (Some(20), Some(20)));
        let noisy = forecast(&samples(&[100, 130, 120, 150, 140, 170]), 300).unwrap();
        assert!(noisy.earliest_days < noisy.latest_days, "{noisy:?}");
    }

    #[test]
    fn what_shrinks_or_stands_never_fills_and_what_is_full_is_full_now() {
        assert_eq!(forecast(&samples(&[30, 20, 10]), 100).unwrap().days, None);
        assert_eq!(forecast(&samples(&[10, 10, 10]), 100).unwrap().days, None);
        assert_eq!(forecast(&samples(&[90, 100, 110]), 100).unwrap().days, Some(0));
    }

    #[test]
    fn two_days_are_no_trend() {
        assert_eq!(forecast(&samples(&[10, 20]), 100), None);
        assert_eq!(forecast(&[], 100), None);
    }
}
