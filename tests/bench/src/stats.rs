//! Medians, percentiles and ratios of pairs: the only arithmetic the bench does on what it measured.

/// The middle of `values` (the mean of the two in the middle of an even number), or NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The smallest value that at least `share` (0 to 1) of `values` do not exceed, or NaN of none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let rank = (share * values.len() as f64).ceil().max(1.0) as usize;
    sorted(values).get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// How one thing compares with another, from measurements taken in pairs.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Median of the ratios of the pairs.
    pub median: f64,
    /// Smallest ratio of a pair.
    pub least: f64,
    /// Largest ratio of a pair.
    pub most: f64,
}

impl Ratio {
    /// Compares `these` with `those`, pair by pair.
    pub fn of(these: &[f64], those: &[f64]) -> Self {
        let ratios: Vec<f64> = these.iter().zip(those).map(|(this, that)| this / that).collect();
        let [least, most] = [percentile(&ratios, 0.0), percentile(&ratios, 1.0)];
        Self { median: median(&ratios), least, most }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.5), 50.0);
        assert_eq!(percentile(&hundred, 0.99), 99.0);
        assert_eq!(percentile(&hundred, 1.0), 100.0);
        assert_eq!(percentile(&[7.0], 0.0), 7.0);
    }

    #[test]
    fn a_ratio_is_taken_per_pair_before_the_median() {
        let ratio = Ratio::of(&[1.0, 20.0, 3.0], &[2.0, 10.0, 3.0]);
        assert_eq!((ratio.median, ratio.least, ratio.most), (1.0, 0.5, 2.0));
    }
}
