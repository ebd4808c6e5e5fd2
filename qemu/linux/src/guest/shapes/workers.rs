//! Workers, one on each CPU: threads of this process, or processes.

use std::thread;

use super::Shape;
use super::board::{Board, SharedBoard};
use crate::guest::error::GuestError;
use crate::guest::system::child::Child;
use crate::guest::system::clock::Stopwatch;
use crate::guest::system::cpu::{self, CpuNumber};

/// What workers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// Threads of one process, in one address space.
    Threads,
    /// Processes.
    Processes,
}

impl Party {
    pub(crate) const ALL: [Self; 2] = [Self::Threads, Self::Processes];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        }
    }
}

/// Has a worker on each of the first `cpus` CPUs go through `rounds` rounds, which all begin together. Returns of
/// each round the ticks of the worker that took longest. The caller waits asleep.
pub(super) fn run(
    party: Party,
    cpus: usize,
    rounds: usize,
    stopwatch: Stopwatch,
    shape: &Shape,
) -> Result<Vec<u64>, GuestError> {
    let shared = SharedBoard::create()?;
    let board = shared.get();
    let work = |cpu| {
        let ended = go_through(board, (CpuNumber::new(cpu), cpus), rounds, stopwatch, shape);
        if ended.is_err() {
            board.fail();
        }
        ended
    };
    match party {
        Party::Threads => thread::scope(|scope| {
            let workers: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || work(cpu))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(GuestError::Child)))
        })?,
        Party::Processes => {
            let children: Result<Vec<Child>, GuestError> = (0..cpus)
                // SAFETY: there is one thread.
                .map(|cpu| unsafe { Child::fork(|| drop(work(cpu))) })
                .collect();
            children?.into_iter().try_for_each(Child::wait)?;
        }
    }
    board.longest(rounds).ok_or(GuestError::Child)
}

/// A worker's life.
fn go_through(
    board: &Board,
    (cpu, workers): (CpuNumber, usize),
    rounds: usize,
    stopwatch: Stopwatch,
    shape: &Shape,
) -> Result<(), GuestError> {
    cpu::pin(cpu)?;
    // To start threads takes memory: none of that comes or goes once all of them are there.
    if !board.meet(workers) {
        return Ok(());
    }
    let operation = (shape.prepare)()?;
    for round in 0..rounds {
        if !board.meet(workers) {
            return Ok(());
        }
        let (result, ticks) = stopwatch.time(|| (0..shape.repeated).try_for_each(|_| operation.perform()));
        result?;
        board.note(round, ticks);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::shapes::SHAPES;

    #[test]
    fn threads_go_through_all_rounds_together() {
        let cpus = cpu::allowed().unwrap().len().min(2);
        let shape = SHAPES.iter().find(|shape| shape.name == "mmap1").unwrap();
        let longest = run(Party::Threads, cpus, 5, Stopwatch::new(), shape).unwrap();
        assert_eq!(longest.len(), 5);
        assert!(longest.iter().all(|&ticks| ticks > 0));
    }
}
