//! The interrupt command register: who is sent what.
//!
//! An APIC id is 32 bits wide, but a message in xAPIC mode has eight for it, of which 255 means
//! everybody. An id that does not fit must not be cut: it would name another CPU. So the word is made
//! from an [`ApicAddress`], which exists only for ids that the mode can name.

use core::fmt;

use topomem::PhysAddr;

/// How the local APICs are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicMode {
    /// By a page of registers; ids of 8 bits.
    XApic,
    /// By model-specific registers; ids of 32 bits.
    X2Apic,
}

impl ApicMode {
    /// Returns the address of the CPU with the APIC id `id`.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] if no message of this mode can name that CPU alone: ids above 254 in xAPIC
    /// mode, `0xffff_ffff` in x2APIC mode (SDM volume 3, 11.6.2.1 and 11.12.10).
    pub const fn address(self, id: u32) -> Result<ApicAddress, Unreachable> {
        let everybody = match self {
            ApicMode::XApic => 0xff,
            ApicMode::X2Apic => u32::MAX,
        };
        if id < everybody { Ok(ApicAddress(id)) } else { Err(Unreachable { id, mode: self }) }
    }

    /// Returns the name of the mode, as the kernel's records have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ApicMode::XApic => "xapic",
            ApicMode::X2Apic => "x2apic",
        }
    }

    /// Where a destination begins in the register.
    const fn destination_shift(self) -> u32 {
        match self {
            ApicMode::XApic => 56,
            ApicMode::X2Apic => 32,
        }
    }
}

/// The APIC id of a CPU that messages can name, in the mode that it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApicAddress(u32);

impl ApicAddress {
    /// APIC id 0, which every mode can name.
    pub const ZERO: ApicAddress = ApicAddress(0);

    /// Returns the APIC id.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0
    }
}

/// A CPU that cannot be sent anything, because of its APIC id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreachable {
    /// The id.
    pub id: u32,
    /// The mode whose messages cannot name it.
    pub mode: ApicMode,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mode, last) = match self.mode {
            ApicMode::XApic => ("xAPIC", 0xfe),
            ApicMode::X2Apic => ("x2APIC", u32::MAX - 1),
        };
        write!(f, "APIC id {}: {mode} messages reach ids up to {last}", self.id)
    }
}

/// CPUs that one message reaches: the destination byte of xAPIC logical mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalId(pub u8);

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// One CPU.
    Physical(ApicAddress),
    /// Some CPUs, in xAPIC mode.
    Logical(LogicalId),
    /// All CPUs but the sender.
    Others,
}

/// The page below 1 MiB at which a start-up message makes a CPU run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartUpPage(u8);

impl StartUpPage {
    /// The page at `addr`. `None` if that is no page below 1 MiB.
    #[must_use]
    pub const fn at(addr: PhysAddr) -> Option<StartUpPage> {
        let addr = addr.as_u64();
        if addr < 1 << 20 && addr & 0xfff == 0 { Some(StartUpPage((addr >> 12) as u8)) } else { None }
    }

    /// Returns where the page is.
    #[must_use]
    pub const fn addr(self) -> PhysAddr {
        PhysAddr::new((self.0 as u64) << 12)
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// An interrupt with this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the target waits for a start-up message.
    Init,
    /// Start-up: the target runs at this page in real mode.
    StartUp(StartUpPage),
}

const NMI: u64 = 4 << 8;
const INIT: u64 = 5 << 8;
const START_UP: u64 = 6 << 8;
const LOGICAL: u64 = 1 << 11;
const ASSERT: u64 = 1 << 14;
const ALL_BUT_SELF: u64 = 3 << 18;

/// A word of the interrupt command register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icr(u64);

impl Icr {
    /// The word that sends `message` to `to` in `mode`.
    #[inline]
    #[must_use]
    pub const fn new(mode: ApicMode, message: Message, to: Destination) -> Icr {
        let what = match message {
            Message::Fixed(vector) => vector as u64,
            Message::Nmi => NMI,
            Message::Init => INIT,
            Message::StartUp(page) => START_UP | page.0 as u64,
        };
        let whom = match to {
            Destination::Physical(ApicAddress(id)) => (id as u64) << mode.destination_shift(),
            Destination::Logical(LogicalId(set)) => LOGICAL | (set as u64) << mode.destination_shift(),
            Destination::Others => ALL_BUT_SELF,
        };
        Icr(what | whom | ASSERT)
    }

