//! Makes a failing log small.

use crate::log::Log;

/// Returns a part of `log` that still fails, from which no single step can be taken.
///
/// It takes away ever smaller runs of steps (delta debugging). `fails` is called some hundred times.
pub fn shrink(log: &Log, mut fails: impl FnMut(&Log) -> bool) -> Log {
    let mut log = log.clone();
    let mut run = log.steps.len().div_ceil(2);
    while run > 0 {
        let mut removed_any = false;
        // From the end: what comes first is more often needed.
        let mut end = log.steps.len();
        while end > 0 {
            let start = end.saturating_sub(run);
            let mut candidate = log.clone();
            candidate.steps.drain(start..end);
            if fails(&candidate) {
                log = candidate;
                removed_any = true;
            }
            end = start;
        }
        if !(run == 1 && removed_any) {
            run /= 2;
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Step;
    use crate::log::operation::{Operation, ProcessId};

    #[test]
    fn what_is_needed_stays() {
        let fork = |child| Step(ProcessId(0), Operation::Fork(ProcessId(child)));
        let log = Log { steps: (0..40).map(fork).collect() };
        let needed = [fork(7), fork(21), fork(22)];
        let small = shrink(&log, |log| needed.iter().all(|step| log.steps.contains(step)));
        assert_eq!(small.steps, needed);
    }
}
