//! A plain model of what POSIX and Linux promise.
//!
//! It is written to be obviously right: each mapped page stands for itself, with all its attributes and
//! its contents; a fork copies all of it; a private copy is a copy. Where a system may choose (an
//! address, whether a freed page is dropped), the model takes the system's answer if it is a permitted one.

mod advise;
mod content;
mod files;
mod map;
mod mutation;
mod object;
mod remap;
mod space;
mod touch;

use std::ops::Range;

pub use mutation::Mutation;

use crate::compare::answer::{Answer, Errno, Fault, Listed, Rest, Shows, View};
use crate::compare::rules::Rules;
use crate::compare::system::{Broken, Process, System, Trace, execute};
use crate::log::operation::{Access, Call, Operation, PAGE, ProcessId};
use crate::log::slots::{Layout, Slots, TOP};
use crate::log::{Log, PROCESSES, Step};
use object::{Object, ObjectId};
use space::{Origin, Space};

/// A stack grows while its mapping has at most these pages.
pub const STACK_PAGES: u64 = 128;
/// A stack keeps this distance from the accessible mapping below it.
pub const STACK_GAP: u64 = 256;

const FIRST: ObjectId = ObjectId(0);
const SECOND: ObjectId = ObjectId(1);

/// The model's state: all processes and objects.
#[derive(Debug, Clone)]
pub struct Model {
    rules: Rules,
    mutation: Option<Mutation>,
    layout: Layout,
    spaces: Vec<Option<Space>>,
    objects: Vec<Object>,
    calls: u64,
    /// The process that runs.
    current: usize,
    /// What the system under comparison has answered and the model has not looked at.
    seen: std::collections::VecDeque<Answer>,
}

impl Model {
    /// Returns a model with one process that has nothing mapped.
    pub fn new(rules: Rules, layout: Layout, mutation: Option<Mutation>) -> Model {
        let first = Space { end_of_heap: layout.heap, ..Space::default() };
        let mut spaces = vec![None; PROCESSES];
        spaces[0] = Some(first);
        let objects = vec![Object::new(0), Object::new(0)];
        let seen = std::collections::VecDeque::new();
        Model { rules, mutation, layout, spaces, objects, calls: 0, current: 0, seen }
    }

    /// Does a step, given what a system has answered, and returns what it should have answered.
    pub fn expect(
        &mut self,
        step: &Step,
        slots: &mut Slots,
        seen: impl IntoIterator<Item = Answer>,
    ) -> Vec<Answer> {
        let Step(process, operation) = step;
        self.seen.clear();
        self.seen.extend(seen);
        self.current = usize::from(process.0);
        match *operation {
            Operation::Fork(child) => self.fork(child),
            Operation::Exit => self.spaces[self.current] = None,
            _ => {}
        }
        let mut answers = Vec::new();
        execute(self, operation, slots, &mut |answer| answers.push(answer));
        answers
    }

