//! Physical quantities: bytes, seconds, FLOP, their rates, and dollars.
//!
//! Each is an `f64` in base units behind a private field, so that adding seconds to bytes does not compile. Fractions of
//! a byte are real (4-bit weights, block scales); whole numbers are exact up to 9e15. `GB` is 10^9 bytes and `GiB` is
//! 2^30 everywhere: this file is the only one that knows unit words.

use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    /// What was read.
    pub text: String,
    /// What would have been understood.
    pub allowed: String,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not understood: {}", self.text, self.allowed)
    }
}

impl std::error::Error for UnitError {}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $example:literal, [$(($word:literal, $scale:expr)),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
        pub struct $name(f64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0.0);
            /// The unit words that [`Self::parse`] knows.
            pub const WORDS: &'static [(&'static str, f64)] = &[$(($word, $scale)),*];

            /// From base units.
            #[must_use]
            pub const fn new(value: f64) -> Self {
                Self(value)
            }

            /// In base units.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }

            /// The larger of the two.
            #[must_use]
            pub fn max(self, other: Self) -> Self {
                Self(self.0.max(other.0))
            }

            /// The smaller of the two.
            #[must_use]
            pub fn min(self, other: Self) -> Self {
                Self(self.0.min(other.0))
            }

            /// A total order, for sorting.
            #[must_use]
            pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.0.total_cmp(&other.0)
            }

            /// Reads a number with a unit word.
            ///
            /// # Errors
            /// When the number or the unit word is missing, unknown, negative or not finite.
            pub fn parse(text: &str) -> Result<Self, UnitError> {
                parse(text, Self::WORDS, $example).map(Self)
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, by: f64) -> Self {
                Self(self.0 * by)
            }
        }

        impl Div<f64> for $name {
            type Output = Self;
            fn div(self, by: f64) -> Self {
                Self(self.0 / by)
            }
        }

        impl Div for $name {
            type Output = f64;
            fn div(self, by: Self) -> f64 {
                self.0 / by.0
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
                all.fold(Self::ZERO, Add::add)
            }
        }
    };
}

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * 1024.0;
const GIB: f64 = MIB * 1024.0;
const TIB: f64 = GIB * 1024.0;

quantity!(
    /// An amount of memory, in bytes.
    Bytes,
    "80 GiB",
    [
        ("B", 1.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("KiB", KIB),
        ("MiB", MIB),
        ("GiB", GIB),
        ("TiB", TIB)
    ]
);
quantity!(
    /// A duration, in seconds.
    Seconds,
    "5 us",
    [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)]
);
quantity!(
    /// A number of floating-point operations (a multiply-add counts two).
    Flop,
    "3 TFLOP",
    [("FLOP", 1.0), ("GFLOP", 1e9), ("TFLOP", 1e12), ("PFLOP", 1e15)]
);
quantity!(
    /// A bandwidth, in bytes per second. Lower-case `b` is bits: `400 Gb/s` is 50 GB/s.
    BytesPerSec,
    "3.35 TB/s",
    [
        ("MB/s", 1e6),
        ("GB/s", 1e9),
        ("TB/s", 1e12),
        ("GiB/s", GIB),
        ("TiB/s", TIB),
        ("Mb/s", 1e6 / 8.0),
        ("Gb/s", 1e9 / 8.0),
        ("Tb/s", 1e12 / 8.0)
    ]
);
quantity!(
    /// An arithmetic rate, in FLOP per second.
    FlopPerSec,
    "989 TFLOP/s",
    [("GFLOP/s", 1e9), ("TFLOP/s", 1e12), ("PFLOP/s", 1e15)]
);

/// A price, in dollars per hour.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct UsdPerHour(f64);

impl UsdPerHour {
    /// From dollars per hour.
    #[must_use]
    pub const fn new(value: f64) -> Self {
        Self(value)
    }

    /// In dollars per hour.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Reads `$2.50/h` (the `$` and `/h` may be left out).
    ///
    /// # Errors
    /// When it is not a non-negative number.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let bare = text.trim().trim_start_matches('$').trim_end_matches("/h").trim();
        match bare.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(Self(value)),
            _ => Err(UnitError { text: text.into(), allowed: "write dollars per hour, as in \"$2.50/h\"".into() }),
        }
    }
}

