//! How much memory the programs of a step take.

use std::fmt;

const MIB: u64 = 1 << 20;

/// The most that one program may take. All tests run on a host with 8 GiB.
const LIMIT: Resident = Resident(6 << 30);

/// Bytes of memory that one program had at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::test) struct Resident(u64);

impl Resident {
    /// Returns the most that any ended descendant of this process had.
    fn most_of_descendants() -> Resident {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the structure is there for the call, and any bytes in it are valid.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
            usage.assume_init()
        };
        // The system counts in KiB.
        Resident(u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10)
    }
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 / MIB)
    }
}

/// The most that a program had taken when a step began.
pub(in crate::test) struct Before(Resident);

impl Before {
    /// Reads the most that a program has taken so far.
    pub(in crate::test) fn now() -> Before {
        Before(Resident::most_of_descendants())
    }

    /// Returns an objection if a program that ended since took more than a host may be expected to have.
    pub(in crate::test) fn objection(&self) -> Option<String> {
        self.objection_to(Resident::most_of_descendants(), LIMIT)
    }

    fn objection_to(&self, now: Resident, limit: Resident) -> Option<String> {
        let grown = now > self.0 && now > limit;
        grown.then(|| format!("a program took {now} of memory; at most {limit} are allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_much_is_objected_to_once() {
        let before = Before(Resident(1 << 30));
        assert_eq!(before.objection_to(LIMIT, LIMIT), None);
        let more = Resident(LIMIT.0 + MIB);
        let objection = before.objection_to(more, LIMIT).unwrap();
        assert_eq!(objection, "a program took 6145 MiB of memory; at most 6144 MiB are allowed");
        assert_eq!(Before(more).objection_to(more, LIMIT), None, "an earlier step took it");
    }

    #[test]
    fn descendants_are_seen() {
        let before = Resident::most_of_descendants();
        // The shell is no child of this process, but its child's; it takes more than any before.
        let bytes = before.0 + 100 * MIB;
        let script = format!("sh -c 'x=$(head -c {bytes} /dev/zero | tr \"\\0\" a); echo ${{#x}}'; true");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success());
        let most = Resident::most_of_descendants();
        assert!(most.0 >= bytes, "{before}, then {most}");
    }
}
