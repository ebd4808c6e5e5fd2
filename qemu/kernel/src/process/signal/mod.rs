//! Signals: their numbers, and what a process does about them.

pub(super) mod delivery;

use core::fmt;

use linux_raw_sys::general::{SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_RESTORER, SS_DISABLE};

/// A signal's number: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal,)*) => {
        #[allow(missing_docs, reason = "Linux's names")]
        impl Signal {
            $(pub(crate) const $name: Signal = Signal($number);)*
        }

        const NAMES: &[(u8, &str)] = &[$(($number, stringify!($name)),)*];
    };
}

signals! {
    ILL = 4,
    TRAP = 5,
    BUS = 7,
    FPE = 8,
    KILL = 9,
    SEGV = 11,
    PIPE = 13,
    CHLD = 17,
    CONT = 18,
    STOP = 19,
    TSTP = 20,
    TTIN = 21,
    TTOU = 22,
    URG = 23,
    WINCH = 28,
}

impl Signal {
    /// The signal of this number, if there is one.
    pub(crate) fn new(number: u64) -> Option<Signal> {
        matches!(number, 1..=64).then_some(Signal(number as u8))
    }

    /// The number.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Is nothing done about it unless the process says so? Processes are not stopped here, so the signals
    /// that would stop them are of these.
    pub(crate) fn is_ignored_by_default(self) -> bool {
        matches!(
            self,
            Signal::CHLD
                | Signal::CONT
                | Signal::STOP
                | Signal::TSTP
                | Signal::TTIN
                | Signal::TTOU
                | Signal::URG
                | Signal::WINCH
        )
    }

    /// May a process say what it does about it?
    pub(crate) fn is_handled(self) -> bool {
        !matches!(self, Signal::KILL | Signal::STOP)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A set of signals, as Linux writes it: bit 0 is signal 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub(crate) const EMPTY: SignalSet = SignalSet(0);

    /// `signal` alone.
    pub(crate) fn of(signal: Signal) -> SignalSet {
        SignalSet(1 << (signal.0 - 1))
    }

    /// Is `signal` one of them?
    pub(crate) fn contains(self, signal: Signal) -> bool {
        self.0 & SignalSet::of(signal).0 != 0
    }

    /// The one of the lowest number.
    pub(crate) fn first(self) -> Option<Signal> {
        (self.0 != 0).then(|| Signal(self.0.trailing_zeros() as u8 + 1))
    }

    /// All but those that nobody can put off.
    pub(crate) fn without_unblockable(self) -> SignalSet {
        SignalSet(self.0 & !(SignalSet::of(Signal::KILL).0 | SignalSet::of(Signal::STOP).0))
    }
}

/// What a process does about a signal, as `rt_sigaction` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action {
    /// The handler's address, or one of two values that are no addresses.
    pub handler: u64,
    /// `SA_…`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// The signals that are put off while the handler runs.
    pub mask: SignalSet,
}

/// What [`Action::handler`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handling {
    /// What is usual for the signal.
    Default,
    /// Nothing.
    Ignore,
    /// Call the handler.
    Call,
}

impl Action {
    /// What is usual.
    pub(crate) const DEFAULT: Action = Action { handler: 0, flags: 0, restorer: 0, mask: SignalSet::EMPTY };

    /// What the handler's value means.
    pub(crate) fn handling(&self) -> Handling {
        match self.handler {
            0 => Handling::Default,
            1 => Handling::Ignore,
            _ => Handling::Call,
        }
    }

    /// Does nothing come of `signal`?
    pub(crate) fn ignores(&self, signal: Signal) -> bool {
        match self.handling() {
            Handling::Ignore => true,
            Handling::Default => signal.is_ignored_by_default(),
            Handling::Call => false,
        }
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Does the handler run on the alternate stack?
    pub(crate) fn is_on_alternate_stack(&self) -> bool {
        self.has(SA_ONSTACK)
    }

    /// Tells whether a system call that the signal has interrupted is made again after the handler.
    pub(crate) fn restarts(&self) -> bool {
        self.has(SA_RESTART)
    }

    /// Where the handler returns to, if that is said.
    pub(crate) fn returns_to(&self) -> Option<u64> {
        self.has(SA_RESTORER).then_some(self.restorer)
    }

    /// The signals that are put off while the handler runs for `signal`, beyond `blocked`.
    pub(crate) fn blocked_meanwhile(&self, signal: Signal, blocked: SignalSet) -> SignalSet {
        let own = if self.has(SA_NODEFER) { SignalSet::EMPTY } else { SignalSet::of(signal) };
        SignalSet(blocked.0 | self.mask.0 | own.0)
    }
}

/// What a process does about each signal.
#[derive(Debug, Clone)]
pub(crate) struct ActionTable([Action; 64]);

impl ActionTable {
    /// What is usual, about all.
    pub(crate) const fn new() -> ActionTable {
        ActionTable([Action::DEFAULT; 64])
    }

    /// What is done about `signal`.
    pub(crate) fn get(&self, signal: Signal) -> Action {
        self.0[usize::from(signal.0 - 1)]
    }

    /// Has `action` done about `signal`.
    pub(crate) fn set(&mut self, signal: Signal, action: Action) {
        self.0[usize::from(signal.0 - 1)] = action;
    }

    /// Forgets all handlers, which another program would not have: what is usual is done instead.
    pub(crate) fn forget_handlers(&mut self) {
        for action in self.0.iter_mut().filter(|action| action.handling() == Handling::Call) {
            *action = Action::DEFAULT;
        }
    }

    /// What to do about a `signal` that has come; an action that is for once only is the usual one then.
    pub(crate) fn take(&mut self, signal: Signal) -> Action {
        let action = self.get(signal);
        if action.has(SA_RESETHAND) && action.handling() == Handling::Call {
            self.set(signal, Action::DEFAULT);
        }
        action
    }
}

/// A stack for handlers, as `sigaltstack` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlternateStack {
    /// Where it begins, at its lowest address.
    pub start: u64,
    /// Its bytes; none if there is no such stack.
    pub bytes: u64,
}

impl AlternateStack {
    /// No stack.
    pub(crate) const NONE: AlternateStack = AlternateStack { start: 0, bytes: 0 };

    /// Is the thread on it, with its stack pointer at `pointer`?
    pub(crate) fn holds(&self, pointer: u64) -> bool {
        pointer.checked_sub(self.start).is_some_and(|offset| offset > 0 && offset <= self.bytes)
    }

    /// Where it ends, if there is one.
    pub(crate) fn top(&self) -> Option<u64> {
        (self.bytes > 0).then(|| self.start.wrapping_add(self.bytes))
    }

    /// `SS_…` of a thread that is not on it.
    pub(crate) fn flags(&self) -> u64 {
        if self.bytes == 0 { u64::from(SS_DISABLE) } else { 0 }
    }
}