fn parse(text: &str, words: &[(&str, f64)], example: &str) -> Result<f64, UnitError> {
    let trimmed = text.trim();
    let end =
        trimmed.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | '_'))).unwrap_or(trimmed.len());
    let (number, word) = trimmed.split_at(end);
    let list = || {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("write a number and one of {}, as in \"{example}\"", known.join(", "))
    };
    let refuse = || UnitError { text: text.to_owned(), allowed: list() };
    let value: f64 = number.replace('_', "").parse().map_err(|_ignored| refuse())?;
    let word = word.trim();
    let scale = words.iter().find(|(known, _)| *known == word).map(|(_, scale)| *scale).ok_or_else(refuse)?;
    if value.is_finite() && value >= 0.0 { Ok(value * scale) } else { Err(refuse()) }
}

impl Bytes {
    /// A whole number of GiB (2^30 bytes).
    #[must_use]
    pub const fn gib(value: f64) -> Self {
        Self(value * GIB)
    }

    /// How many GiB (2^30 bytes) these are.
    #[must_use]
    pub fn as_gib(self) -> f64 {
        self.0 / GIB
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0.abs();
        if v >= TIB * 10.0 {
            write!(f, "{:.2} TiB", self.0 / TIB)
        } else if v >= GIB * 0.995 {
            write!(f, "{:.2} GiB", self.0 / GIB)
        } else if v >= MIB {
            write!(f, "{:.1} MiB", self.0 / MIB)
        } else if v >= KIB * 10.0 {
            write!(f, "{:.1} KiB", self.0 / KIB)
        } else {
            write!(f, "{:.0} B", self.0)
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0.abs();
        if v >= 100.0 {
            write!(f, "{:.0} s", self.0)
        } else if v >= 1.0 {
            write!(f, "{:.2} s", self.0)
        } else if v >= 0.1 {
            write!(f, "{:.0} ms", self.0 * 1e3)
        } else if v >= 1e-3 {
            write!(f, "{:.1} ms", self.0 * 1e3)
        } else {
            write!(f, "{:.1} us", self.0 * 1e6)
        }
    }
}

impl fmt::Display for BytesPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1e12 { write!(f, "{:.2} TB/s", self.0 / 1e12) } else { write!(f, "{:.1} GB/s", self.0 / 1e9) }
    }
}

impl fmt::Display for FlopPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} TFLOP/s", self.0 / 1e12)
    }
}

impl Mul<BytesPerSec> for Seconds {
    type Output = Bytes;
    fn mul(self, rate: BytesPerSec) -> Bytes {
        Bytes(self.0 * rate.0)
    }
}

impl Div<BytesPerSec> for Bytes {
    type Output = Seconds;
    fn div(self, rate: BytesPerSec) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}

impl Div<FlopPerSec> for Flop {
    type Output = Seconds;
    fn div(self, rate: FlopPerSec) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}

impl Div<Seconds> for Flop {
    type Output = FlopPerSec;
    fn div(self, time: Seconds) -> FlopPerSec {
        FlopPerSec(self.0 / time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gb_and_gib_never_meet_unnoticed() {
        assert_eq!(Bytes::parse("80 GB"), Ok(Bytes::new(80e9)));
        assert_eq!(Bytes::parse("80GiB"), Ok(Bytes::gib(80.0)));
        assert_eq!(Bytes::parse("81559 MiB").expect("an amount with its unit").to_string(), "79.65 GiB");
    }

    #[test]
    fn bits_are_not_bytes() {
        assert_eq!(BytesPerSec::parse("400 Gb/s"), Ok(BytesPerSec::new(50e9)));
        assert_eq!(BytesPerSec::parse("400 GB/s"), Ok(BytesPerSec::new(400e9)));
    }

    #[test]
    fn a_bare_number_is_refused_with_the_words() {
        let error = Bytes::parse("80").expect_err("a refusal");
        assert!(error.allowed.contains("GiB"), "{error}");
        for bad in ["", "GiB", "-1 GiB", "nan GiB", "1e999 B", "80 gigs", "1.2.3 GB"] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
    }
}
