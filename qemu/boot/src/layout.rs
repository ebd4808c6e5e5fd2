//! Where the kernel's half of the address space has what.
//!
//! | | 4 levels | 5 levels |
//! |---|---|---|
//! | direct map | `0xffff_8000_0000_0000`, 64 TiB | `0xffa0_0000_0000_0000`, 4 PiB |
//! | the service's window | `0xffff_c000_0000_0000` | `0xffc0_0000_0000_0000` |
//!
//! Device registers, stacks and the image lie in the last 3 TiB, whatever the number of levels.

use topomem::VirtAddr;
use topomem::shootdown::AddressWidth;

/// How many levels of page tables the CPU walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses.
    Five,
}

impl Levels {
    /// Returns the number of levels.
    #[must_use]
    pub const fn count(self) -> u8 {
        match self {
            Levels::Four => 4,
            Levels::Five => 5,
        }
    }

    /// Returns how many bits of an address are translated.
    #[must_use]
    pub const fn width(self) -> AddressWidth {
        match self {
            Levels::Four => AddressWidth::BITS_48,
            Levels::Five => AddressWidth::BITS_57,
        }
    }

    /// Returns whether the machine calls `addr` canonical. Other addresses have no translation, and
    /// some instructions fault on them: INVPCID, and every load and store.
    #[must_use]
    pub const fn is_canonical(self, addr: u64) -> bool {
        self.width().sign_extend(addr) == addr
    }

    /// Returns where the lower half ends, which is user programs'.
    #[must_use]
    pub const fn lower_half_end(self) -> u64 {
        match self {
            Levels::Four => 1 << 47,
            Levels::Five => 1 << 56,
        }
    }

    /// Returns where the direct map begins: the address of physical address 0.
    #[must_use]
    pub const fn direct_map(self) -> u64 {
        match self {
            Levels::Four => 0xffff_8000_0000_0000,
            Levels::Five => 0xffa0_0000_0000_0000,
        }
    }

    /// Returns the physical address at which the direct map ends, in bytes: a power of two.
    #[must_use]
    pub const fn direct_map_reach(self) -> u64 {
        match self {
            Levels::Four => 1 << 46,
            Levels::Five => 1 << 52,
        }
    }

    /// Returns where the part that the service maps begins: one entry of the root.
    #[must_use]
    pub const fn service_window(self) -> u64 {
        match self {
            Levels::Four => 0xffff_c000_0000_0000,
            Levels::Five => 0xffc0_0000_0000_0000,
        }
    }
}

/// The operand of INVPCID (type 0): what it is to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct InvpcidOperand {
    /// The ASID.
    pub pcid: u64,
    /// The page.
    pub address: u64,
}

impl InvpcidOperand {
    /// The operand that drops `page` of the ASID `pcid`. `None` if the address is not canonical with
    /// `levels`: the instruction would fault (SDM volume 2, INVPCID), and there is no translation to
    /// drop.
    #[must_use]
    pub const fn page(levels: Levels, pcid: u16, page: VirtAddr) -> Option<InvpcidOperand> {
        let address = page.as_u64();
        if levels.is_canonical(address) { Some(InvpcidOperand { pcid: pcid as u64, address }) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direct_map_reaches_no_other_part() {
        for levels in [Levels::Four, Levels::Five] {
            let (start, end) =
                (levels.direct_map(), levels.direct_map().checked_add(levels.direct_map_reach()).unwrap());
            assert!(levels.is_canonical(start) && levels.is_canonical(end - 1));
            assert!(end <= levels.service_window());
            // So that an address in it is an "or".
            assert_eq!(start & (levels.direct_map_reach() - 1), 0);
        }
        assert_eq!(Levels::Five.direct_map_reach(), 1 << 52, "all physical memory that there can be");
    }

    #[test]
    fn invpcid_is_given_canonical_addresses_only() {
        let page = |addr| VirtAddr::new(addr).unwrap();
        let beyond = page(1 << 47);
        assert_eq!(InvpcidOperand::page(Levels::Four, 3, beyond), None);
        assert_eq!(InvpcidOperand::page(Levels::Four, 3, page(0xff00_0000_0000_0000)), None);
        let operand = InvpcidOperand::page(Levels::Five, 3, beyond);
        assert_eq!(operand, Some(InvpcidOperand { pcid: 3, address: 1 << 47 }));
        for good in [0x7fff_ffff_f000, 0xffff_8000_0000_0000] {
            assert!(InvpcidOperand::page(Levels::Four, 3, page(good)).is_some());
        }
    }
}
