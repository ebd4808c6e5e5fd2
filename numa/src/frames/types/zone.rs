//! Zones: bands of physical address reachable by devices with few address bits.

use core::fmt;

use topomem_percpu::PhysAddr;

use super::frame_number::FrameNumber;

/// A band of physical addresses, lowest first. Lower zones also serve a request for a zone.
///
/// ```
/// use topomem_numa::frames::Zone;
///
/// assert!(Zone::Dma < Zone::Dma32 && Zone::Dma32 < Zone::Normal);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Zone {
    /// The reach of ISA DMA: below 16 MiB by default.
    Dma,
    /// The reach of 32-bit devices: below 4 GiB by default.
    Dma32,
    /// All memory.
    Normal,
}

impl Zone {
    /// The number of zones.
    pub const COUNT: usize = 3;

    /// All zones, lowest first.
    pub const ALL: [Zone; Zone::COUNT] = [Zone::Dma, Zone::Dma32, Zone::Normal];

    /// Returns an index into per-zone arrays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::frames::Zone;
    /// assert!(Zone::ALL.iter().map(|zone| zone.index()).eq(0..Zone::COUNT));
    /// ```
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Zone::Dma => "DMA",
            Zone::Dma32 => "DMA32",
            Zone::Normal => "Normal",
        })
    }
}

/// The ends of the zones. Any address works, rounded down to 4 KiB; a limit of 0 leaves a zone out.
///
/// ```
/// use topomem_numa::frames::ZoneLimits;
///
/// assert_eq!(ZoneLimits::PC.dma_end.as_u64(), 16 << 20);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneLimits {
    /// The end of [`Zone::Dma`].
    pub dma_end: PhysAddr,
    /// The end of [`Zone::Dma32`].
    pub dma32_end: PhysAddr,
}

impl ZoneLimits {
    /// 16 MiB and 4 GiB, as PCs need.
    pub const PC: ZoneLimits =
        ZoneLimits { dma_end: PhysAddr::new(16 << 20), dma32_end: PhysAddr::new(4 << 30) };

    /// A 32-bit layout: DMA below 16 MiB, directly mapped memory below 896 MiB, and
    /// [`Zone::Normal`] in the role of HighMem.
    pub const HIGH_MEM: ZoneLimits =
        ZoneLimits { dma_end: PhysAddr::new(16 << 20), dma32_end: PhysAddr::new(896 << 20) };

    /// Returns the zone of the frame numbered `frame`, and the end of that zone.
    pub(in crate::frames) fn zone_of(&self, frame: FrameNumber) -> (Zone, FrameNumber) {
        let dma = FrameNumber::containing(self.dma_end);
        let dma32 = FrameNumber::containing(self.dma32_end).max(dma);
        if frame < dma {
            (Zone::Dma, dma)
        } else if frame < dma32 {
            (Zone::Dma32, dma32)
        } else {
            (Zone::Normal, FrameNumber::MAX)
        }
    }
}

impl Default for ZoneLimits {
    fn default() -> ZoneLimits {
        ZoneLimits::PC
    }
}

/// Numbers of free frames of one zone, magazines and the pool of zeroed frames left out, at which it is spared or
/// reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// Only [`FrameRequest::emergency`](crate::frames::FrameRequest::emergency) goes below: the reserve.
    pub min: u64,
    /// An allocation that leaves less notes that the node is under pressure
    /// ([`Frames::is_pressed`](crate::frames::Frames::is_pressed)).
    pub low: u64,
    /// [`Frames::reclaim`](crate::frames::Frames::reclaim) stops here.
    pub high: u64,
}

/// The pressure on a zone, by its [`Watermarks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// At or below `min`.
    Critical,
    /// Below `low`.
    Low,
    /// Below `high`.
    Moderate,
    /// At or above `high`.
    None,
}

impl Watermarks {
    /// No reserve, and no reclaim.
    pub const NONE: Watermarks = Watermarks { min: 0, low: 0, high: 0 };

    /// Returns the pressure on a zone with `free` free frames.
    ///
    /// ```
    /// use topomem_numa::frames::{Pressure, Watermarks};
    ///
    /// let marks = Watermarks { min: 10, low: 20, high: 30 };
    /// assert_eq!(marks.pressure(100), Watermarks::NONE.pressure(0));
    /// # let _: Pressure = marks.pressure(15);
    /// ```
    #[must_use]
    pub const fn pressure(&self, free: u64) -> Pressure {
        if self.min > 0 && free <= self.min {
            Pressure::Critical
        } else if free < self.low {
            Pressure::Low
        } else if free < self.high {
            Pressure::Moderate
        } else {
            Pressure::None
        }
    }
}
