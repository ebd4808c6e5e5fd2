//! Who holds each frame, by the scenario's own account.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use topomem::{CpuId, Order, PhysFrame};

/// The CPU that a frame was handed to, and as part of how large a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Holder(u32);

impl Holder {
    const NOBODY: u32 = 0;

    /// `cpu`, which was handed a run of `order` in its operation number `serial`.
    #[must_use]
    pub fn new(cpu: CpuId, order: Order, serial: u32) -> Holder {
        Holder((cpu.index() as u32 + 1) | u32::from(order.get()) << 10 | (serial & 0x1_ffff) << 15)
    }

    /// The allocating CPU's number.
    #[must_use]
    pub const fn cpu(self) -> u32 {
        (self.0 & 0x3ff) - 1
    }

    /// The order of the run.
    #[must_use]
    pub const fn order(self) -> u32 {
        self.0 >> 10 & 0x1f
    }

    /// As one number, never 0.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The holder that [`Holder::bits`] encoded; `None` where no holder is.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Holder> {
        if bits & 0x3ff == 0 { None } else { Some(Holder(bits)) }
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{} (order {}, operation {})", self.cpu(), self.order(), self.0 >> 15)
    }
}

/// Why a claim or a release contradicts the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The frame is none of the machine's RAM.
    NoSuchFrame(PhysFrame),
    /// Somebody holds it already.
    Held {
        /// The contested frame.
        frame: PhysFrame,
        /// Who was handed it before.
        by: Holder,
    },
    /// The releasing holder is not the one on record.
    NotHeld {
        /// The frame.
        frame: PhysFrame,
        /// Who is on record, if anybody.
        by: Option<Holder>,
    },
}

/// A word for each frame of RAM: its holder.
#[derive(Debug)]
pub struct Ownership {
    spans: Vec<Span>,
}

#[derive(Debug)]
struct Span {
    first: u64,
    holders: Vec<AtomicU32>,
}

impl Ownership {
    /// An account of the frames in `ranges` (first frame number, count); `None` without memory
    /// for it: 4 bytes a frame.
    pub fn new(ranges: impl Iterator<Item = (u64, u64)>) -> Option<Ownership> {
        let mut spans = Vec::new();
        for (first, count) in ranges {
            let count = usize::try_from(count).ok()?;
            let mut holders = Vec::new();
            holders.try_reserve_exact(count).ok()?;
            holders.extend((0..count).map(|_| AtomicU32::new(Holder::NOBODY)));
            spans.try_reserve(1).ok()?;
            spans.push(Span { first, holders });
        }
        Some(Ownership { spans })
    }

    fn word(&self, number: u64) -> Option<&AtomicU32> {
        self.spans
            .iter()
            .find_map(|span| span.holders.get(usize::try_from(number.checked_sub(span.first)?).ok()?))
    }

    fn each(
        &self,
        frame: PhysFrame,
        order: Order,
        change: impl Fn(&AtomicU32, PhysFrame) -> Result<(), Conflict>,
    ) -> Result<(), Conflict> {
        for offset in 0..order.frames() {
            let frame = frame + offset;
            let number = frame.start_address().as_u64() / 4096;
            change(self.word(number).ok_or(Conflict::NoSuchFrame(frame))?, frame)?;
        }
        Ok(())
    }

    /// Notes that `holder` was handed the run at `frame`.
    ///
    /// # Errors
    ///
    /// [`Conflict`] where the allocator should not have done that.
    pub fn claim(&self, frame: PhysFrame, order: Order, holder: Holder) -> Result<(), Conflict> {
        self.each(frame, order, |word, frame| {
            // AcqRel: a claim that follows a release sees it; the words themselves carry all that
            // is judged here.
            let claimed =
                word.compare_exchange(Holder::NOBODY, holder.0, Ordering::AcqRel, Ordering::Acquire);
            match claimed.map_err(Holder::from_bits) {
                Err(Some(by)) => Err(Conflict::Held { frame, by }),
                Ok(_) | Err(None) => Ok(()),
            }
        })
    }

    /// Notes that `holder` is about to give the run back. To be called before the allocator is.
    ///
    /// # Errors
    ///
    /// [`Conflict`] where the account was overwritten: by a second claim.
    pub fn release(&self, frame: PhysFrame, order: Order, holder: Holder) -> Result<(), Conflict> {
        self.each(frame, order, |word, frame| {
            let found = word.swap(Holder::NOBODY, Ordering::AcqRel);
            if found == holder.0 {
                return Ok(());
            }
            Err(Conflict::NotHeld { frame, by: Holder::from_bits(found) })
        })
    }
}

#[cfg(test)]
mod tests {
    use topomem::PhysAddr;

    use super::*;

    fn frame(number: u64) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new(number * 4096))
    }

    fn holder(cpu: usize, order: u8) -> (Order, Holder) {
        let order = Order::new(order).unwrap();
        (order, Holder::new(CpuId::new(cpu).unwrap(), order, 5))
    }

    #[test]
    fn a_second_claim_names_the_first_holder() {
        let table = Ownership::new([(256, 16), (1024, 8)].into_iter()).unwrap();
        let (pair, first) = holder(0, 1);
        let (single, second) = holder(3, 0);
        assert_eq!(table.claim(frame(258), pair, first), Ok(()));
        let held = Conflict::Held { frame: frame(259), by: first };
        assert_eq!(table.claim(frame(259), single, second), Err(held));
        assert_eq!(table.release(frame(258), pair, first), Ok(()));
        assert_eq!(table.claim(frame(259), single, second), Ok(()));
        assert_eq!((second.cpu(), first.order()), (3, 1));
    }

    #[test]
    fn frames_outside_of_memory_are_named() {
        let table = Ownership::new([(256, 16)].into_iter()).unwrap();
        let (order, holder) = holder(0, 2);
        let outside = Conflict::NoSuchFrame(frame(272));
        assert_eq!(table.claim(frame(270), order, holder), Err(outside));
    }

    #[test]
    fn a_release_needs_its_claim() {
        let table = Ownership::new([(0, 4)].into_iter()).unwrap();
        let (order, holder) = holder(0, 0);
        let nobody = Conflict::NotHeld { frame: frame(1), by: None };
        assert_eq!(table.release(frame(1), order, holder), Err(nobody));
    }
}
