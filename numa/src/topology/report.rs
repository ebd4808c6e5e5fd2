//! The delivery of diagnostics about the tables, and its limits.

use arrayvec::ArrayVec;

use crate::tables::Diagnostic;

/// The maximum number of diagnostics of one kind.
const MAX_OF_KIND: usize = 64;

/// Passes diagnostics on: each domain's once, and at most [`MAX_OF_KIND`] of a kind, so that no table
/// fills the kernel's log.
pub(super) struct Report<'r> {
    to: &'r mut dyn FnMut(Diagnostic),
    given: [usize; Diagnostic::KINDS],
    left_out: u32,
    /// Domains already reported as unknown, or as left out for lack of room.
    domains: [ArrayVec<u32, MAX_OF_KIND>; 2],
}

impl<'r> Report<'r> {
    pub(super) fn new(to: &'r mut dyn FnMut(Diagnostic)) -> Report<'r> {
        let domains = [ArrayVec::new(), ArrayVec::new()];
        Report { to, given: [0; Diagnostic::KINDS], left_out: 0, domains }
    }

    /// Passes `diagnostic` on, unless it was given before or many of its kind were.
    pub(super) fn give(&mut self, diagnostic: impl Into<Diagnostic>) {
        let diagnostic = diagnostic.into();
        let [unknown, without_room] = &mut self.domains;
        // Tables name such a domain again and again.
        let known = match diagnostic {
            Diagnostic::UnknownProximity { proximity, .. } => Some((unknown, proximity)),
            Diagnostic::TooManyNodes { proximity, .. } => Some((without_room, proximity)),
            _ => None,
        };
        if let Some((domains, proximity)) = known {
            if domains.contains(&proximity) {
                return;
            }
            // If the list is full, the maximum number of diagnostics was given.
            let _ = domains.try_push(proximity);
        }
        let given = &mut self.given[diagnostic.kind()];
        if *given == MAX_OF_KIND {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        *given += 1;
        (self.to)(diagnostic);
    }

    /// Reports the number of diagnostics not passed on.
    pub(super) fn finish(&mut self) {
        if self.left_out != 0 {
            (self.to)(Diagnostic::LeftOut { count: self.left_out });
        }
    }
}
