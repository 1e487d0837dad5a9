//! How often something happens, judged from a sample.

use serde::{Deserialize, Serialize};

/// The quantile of the normal distribution for 95 % confidence.
const Z: f64 = 1.959_963_984_540_054;

/// A share, with its Wilson score interval at 95 % confidence (Wilson 1927): unlike the textbook
/// interval it is right for shares of 0 and 1, which is what boots mostly have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Of the sample.
    pub rate: f64,
    /// The true share is hardly below this.
    pub low: f64,
    /// And hardly above this.
    pub high: f64,
}

impl Rate {
    /// `hits` of `total`; `None` of nothing.
    #[must_use]
    pub fn of(hits: u32, total: u32) -> Option<Self> {
        if total == 0 {
            return None;
        }
        let n = f64::from(total);
        let rate = f64::from(hits) / n;
        let middle = rate + Z * Z / (2.0 * n);
        let reach = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Some(Self {
            rate,
            low: ((middle - reach) / scale).max(0.0),
            high: ((middle + reach) / scale).min(1.0),
        })
    }
}

/// `95.0 % (95 % confidence: 76.4 .. 99.1 %)`
impl std::fmt::Display for Rate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |share: f64| (share * 1e4).round() / 1e2;
        write!(
            formatter,
            "{} % (95 % confidence: {} .. {} %)",
            percent(self.rate),
            percent(self.low),
            percent(self.high)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected figures were worked out apart from this code.
    #[test]
    fn the_interval_is_wilsons() {
        for (hits, total, low, high) in [
            (0, 10, 0.0, 0.277_533),
            (10, 10, 0.722_467, 1.0),
            (5, 10, 0.236_593, 0.763_407),
            (19, 20, 0.763_869, 0.991_119),
            (2000, 2000, 0.998_083, 1.0),
        ] {
            let rate = Rate::of(hits, total).unwrap();
            assert!((rate.low - low).abs() < 1e-5, "{hits}/{total}: {rate:?}");
            assert!((rate.high - high).abs() < 1e-5, "{hits}/{total}: {rate:?}");
        }
        assert_eq!(Rate::of(0, 0), None);
        assert_eq!(
            Rate::of(19, 20).unwrap().to_string(),
            "95 % (95 % confidence: 76.39 .. 99.11 %)"
        );
    }
}
