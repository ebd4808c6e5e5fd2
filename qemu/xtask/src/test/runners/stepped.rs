//! Counting what the stepper did: where operations were stopped.

use std::fmt;
use std::ops::AddAssign;

/// What lines like `stepped frees: 2 operations, …` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::test) struct Stepped {
    operations: u64,
    combinations: u64,
    everywhere: u64,
    instructions: u64,
    stops: u64,
}

impl Stepped {
    /// What one line says.
    pub(in crate::test) fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("stepped ")?.rsplit_once(": ")?;
        let numbers: Vec<u64> = counts
            .split(|character: char| !character.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        let [operations, _contexts, combinations, everywhere, instructions, stops, _missed] = numbers[..]
        else {
            return None;
        };
        Some(Self { operations, combinations, everywhere, instructions, stops })
    }
}

impl AddAssign for Stepped {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.combinations += other.combinations;
        self.everywhere += other.everywhere;
        self.instructions += other.instructions;
        self.stops += other.stops;
    }
}

impl fmt::Display for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "in all: {} operations, {} combinations ({} at every instruction), {} instructions, \
             {} stops with a context in each",
            self.operations, self.combinations, self.everywhere, self.instructions, self.stops
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_the_stepper() {
        let line = "stepped frames: frees: 13 operations, 10 contexts, 130 combinations \
                    (128 at every instruction), 90300 instructions, 90391 stops, 2 missed";
        let expected = Stepped {
            operations: 13,
            combinations: 130,
            everywhere: 128,
            instructions: 90_300,
            stops: 90_391,
        };
        assert_eq!(Stepped::parse(line), Some(expected));
        for other in ["", "stepped", "stepped x: 3 operations", "test a ... ok"] {
            assert_eq!(Stepped::parse(other), None, "{other}");
        }
    }
}
