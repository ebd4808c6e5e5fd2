//! Every operation of a table with every context of another.

use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::watchdog;
use crate::{Plan, Stop, count, stop_after};

/// Something that is stopped. `S` is the scene: the machine that it runs on, and what it holds.
#[derive(Debug)]
pub struct Operation<S> {
    /// What the report calls it.
    pub name: &'static str,
    /// Brings the scene into the state that the operation begins in.
    pub prepare: fn(&S),
    /// The operation. Its instructions are the stop points.
    pub run: fn(&S),
    /// Brings the scene back to where `prepare` can begin.
    pub undo: fn(&S),
}

/// Something that happens while an operation is stopped.
#[derive(Debug)]
pub struct Context<S> {
    /// What the report calls it.
    pub name: &'static str,
    /// What happens. It must return, and must leave the operation's own things alone.
    pub run: fn(&S),
    /// Called after the operation and before its `undo`: checks the outcome, gives back what the
    /// context kept.
    pub undo: fn(&S),
}

/// All combinations of operations and contexts, each on a new scene.
#[derive(Debug)]
pub struct Matrix<'a, S> {
    /// What the report calls it.
    pub name: &'static str,
    /// Makes the scene of one combination, which its stops use one after the other.
    pub scene: fn() -> S,
    /// The rows.
    pub operations: &'a [Operation<S>],
    /// The columns.
    pub contexts: &'a [Context<S>],
    /// Checks the scene after each stop, when all is undone: the model, `validate`.
    pub check: fn(&S),
    /// How many stop points there are of each combination.
    pub plan: Plan,
}

/// What was done.
#[derive(Default)]
struct Counts {
    combinations: u64,
    exhaustive: u64,
    contexts: u64,
    instructions: u64,
}

/// A combination that failed, and where.
struct Failure {
    combination: String,
    stop: Option<Stop>,
    reason: String,
}

impl<S: Sync> Matrix<'_, S> {
    /// Explores all combinations. Each ends with its first failure; the others are explored still.
    ///
    /// Prints one line of counts, which begins with `stepped `. If the environment variable
    /// `STEPPER_ONLY` is set, only the combinations whose name (`operation / context`) contains
    /// its value are explored.
    ///
    /// # Panics
    ///
    /// If anything failed, with all failures.
    pub fn explore(&self) {
        let only = std::env::var("STEPPER_ONLY").unwrap_or_default();
        let mut counts = Counts::default();
        let mut failures = Vec::new();
        for (row, operation) in self.operations.iter().enumerate() {
            for (column, context) in self.contexts.iter().enumerate() {
                let name = format!("{} / {}", operation.name, context.name);
                if name.contains(&only) {
                    let offset = row + column;
                    failures.extend(self.combination(name, operation, context, offset, &mut counts));
                }
            }
        }
        println!(
            "stepped {}: {} operations, {} contexts, {} combinations ({} at every instruction), \
             {} instructions, {} stops",
            self.name,
            self.operations.len(),
            self.contexts.len(),
            counts.combinations,
            counts.exhaustive,
            counts.instructions,
            counts.contexts,
        );
        assert!(failures.is_empty(), "{}", report(self.name, &failures));
    }

    fn combination(
        &self,
        name: String,
        operation: &Operation<S>,
        context: &Context<S>,
        offset: usize,
        counts: &mut Counts,
    ) -> Option<Failure> {
        watchdog::describe(format!("{}: {name}", self.name));
        let mut stop = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let scene = (self.scene)();
            self.stops(&scene, operation, context, offset as u64, counts, &mut stop);
        }));
        let reason = reason(&*outcome.err()?);
        Some(Failure { combination: name, stop, reason })
    }

    fn stops(
        &self,
        scene: &S,
        operation: &Operation<S>,
        context: &Context<S>,
        offset: u64,
        counts: &mut Counts,
        last: &mut Option<Stop>,
    ) {
        // First undisturbed.
        (operation.prepare)(scene);
        let instructions = count(|| (operation.run)(scene));
        (operation.undo)(scene);
        (self.check)(scene);

        let stride = self.plan.stride(instructions);
        counts.combinations += 1;
        counts.exhaustive += u64::from(stride == 1);
        counts.instructions += instructions;
        // Neighbours in the table begin differently, so that together they stop in more places.
        let mut at = offset % stride;
        loop {
            (operation.prepare)(scene);
            // The stop is known to the report, whatever comes after it.
            let shared = std::sync::Mutex::new(None);
            let run = catch_unwind(AssertUnwindSafe(|| {
                stop_after(
                    at,
                    || (operation.run)(scene),
                    |stop| {
                        if let Ok(mut shared) = shared.lock() {
                            *shared = Some(stop);
                        }
                        (context.run)(scene);
                    },
                )
            }));
            let stop = shared.into_inner().ok().flatten();
            *last = stop.or(*last);
            if let Err(panic) = run {
                std::panic::resume_unwind(panic);
            }
            if stop.is_some() {
                counts.contexts += 1;
                (context.undo)(scene);
            }
            (operation.undo)(scene);
            (self.check)(scene);
            if stop.is_none() {
                return;
            }
            at += stride;
        }
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

fn report(matrix: &str, failures: &[Failure]) -> String {
    let mut text = format!("{} combinations of {matrix} fail:", failures.len());
    for failure in failures {
        let _ = write!(text, "\n- {}: {}", failure.combination, failure.reason);
        if let Some(stop) = failure.stop {
            let _ = write!(text, "\n  stopped after instruction {}, before {}", stop.at, stop.place());
        }
    }
    text
}
