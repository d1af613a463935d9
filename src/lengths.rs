//! Lengths of requests: a mean, how far they spread, and where the long ones lie.
//!
//! Prices need two moments: the mean, and the mean of squares, `mean^2 (1 + cv^2)`. Reports also need high quantiles; between
//! what was given they follow a lognormal, the usual shape of prompt and answer lengths.

use std::fmt;

/// How far a length spreads about its mean; all zero for requests of one length.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// Variance over the squared mean.
    pub cv2: f64,
    /// Tokens that one request in twenty exceeds; 0 when all are of one length.
    pub p95: u32,
}

/// A length that varies: the mean, and its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Length {
    /// Tokens, mean, rounded, at least 1.
    pub mean: u32,
    /// How far they spread.
    pub spread: Spread,
}

/// Why numbers are no lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthError(pub &'static str);

impl fmt::Display for LengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for LengthError {}

/// The most tokens a length may have.
const MOST: f64 = (1 << 26) as f64;

impl Length {
    /// Requests of one length.
    #[must_use]
    pub const fn point(mean: u32) -> Self {
        Self { mean, spread: Spread { cv2: 0.0, p95: 0 } }
    }

    /// From a mean, a median and a 95th percentile.
    ///
    /// The spread is the larger of what a lognormal has whose mean and median these are, `(mean/p50)^2 - 1`, and what a normal
    /// tail says of the 95th percentile, `((p95 - mean) / (1.645 mean))^2`: the first misses rare long requests, the second a
    /// heavy middle.
    ///
    /// # Errors
    /// When a number is not positive and finite, or the 95th percentile is below the median or the mean.
    pub fn from_quantiles(mean: f64, p50: f64, p95: f64) -> Result<Self, LengthError> {
        if ![mean, p50, p95].iter().all(|v| (1.0..=MOST).contains(v)) {
            return Err(LengthError("three numbers of tokens from 1 to 67108864: mean, p50, p95"));
        }
        if p95 < p50 || p95 < mean {
            return Err(LengthError("mean,p50,p95 with p95 at least the median and the mean"));
        }
        let body = (mean / p50) * (mean / p50) - 1.0;
        let tail = (p95 - mean) / (NORMAL_P95 * mean);
        Ok(Self { mean: mean.round() as u32, spread: Spread { cv2: body.max(tail * tail), p95: p95.round() as u32 } })
    }

    /// From a histogram: tokens and how many requests had them.
    ///
    /// # Errors
    /// When nothing is counted, or a number is out of range.
    pub fn from_histogram(bins: &[(f64, f64)]) -> Result<Self, LengthError> {
        let sound = |(tokens, count): &(f64, f64)| {
            (0.0..=MOST).contains(tokens) && count.is_finite() && *count >= 0.0 && *count <= 1e15
        };
        if !bins.iter().all(sound) {
            return Err(LengthError("lines of `tokens,count`, tokens from 0 to 67108864, counts not negative"));
        }
        let total: f64 = bins.iter().map(|(_, count)| count).sum();
        let mean = bins.iter().map(|(tokens, count)| tokens * count).sum::<f64>() / total;
        if total <= 0.0 || mean < 0.5 {
            return Err(LengthError("a histogram that counts at least one request of at least one token"));
        }
        let square = bins.iter().map(|(tokens, count)| tokens * tokens * count).sum::<f64>() / total;
        let mut sorted = bins.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut below = 0.0;
        let at_p95 = sorted.iter().find(|(_, count)| {
            below += count;
            below >= 0.95 * total
        });
        let p95 = at_p95.map_or(mean, |bin| bin.0).round() as u32;
        let cv2 = (square / (mean * mean) - 1.0).max(0.0);
        let p95 = if cv2 > 0.0 { p95.max(1) } else { 0 };
        Ok(Self { mean: (mean.round() as u32).max(1), spread: Spread { cv2, p95 } })
    }
}

/// The 95th percentile of the standard normal.
const NORMAL_P95: f64 = 1.645;

