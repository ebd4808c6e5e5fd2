//! Every operation of a table with every context of another.

use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError, RwLock};

use crate::watchdog;
use crate::{Plan, Stop, Trace};

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

impl<S> Clone for Operation<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Operation<S> {}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Context<S> {}

/// All combinations of operations and contexts, each on a new scene.
#[derive(Debug)]
pub struct Matrix<'a, S> {
    /// What the report calls it.
    pub name: &'a str,
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
    /// After how many stops a combination goes on with a new scene, if operation or context leave
    /// something that cannot be undone.
    pub renew: Option<u64>,
}

/// What was done.
#[derive(Default)]
struct Counts {
    combinations: u64,
    exhaustive: u64,
    contexts: u64,
    /// Stop points that an operation did not come to, because it took another course.
    missed: u64,
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
             {} instructions, {} stops, {} missed",
            self.name,
            self.operations.len(),
            self.contexts.len(),
            counts.combinations,
            counts.exhaustive,
            counts.instructions,
            counts.contexts,
            counts.missed,
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
            self.stops(operation, context, offset as u64, counts, &mut stop);
        }));
        let reason = reason(&*outcome.err()?);
        Some(Failure { combination: name, stop, reason })
    }

    fn stops(
        &self,
        operation: &Operation<S>,
        context: &Context<S>,
        offset: u64,
        counts: &mut Counts,
        last: &mut Option<Stop>,
    ) {
        let scene = RwLock::new((self.scene)());
        // Nothing waits for the lock: it is taken to change the scene between two stops.
        let read = || scene.read().unwrap_or_else(PoisonError::into_inner);
        let finish = || {
            let scene = read();
            (operation.undo)(&scene);
            (self.check)(&scene);
        };
        // First undisturbed.
        (operation.prepare)(&read());
        let mut trace = Trace::of(|| (operation.run)(&read()));
        finish();

        let stride = self.plan.stride(&trace);
        counts.combinations += 1;
        let first = self.plan.first(&trace);
        counts.exhaustive += u64::from(stride == 1 && first == 0);
        counts.instructions += trace.len();
        // Neighbours in the table begin differently, so that together they stop in more places.
        let mut at = first + offset % stride;
        let (mut on_scene, mut again) = (0, false);
        while at < trace.len() {
            if self.renew == Some(on_scene) {
                *scene.write().unwrap_or_else(PoisonError::into_inner) = (self.scene)();
                on_scene = 0;
            }
            on_scene += 1;
            *last = None;
            (operation.prepare)(&read());
            let stop = Self::stop(&read(), context, &mut trace, at, last);
            if stop.is_some() {
                (context.undo)(&read());
            }
            finish();
            if stop.is_none() && !again {
                // The operation takes another course by now: what it left made a difference.
                (operation.prepare)(&read());
                trace.renew();
                finish();
                again = true;
                continue;
            }
            again = false;
            counts.contexts += u64::from(stop.is_some());
            counts.missed += u64::from(stop.is_none());
            at += stride;
        }
    }

    /// One stop, which is known as the `last` one before anything can fail.
    fn stop(
        scene: &S,
        context: &Context<S>,
        trace: &mut Trace<'_>,
        at: u64,
        last: &mut Option<Stop>,
    ) -> Option<Stop> {
        let place = Mutex::new(None);
        let run = catch_unwind(AssertUnwindSafe(|| {
            trace.stop_after(at, |stop| {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
                (context.run)(scene);
            })
        }));
        let stop = place.into_inner().unwrap_or_else(PoisonError::into_inner);
        *last = stop.or(*last);
        match run {
            Ok(_) => stop,
            Err(panic) => resume_unwind(panic),
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
