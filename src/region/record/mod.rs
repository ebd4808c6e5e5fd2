//! Records: attributes of regions beyond their ids, by number.

mod assign;
mod copy;
mod faults;
mod held;
mod index;
mod name;
mod slot;
mod table;

use topomem_numa::frames::Policy;

use crate::Machine;
use crate::object::Mapped;

pub use assign::AssignError;
pub(super) use faults::FaultClass;
pub(crate) use faults::FaultCounter;
pub use faults::{FaultCounting, FaultCounts};
pub(crate) use held::HeldPages;
pub use name::{NameError, RegionName};
pub(crate) use table::{InternError, Records};

/// The common attributes of a region's pages beyond their access and kind. Plain anonymous memory
/// has no record.
pub(crate) struct Record<P: Machine> {
    /// The part of an object shown by the pages; `None` for memory of their own.
    pub object: Option<Mapped<P>>,
    /// The policy of nodes; `None` for the space's.
    pub policy: Option<Policy>,
    /// The name of the region, for people.
    pub name: Option<RegionName>,
    /// The counter of the pages' faults; `None` to count for the space only.
    pub faults: Option<FaultCounter<P>>,
}

impl<P: Machine> Clone for Record<P> {
    fn clone(&self) -> Record<P> {
        let (object, faults) = (self.object.clone(), self.faults.clone());
        Record { object, policy: self.policy, name: self.name, faults }
    }
}

impl<P: Machine> PartialEq for Record<P> {
    fn eq(&self, other: &Record<P>) -> bool {
        self.object == other.object
            && self.policy == other.policy
            && self.name == other.name
            && self.faults == other.faults
    }
}

impl<P: Machine> Record<P> {
    /// The record of plain anonymous memory.
    pub(crate) const PLAIN: Record<P> = Record { object: None, policy: None, name: None, faults: None };

    /// Returns whether the record equals [`Record::PLAIN`], which needs no number.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Record::PLAIN
    }

    /// Returns a common number of equal records, with evenly spread low bits.
    fn hash(&self) -> u32 {
        // FNV-1a, by words.
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        match &self.policy {
            None => hash.add(0),
            Some(Policy::Local) => hash.add(1),
            Some(Policy::Bind(nodes)) => hash.add_nodes(2, nodes),
            Some(Policy::Preferred(node)) => hash.add(3 + ((node.index() as u64) << 8)),
            Some(Policy::Interleave(nodes)) => hash.add_nodes(4, nodes),
            Some(Policy::WeightedInterleave(nodes)) => hash.add_nodes(5, nodes),
        }
        if let Some(Mapped { object, back, claim, .. }) = &self.object {
            hash.add(object.id().get());
            hash.add(*back);
            hash.add(claim.bits().into());
        }
        if let Some(name) = &self.name {
            name.as_str().bytes().for_each(|byte| hash.add(byte.into()));
        }
        if let Some(faults) = &self.faults {
            hash.add(faults.hash());
        }
        (hash.0 >> 32) as u32
    }
}

struct Hash(u64);

impl Hash {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 ^= self.0 >> 29;
    }

    fn add_nodes(&mut self, kind: u64, nodes: &topomem_numa::frames::NodeSet) {
        self.add(kind);
        nodes.iter().for_each(|node| self.add(node.index() as u64));
    }
}

#[cfg(test)]
#[cfg(all(feature = "sim", not(any(loom, miri))))]
mod tests;