    fn fork(&mut self, child: ProcessId) {
        let parent = self.space().clone();
        let mut space = Space { end_of_heap: parent.end_of_heap, ..Space::default() };
        for (number, mut page) in parent.pages {
            if page.attributes.dont_fork && !self.is(Mutation::ForkIgnoresDontFork) {
                continue;
            }
            if page.attributes.wipe_on_fork && !self.is(Mutation::ForkIgnoresWipeOnFork) {
                page.copy = None;
                page.guard = false;
            }
            if self.is(Mutation::ForkCopiesSharedPages)
                && page.attributes.shared
                && let Some(backing) = page.backing
            {
                page.copy = self.objects[backing.object.0].page(backing.page).cloned();
            }
            page.attributes.locked = false;
            space.pages.insert(number, page);
        }
        self.spaces[usize::from(child.0)] = Some(space);
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn space(&mut self) -> &mut Space {
        self.spaces[self.current].get_or_insert_default()
    }

    /// Returns the origin of what a new call maps.
    fn new_call(&mut self) -> Origin {
        self.calls += 1;
        Origin(self.calls)
    }

    /// Returns the page that the system chose for `count` pages, or one that the model chooses if there is
    /// no system.
    fn chosen(&mut self, count: u64, seen: Option<Result<u64, Errno>>) -> Result<u64, Errno> {
        match seen {
            Some(Ok(address)) => {
                let page = address / PAGE;
                let is_good = address.is_multiple_of(PAGE)
                    && address != 0
                    && page + count <= TOP / PAGE
                    && self.space().is_free(page..page + count);
                if is_good { Ok(page) } else { Err(Errno::BAD_CHOICE) }
            }
            Some(Err(_)) => Err(Errno::BAD_CHOICE),
            None => Ok(self.space().choose(count)),
        }
    }
}

/// Returns the pages of a range, if it is aligned and its end is a number.
fn pages(at: u64, length: u64) -> Option<Range<u64>> {
    let end = at.checked_add(length.checked_next_multiple_of(PAGE)?)?;
    at.is_multiple_of(PAGE).then_some(at / PAGE..end / PAGE)
}

impl Process for Model {
    fn call(&mut self, call: &Call<u64>, slots: &Slots) -> Result<u64, Errno> {
        let seen = match self.seen.pop_front() {
            Some(Answer::Returned(seen)) => Some(seen),
            _ => None,
        };
        match *call {
            Call::Map(ref map) => self.map(map, seen),
            Call::Unmap { at, length } => self.unmap(at, length),
            Call::Protect { at, length, protection } => self.protect(at, length, protection),
            Call::Remap { at, old, new, flags, to, .. } => self.remap(at, old, new, flags, to, seen),
            Call::Advise { at, length, advice } => self.advise(at, length, advice),
            Call::Break(to) => self.set_break(slots.break_address(to)),
            Call::Sync { at, length, flags } => self.sync(at, length, flags),
            Call::Resident { at, length, vector } => self.resident(at, length, vector),
            Call::Lock { at, length } => self.lock(at, length, true),
            Call::Unlock { at, length } => self.lock(at, length, false),
            Call::WriteFile { file, position, value } => self.write_file(file, position, value),
            Call::ReadFile { file, position } => {
                let seen = seen.and_then(Result::ok).and_then(|byte| u8::try_from(byte).ok());
                self.read_file(file, position, seen)
            }
            Call::Truncate { file, length } => self.truncate(file, length),
        }
    }

    fn touch(&mut self, address: u64, access: Access) -> Result<u8, Fault> {
        let seen = match self.seen.pop_front() {
            Some(Answer::Touched(seen)) => Some(seen),
            _ => None,
        };
        self.access(address, access, seen)
    }

    fn look(&mut self, page: u64) -> Result<View, Fault> {
        let seen = match self.seen.pop_front() {
            Some(Answer::Page { view: Ok(view), .. }) => Some(view.samples),
            _ => None,
        };
        let samples = self.read_page(page, seen)?;
        Ok(View { samples, rest: Rest::Zero })
    }

    fn list(&mut self, within: Range<u64>, report: &mut dyn FnMut(Listed)) {
        while let Some(Answer::Mapping(listed)) = self.seen.front() {
            if !within.contains(&listed.start) {
                break;
            }
            self.seen.pop_front();
        }
        for (&page, mapped) in self.space().pages.range(within.start / PAGE..within.end / PAGE) {
            let shows = match mapped.backing {
                None => Shows::Nothing,
                Some(backing) if backing.object == FIRST => Shows::First(backing.page * PAGE),
                Some(backing) if backing.object == SECOND => Shows::Second(backing.page * PAGE),
                Some(backing) => Shows::SharedMemory(backing.page * PAGE),
            };
            let (start, end) = (page * PAGE, (page + 1) * PAGE);
            report(Listed {
                start,
                end,
                protection: mapped.attributes.protection,
                shared: mapped.attributes.shared,
                shows,
            });
        }
    }
}

/// The model as a system of its own.
#[derive(Debug, Clone)]
pub struct ModelSystem {
    /// The rules that it follows.
    pub rules: Rules,
    /// Its deliberate error.
    pub mutation: Option<Mutation>,
}

impl System for ModelSystem {
    fn name(&self) -> String {
        match self.mutation {
            None => "model".to_owned(),
            Some(mutation) => format!("model with {mutation:?}"),
        }
    }

    fn rules(&self) -> Rules {
        self.rules
    }

    fn run(&mut self, log: &Log) -> Result<Trace, Broken> {
        let layout = Layout { window: 0x1000_0000_0000, heap: 0x5555_0000_0000 };
        let mut model = Model::new(self.rules, layout, self.mutation);
        let mut slots = Slots::new(layout);
        let mut answers = Vec::new();
        for (index, step) in log.steps.iter().enumerate() {
            answers.extend(model.expect(step, &mut slots, []).into_iter().map(|answer| (index, answer)));
        }
        Ok(Trace { layout, answers })
    }
}
