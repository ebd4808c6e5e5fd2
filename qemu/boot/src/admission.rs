//! Does a CPU that starts take part? Both sides must say the same.

use core::sync::atomic::{AtomicU8, Ordering};

const STARTING: u8 = 0;
const ADMITTED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// The hand-over between the CPU that starts another and the CPU that is started.
///
/// The started CPU calls [`enter`](Admission::enter) once it is set up. The starting CPU calls
/// [`give_up`](Admission::give_up) when it has waited long enough. Exactly one of the two succeeds:
/// an admitted CPU is a member for good and is never sent an INIT; a CPU that was given up must park
/// if it arrives after all.
#[derive(Debug)]
pub struct Admission(AtomicU8);

impl Admission {
    /// The state of a CPU that has not arrived.
    #[must_use]
    pub const fn new() -> Admission {
        Admission(AtomicU8::new(STARTING))
    }

    /// Admits the executing CPU. Returns false if it was given up before: it must park.
    #[must_use]
    pub fn enter(&self) -> bool {
        // Release pairs with the Acquire in `is_admitted` and `give_up`: the starter sees the set-up.
        self.0.compare_exchange(STARTING, ADMITTED, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Returns whether the CPU has arrived. What it did before [`enter`](Admission::enter) is visible.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.0.load(Ordering::Acquire) == ADMITTED
    }

    /// Gives the CPU up. Returns false if it has been admitted meanwhile: then it takes part.
    #[must_use]
    pub fn give_up(&self) -> bool {
        self.0.compare_exchange(STARTING, GIVEN_UP, Ordering::Relaxed, Ordering::Acquire).is_ok()
    }
}

impl Default for Admission {
    fn default() -> Admission {
        Admission::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_cpu_that_arrives_after_the_last_look_and_before_it_is_given_up_takes_part() {
        let admission = Admission::new();
        assert!(!admission.is_admitted());
        assert!(admission.enter());
        assert!(!admission.give_up(), "an admitted CPU must not be given up");
        assert!(admission.is_admitted());
    }

    #[test]
    fn a_cpu_that_was_given_up_parks() {
        let admission = Admission::new();
        assert!(admission.give_up());
        assert!(!admission.enter(), "a CPU that was given up must not become a member");
        assert!(!admission.is_admitted());
    }

    #[test]
    fn exactly_one_side_decides() {
        for _ in 0..if cfg!(miri) { 10 } else { 500 } {
            let (admission, start) = (Admission::new(), Barrier::new(2));
            let (entered, given_up) = std::thread::scope(|scope| {
                let entering = scope.spawn(|| {
                    start.wait();
                    admission.enter()
                });
                start.wait();
                let given_up = admission.give_up();
                (entering.join().unwrap(), given_up)
            });
            assert_ne!(entered, given_up);
            assert_eq!(admission.is_admitted(), entered);
        }
    }
}