    /// Returns the word as it is written in x2APIC mode.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the register at offset 0x310, which is written first in xAPIC mode.
    #[inline]
    #[must_use]
    pub const fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the register at offset 0x300, whose write sends in xAPIC mode.
    #[inline]
    #[must_use]
    pub const fn low(self) -> u32 {
        self.0 as u32
    }

    /// Writes the word in x2APIC mode.
    ///
    /// A WRMSR to an x2APIC register is not ordered after earlier loads and stores: the target could
    /// get the interrupt before it sees what the interrupt is about. MFENCE waits for the stores, and
    /// LFENCE keeps the WRMSR from starting before (SDM volume 3, 11.12.3). The three instructions
    /// are one block, so that nothing comes in between.
    ///
    /// # Safety
    ///
    /// The executing CPU is in kernel mode, its local APIC in x2APIC mode, and each target can take the
    /// message.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub unsafe fn write_msr(self) {
        const ICR: u32 = 0x830;
        // SAFETY: the caller's promise. As no memory is declared untouched, the compiler moves no
        // store across.
        unsafe {
            core::arch::asm!(
                "mfence",
                "lfence",
                "wrmsr",
                in("ecx") ICR,
                in("eax") self.low(),
                in("edx") self.high(),
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(mode: ApicMode, id: u32) -> Destination {
        Destination::Physical(mode.address(id).unwrap())
    }

    #[test]
    fn an_id_that_does_not_fit_is_refused_and_never_cut() {
        for id in [255, 256, 257, 0x1_0000, u32::MAX] {
            assert_eq!(ApicMode::XApic.address(id), Err(Unreachable { id, mode: ApicMode::XApic }));
        }
        for id in [0, 1, 254] {
            assert_eq!(ApicMode::XApic.address(id).map(ApicAddress::id), Ok(id));
        }
        for id in [0, 254, 255, 256, u32::MAX - 1] {
            assert_eq!(ApicMode::X2Apic.address(id).map(ApicAddress::id), Ok(id));
        }
        assert!(ApicMode::X2Apic.address(u32::MAX).is_err());
    }

    #[test]
    fn the_word_names_whom_it_is_for() {
        let fixed = |mode, id| Icr::new(mode, Message::Fixed(0xf1), address(mode, id));
        assert_eq!(fixed(ApicMode::XApic, 0xab).bits(), 0xab00_0000_0000_40f1);
        assert_eq!(fixed(ApicMode::XApic, 0xab).high(), 0xab00_0000);
        assert_eq!(fixed(ApicMode::XApic, 0xab).low(), 0x40f1);
        assert_eq!(fixed(ApicMode::X2Apic, 0x1_00ab).bits(), 0x0001_00ab_0000_40f1);
        let others = Icr::new(ApicMode::XApic, Message::Nmi, Destination::Others);
        assert_eq!(others.bits(), 0xc_4400);
        let some = Icr::new(ApicMode::XApic, Message::Fixed(0x20), Destination::Logical(LogicalId(0x13)));
        assert_eq!(some.bits(), 0x1300_0000_0000_4820);
        let page = StartUpPage::at(PhysAddr::new(0x9_f000)).unwrap();
        let start = Icr::new(ApicMode::XApic, Message::StartUp(page), address(ApicMode::XApic, 2));
        assert_eq!(start.bits(), 0x0200_0000_0000_469f);
        let init = Icr::new(ApicMode::X2Apic, Message::Init, address(ApicMode::X2Apic, 2));
        assert_eq!(init.bits(), 0x0000_0002_0000_4500);
    }

    #[test]
    fn start_up_pages_are_whole_pages_below_a_mebibyte() {
        assert_eq!(
            StartUpPage::at(PhysAddr::new(0x8000)).map(StartUpPage::addr),
            Some(PhysAddr::new(0x8000))
        );
        for wrong in [0x8001, 0x10_0000, 0x10_8000] {
            assert_eq!(StartUpPage::at(PhysAddr::new(wrong)), None);
        }
    }

    /// The code is read, not run: only a kernel may execute it.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn both_fences_come_right_before_the_wrmsr() {
        const FENCES_AND_WRMSR: [u8; 8] = [0x0f, 0xae, 0xf0, 0x0f, 0xae, 0xe8, 0x0f, 0x30];
        let code = Icr::write_msr as unsafe fn(Icr) as *const u8;
        // SAFETY: the program's text is readable, and goes on behind this function.
        let code = unsafe { core::slice::from_raw_parts(code, 128) };
        assert!(code.windows(8).any(|bytes| bytes == FENCES_AND_WRMSR), "{code:02x?}");
    }
}
