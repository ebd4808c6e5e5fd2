//! The protocol, a file for each of its steps.
//!
//! A change is recorded in its domain's log (`record`) and issued (`issue`, or `broadcast` if the
//! hardware tells the CPUs); `batch` does both for many changes. Each interrupted CPU flushes and
//! publishes the generation (`handler`); a CPU that activates a space catches up (`switch`). The
//! issuer holds a `ticket`.

pub(super) mod batch;
pub(super) mod broadcast;
pub(super) mod handler;
pub(super) mod issue;
pub(super) mod record;
pub(super) mod switch;
pub(super) mod ticket;
