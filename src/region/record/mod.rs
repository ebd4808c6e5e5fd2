//! What regions have beside what their ids say: records, by number.

mod assign;
mod copy;
mod held;
mod name;
mod slot;
mod table;

use topomem_numa::frames::Policy;

pub use assign::AssignError;
pub(crate) use held::HeldPages;
pub use name::{NameError, RegionName};
pub(crate) use table::{InternError, Records};

/// What the pages of a region have in common beside their access and kind. Plain anonymous memory has
/// nothing of it, and no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// From which nodes frames come; `None`: as the space says.
    pub policy: Option<Policy>,
    /// What people call the region.
    pub name: Option<RegionName>,
}

impl Record {
    /// The record of plain anonymous memory.
    pub const PLAIN: Record = Record { policy: None, name: None };

    /// Returns whether it says no more than [`Record::PLAIN`], which needs no number.
    pub fn is_plain(&self) -> bool {
        *self == Record::PLAIN
    }

    /// Returns a number that equal records have in common, of which the low bits are spread evenly.
    fn hash(&self) -> u32 {
        // FNV-1a, by words.
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        match self.policy {
            None => hash.add(0),
            Some(Policy::Local) => hash.add(1),
            Some(Policy::Bind(nodes)) => hash.add_nodes(2, nodes),
            Some(Policy::Preferred(node)) => hash.add(3 + ((node.index() as u64) << 8)),
            Some(Policy::Interleave(nodes)) => hash.add_nodes(4, nodes),
            Some(Policy::WeightedInterleave(nodes)) => hash.add_nodes(5, nodes),
        }
        if let Some(name) = &self.name {
            name.as_str().bytes().for_each(|byte| hash.add(byte.into()));
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

    fn add_nodes(&mut self, kind: u64, nodes: topomem_numa::frames::NodeSet) {
        self.add(kind);
        nodes.iter().for_each(|node| self.add(node.index() as u64));
    }
}

#[cfg(test)]
#[cfg(all(feature = "sim", not(any(loom, miri))))]
mod tests;
