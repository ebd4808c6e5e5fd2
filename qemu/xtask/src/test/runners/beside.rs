//! Running steps beside each other, each of which keeps one CPU busy.

use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::cargo;
use crate::report::Screen;
use crate::test::Outcome;
use crate::test::commands::CargoCommand;
use crate::test::steps::Step;

/// A step that has ended.
pub(in crate::test) struct Ended<'a> {
    pub(in crate::test) step: &'a Step,
    pub(in crate::test) outcome: Outcome,
    /// What the step showed.
    pub(in crate::test) lines: Vec<String>,
    pub(in crate::test) took: Duration,
}

/// Runs `steps`, as many at a time as there are CPUs, and gives each to `ended` when it has ended.
pub(in crate::test) fn run<'a>(steps: &[(&'a Step, &'a CargoCommand)], ended: impl FnMut(Ended<'a>)) {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let left = Mutex::new(steps.iter());
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..cpus.min(steps.len()) {
            let (next, sender) =
                (|| left.lock().unwrap_or_else(PoisonError::into_inner).next(), sender.clone());
            scope.spawn(move || work(next, &sender));
        }
        drop(sender);
        results.iter().for_each(ended);
    });
}

/// Runs the steps that `next` gives, until it gives none.
fn work<'a: 's, 's>(next: impl Fn() -> Option<&'s (&'a Step, &'a CargoCommand)>, sender: &Sender<Ended<'a>>) {
    while let Some(&(step, command)) = next() {
        let start = Instant::now();
        let mut screen = Screen::capturing(format!("{}: ", step.name));
        let outcome = Outcome::of(cargo::run(command, &mut screen));
        let ended = Ended { step, outcome, lines: screen.into_lines(), took: start.elapsed() };
        if sender.send(ended).is_err() {
            return;
        }
    }
}
