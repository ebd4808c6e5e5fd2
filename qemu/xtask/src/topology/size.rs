//! Amounts of memory as people write them: `512M`, `4G`.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Size(u64);

/// Why a text is not a [`Size`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// No number in front of the unit.
    NotANumber(String),
    /// The unit is missing or none of K, M, G, T.
    Unit(String),
    /// More than 64 bits of bytes.
    TooLarge(String),
}

impl Size {
    pub(crate) const ZERO: Self = Self(0);
    pub(crate) const KIB: u64 = 1 << 10;
    pub(crate) const MIB: u64 = 1 << 20;
    pub(crate) const GIB: u64 = 1 << 30;

    pub(crate) const fn from_mib(mib: u64) -> Self {
        Self(mib * Self::MIB)
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }

    pub(crate) const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn is_multiple_of(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        Self(sizes.fold(0, |total, size| total.saturating_add(size.0)))
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::NotANumber(text.to_owned()));
        }
        let number: u64 = number.parse().map_err(|_| SizeError::TooLarge(text.to_owned()))?;
        let shift = match unit.to_ascii_uppercase().trim_end_matches("IB") {
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            "" if number == 0 => 0,
            _ => return Err(SizeError::Unit(text.to_owned())),
        };
        match number.checked_mul(1 << shift) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(SizeError::TooLarge(text.to_owned())),
        }
    }
}

impl fmt::Display for Size {
    /// Exact, in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            0 => (0, ""),
            bytes if bytes.is_multiple_of(Self::GIB) => (bytes / Self::GIB, "G"),
            bytes if bytes.is_multiple_of(Self::MIB) => (bytes / Self::MIB, "M"),
            bytes if bytes.is_multiple_of(Self::KIB) => (bytes / Self::KIB, "K"),
            bytes => (bytes, "B"),
        };
        f.pad(&format!("{value}{unit}"))
    }
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber(text) => {
                write!(f, "{text:?} is not a size: it must start with a number, as in 512M")
            }
            Self::Unit(text) => write!(f, "{text:?} is not a size: it needs one of the units K, M, G, T"),
            Self::TooLarge(text) => write!(f, "{text:?} is more than 64 bits of bytes"),
        }
    }
}

impl std::error::Error for SizeError {}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("64K", 64 << 10),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_size() {
        assert!(matches!("".parse::<Size>(), Err(SizeError::NotANumber(_))));
        assert!(matches!("G".parse::<Size>(), Err(SizeError::NotANumber(_))));
        assert!(matches!("-1G".parse::<Size>(), Err(SizeError::NotANumber(_))));
        assert!(matches!("512".parse::<Size>(), Err(SizeError::Unit(_))));
        assert!(matches!("512X".parse::<Size>(), Err(SizeError::Unit(_))));
        assert!(matches!("1.5G".parse::<Size>(), Err(SizeError::Unit(_))));
        assert!(matches!("99999999T".parse::<Size>(), Err(SizeError::TooLarge(_))));
        assert!(matches!("99999999999999999999G".parse::<Size>(), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn prints_what_it_parses() {
        for text in ["0", "4K", "1536M", "6G"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }
}
