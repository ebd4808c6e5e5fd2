//! Failures in words.

use core::fmt;

use super::failure::{Failure, address_of};

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Failure::FrameTwice { frame, first, second } => write!(
                f,
                "frame {:#x} handed out twice: to {first:?}, who still holds it, and to {second:?}",
                address_of(frame)
            ),
            Failure::FreeWhileHeld { frame, holder } => write!(
                f,
                "frame {:#x} is free by the allocator's books while {holder:?} holds it: it can be handed out twice",
                address_of(frame)
            ),
            Failure::NoSuchFrame { frame, holder } => {
                write!(f, "frame {:#x}, which is no RAM, handed out to {holder:?}", address_of(frame))
            }
            Failure::FrameChanged { frame, holder, offset, expected, found } => write!(
                f,
                "frame {:#x} changed under {holder:?}: {found:#x} instead of {expected:#x} at offset {offset}",
                address_of(frame)
            ),
            Failure::NotZeroed { frame, holder, offset, found } => write!(
                f,
                "frame {:#x} for {holder:?} is not zeroed: {found:#x} at offset {offset}",
                address_of(frame)
            ),
            Failure::LostFrames { node, before, after } if after < before => {
                write!(
                    f,
                    "{node} lost {} frames: {before} were free at the start, {after} are at the end",
                    before - after
                )
            }
            Failure::LostFrames { node, before, after } => {
                write!(
                    f,
                    "{node} gained {} frames: {before} were free at the start, {after} are at the end",
                    after - before
                )
            }
            Failure::LostObjects { before, after } => {
                write!(
                    f,
                    "heap objects lost or freed twice: {before} were held at the start, {after} are at the end"
                )
            }
            Failure::IdleSlabs { object_size, slabs, live } => {
                write!(f, "the drained heap keeps {slabs} slabs of {object_size} bytes, for {live} objects")
            }
            Failure::StaleTranslation { cpu, space, address, expected, found } => write!(
                f,
                "stale translation: {cpu} read {found:#x} at {address} of {space}, expected {expected:#x} or newer"
            ),
            Failure::StillMapped { cpu, space, address, found } => write!(
                f,
                "stale translation: {cpu} read {found:#x} at {address} of {space}, which is unmapped"
            ),
            Failure::StaleWrite { cpu, space, address } => {
                write!(
                    f,
                    "stale translation: {cpu} wrote at {address} of {space}, which is read-only or unmapped"
                )
            }
            Failure::LateWrite { frame, space, address, found, .. } => write!(
                f,
                "stale translation: frame {:#x} was written ({found:#x}) after its unmapping from {address} of {space} had completed",
                address_of(frame)
            ),
            Failure::WrongContents { cpu, space, address, expected, found } => write!(
                f,
                "wrong contents: {cpu} read {found:#x} at {address} of {space}, where {expected:#x} must be"
            ),
            Failure::LostWrite { cpu, space, address, expected, found } => write!(
                f,
                "lost write: {cpu} read {found:#x} at {address} of {space}, where it has written {expected:#x}"
            ),
            Failure::MissingMapping { cpu, space, address } => {
                write!(f, "missing mapping: {cpu} faulted at {address} of {space}, which stayed mapped")
            }
            Failure::WrongNode { cpu, frame, got, nearer, free } => write!(
                f,
                "wrong node: {cpu} got frame {:#x} of {} at distance {} while {} at distance {} had {free} frames free",
                address_of(frame),
                got.0,
                got.1,
                nearer.0,
                nearer.1
            ),
            Failure::WrongShare { cpu, policy, node, got, expected } => write!(
                f,
                "wrong share: {policy} placement gave {cpu} {got} frames of {node}, not {} of {}",
                expected.0, expected.1
            ),
            Failure::WrongReserve { cpu, node, frames } => {
                write!(
                    f,
                    "wrong reserve: {cpu} got {frames} frames of {node} when ordinary requests got none"
                )
            }
            Failure::NotReclaimed { cpu, slabs } => {
                write!(f, "{cpu} was short of memory, and {slabs} empty slabs stayed with the heap")
            }
            Failure::ObjectChanged { cpu, address, size, offset, expected, found } => write!(
                f,
                "heap object at {address} ({size} bytes) changed: {cpu} found {found:#x} instead of {expected:#x} at offset {offset}"
            ),
            Failure::ObjectMisaligned { cpu, address, alignment } => {
                write!(f, "heap object at {address} for {cpu} is not aligned to {alignment}")
            }
            Failure::HeldUp { cpu, unresponsive, missing } => {
                write!(
                    f,
                    "{cpu} was held up by {unresponsive}, which is unresponsive: {missing} operations too few"
                )
            }
            Failure::WaitedInVain { cpu, timeouts } => {
                write!(f, "{cpu} waited for a shootdown for {timeouts} timeouts: in vain")
            }
            Failure::Unreported { cpu } => write!(f, "nobody was told that {cpu} does not answer"),
            Failure::Refused { operation, error, .. } => write!(f, "{operation} refused: {error}"),
            Failure::Inconsistent { part, error } => write!(f, "{part} inconsistent: {error}"),
            Failure::Panicked { message, .. } => write!(f, "panic: {message}"),
        }
    }
}

impl core::error::Error for Failure {}

/// [`Failure::place`].
#[derive(Debug, Clone, Copy)]
pub struct Place<'a>(pub(super) &'a Failure);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Failure::FrameTwice { second: holder, .. }
            | Failure::FreeWhileHeld { holder, .. }
            | Failure::NoSuchFrame { holder, .. }
            | Failure::FrameChanged { holder, .. }
            | Failure::NotZeroed { holder, .. } => write!(f, "cpu{}", holder.cpu()),
            Failure::LostFrames { node, .. } => write!(f, "{node}"),
            Failure::LostObjects { .. } | Failure::IdleSlabs { .. } => f.write_str("heap"),
            Failure::StaleTranslation { cpu, space, address, .. }
            | Failure::StillMapped { cpu, space, address, .. }
            | Failure::StaleWrite { cpu, space, address }
            | Failure::WrongContents { cpu, space, address, .. }
            | Failure::LostWrite { cpu, space, address, .. }
            | Failure::LateWrite { cpu, space, address, .. }
            | Failure::MissingMapping { cpu, space, address } => write!(f, "{cpu}, {space}, {address}"),
            Failure::WrongNode { cpu, got, .. } => write!(f, "{cpu}, {}", got.0),
            Failure::WrongShare { cpu, node, .. } | Failure::WrongReserve { cpu, node, .. } => {
                write!(f, "{cpu}, {node}")
            }
            Failure::ObjectChanged { cpu, .. }
            | Failure::ObjectMisaligned { cpu, .. }
            | Failure::HeldUp { cpu, .. }
            | Failure::WaitedInVain { cpu, .. }
            | Failure::NotReclaimed { cpu, .. }
            | Failure::Unreported { cpu }
            | Failure::Refused { cpu, .. }
            | Failure::Panicked { cpu, .. } => write!(f, "{cpu}"),
            Failure::Inconsistent { part, .. } => f.write_str(part),
        }
    }
}