impl Spread {
    /// The quantile of a lognormal with this spread, over its mean; `z` is the normal quantile (1.645 for the 95th).
    #[must_use]
    pub fn quantile(&self, z: f64) -> f64 {
        if self.cv2 <= 0.0 {
            return 1.0;
        }
        let variance = ln(1.0 + self.cv2);
        exp(z * variance.sqrt() - variance / 2.0)
    }
}

/// Natural logarithm of a positive number by sums and products alone: the standard library's differs in its last digit
/// between platforms.
#[must_use]
pub fn ln(x: f64) -> f64 {
    if !x.is_finite() || x <= 0.0 {
        return if x > 0.0 { f64::INFINITY } else { f64::NEG_INFINITY };
    }
    let (mut m, mut halvings) = (x, 0.0);
    while m > 1.5 {
        m /= 2.0;
        halvings += 1.0;
    }
    while m < 0.75 {
        m *= 2.0;
        halvings -= 1.0;
    }
    // 2 atanh((m - 1) / (m + 1)), whose argument is at most a fifth.
    let r = (m - 1.0) / (m + 1.0);
    let (mut power, mut sum) = (r, 0.0);
    for k in 0..12 {
        sum += power / f64::from(2 * k + 1);
        power *= r * r;
    }
    halvings * std::f64::consts::LN_2 + 2.0 * sum
}

/// The exponential function, likewise.
#[must_use]
pub fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let x = x.min(700.0);
    let (mut term, mut sum, part) = (1.0, 1.0, x / 1024.0);
    for k in 1..10 {
        term *= part / f64::from(k);
        sum += term;
    }
    for _ in 0..10 {
        sum *= sum;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_and_exponential() {
        for (x, known) in
            [(1.0, 0.0), (2.0, std::f64::consts::LN_2), (0.05, -2.995_732_273_553_991), (1e6, 13.815_510_557_964_274)]
        {
            assert!((ln(x) - known).abs() < 1e-12 * (1.0 + known.abs()), "ln {x} = {}", ln(x));
            assert!((exp(known) / x - 1.0).abs() < 1e-11, "exp {known} = {}", exp(known));
        }
        assert_eq!((exp(-1e9), ln(0.0)), (0.0, f64::NEG_INFINITY));
        assert!(exp(1e9).is_finite());
    }

    #[test]
    fn spreads_of_known_shapes() {
        // A lognormal of sigma 1: median 1000, mean 1000 e^.5, 95th percentile 1000 e^1.645; cv^2 = e - 1.
        let length = Length::from_quantiles(1648.7, 1000.0, 5180.3).expect("rising quantiles");
        assert!((length.spread.cv2 - 1.718).abs() < 0.02, "{length:?}");
        assert!((length.spread.quantile(1.645) * 1648.7 / 5180.3 - 1.0).abs() < 0.01);
        // An exponential, in bins: cv^2 = 1.
        let bins: Vec<(f64, f64)> = (0..2000).map(|i| (f64::from(i) + 0.5, exp(-f64::from(i) / 100.0))).collect();
        let length = Length::from_histogram(&bins).expect("a histogram with counts");
        assert!((length.spread.cv2 - 1.0).abs() < 0.01 && length.mean.abs_diff(100) <= 1, "{length:?}");
        assert!(length.spread.p95.abs_diff(300) <= 2, "{length:?}");
        assert_eq!(Length::from_histogram(&[(4096.0, 3.0)]).expect("a histogram with counts"), Length::point(4096));
        for bad in
            [(0.0, 1.0, 1.0), (10.0, 20.0, 15.0), (10.0, 5.0, 9.0), (f64::NAN, 1.0, 1.0), (1.0, 1.0, f64::INFINITY)]
        {
            assert!(Length::from_quantiles(bad.0, bad.1, bad.2).is_err(), "{bad:?}");
        }
        for bad in [&[][..], &[(10.0, 0.0)], &[(10.0, -1.0)], &[(f64::NAN, 1.0)], &[(0.0, 5.0)]] {
            assert!(Length::from_histogram(bad).is_err(), "{bad:?}");
        }
    }
}
