//! Statistics, and how figures are written.

use serde::Serialize;
use std::time::Duration;

/// What half, 99 in a hundred and 999 in a thousand do not exceed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are read in JSON, where nothing else says what they count")]
pub(super) struct Quantiles {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
}

impl Quantiles {
    pub(super) fn of(durations: &[Duration]) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        // Nearest rank: the smallest that so many are not above.
        let at = |part: f64| {
            let rank = whole((part * sorted.len() as f64).ceil());
            sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e6)
        };
        Self { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) }
    }

    /// Of each quantile the median.
    pub(super) fn medians<'q>(rounds: impl Iterator<Item = &'q Self> + Clone) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.clone().map(figure));
        Self {
            p50_us: of(|quantiles| quantiles.p50_us),
            p99_us: of(|quantiles| quantiles.p99_us),
            p999_us: of(|quantiles| quantiles.p999_us),
        }
    }
}

/// The middle one, or the mean of the two in the middle. Not a number if there is none.
pub(super) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A figure that counts something, without what is behind its point.
pub(super) fn whole(figure: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast goes to the nearest end")]
    let count = figure as usize;
    count
}

/// Thousands apart: 1,234,567.
pub(super) fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    let first = usize::from(digits.starts_with('-'));
    for (place, digit) in digits.chars().enumerate() {
        if place > first && (digits.len() - place).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As many digits as a reader can use: 1,234 or 12.3 or 0.123. A dash if it is not a number.
pub(super) fn readable(figure: f64) -> String {
    match figure.abs() {
        _ if !figure.is_finite() => "–".to_owned(),
        nothing if nothing < f64::MIN_POSITIVE => "0".to_owned(),
        large if large >= 1000.0 => grouped(figure),
        middling if middling >= 100.0 => format!("{figure:.0}"),
        middling if middling >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_medians_are_of_what_was_measured() {
        let micros: Vec<Duration> = (1..=1000).rev().map(Duration::from_micros).collect();
        let quantiles = Quantiles::of(&micros);
        let found = [quantiles.p50_us, quantiles.p99_us, quantiles.p999_us].map(|micros| whole(micros.round()));
        assert_eq!(found, [500, 990, 999]);
        assert!(Quantiles::of(&[]).p50_us.is_nan());
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn numbers_are_grouped() {
        let cases = [
            (0.4, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (12_345.6, "12,346"),
            (1_234_567.0, "1,234,567"),
            (-999.0, "-999"),
            (-1000.0, "-1,000"),
        ];
        for (figure, text) in cases {
            assert_eq!(grouped(figure), text);
        }
    }

    #[test]
    fn figures_have_the_digits_that_can_be_used() {
        let cases = [
            (0.1234, "0.12"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1234.5, "1,234"),
            (f64::NAN, "–"),
            (0.0, "0"),
            (-3.0, "-3.00"),
        ];
        for (figure, text) in cases {
            assert_eq!(readable(figure), text);
        }
    }
}
