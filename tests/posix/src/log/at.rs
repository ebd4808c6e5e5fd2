//! Addresses as a log names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The base of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A page of the window.
    Window(u32),
    /// A page above the heap's start.
    Heap(u32),
    /// A page of the mapping that the system put somewhere, by the slot that remembers it.
    Slot(u8, u32),
    /// An address that is the same on all systems, such as one above the top.
    Raw(u64),
}

/// An address: a place, and a distance in bytes that makes it unaligned.
///
/// Its text form is `w4` (page 4 of the window), `h2` (of the heap), `s3.1` (page 1 of slot 3's mapping)
/// or `0x1000`, followed by `+7` for 7 further bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct At {
    /// The page.
    pub place: Place,
    /// Bytes beyond it.
    pub byte: u16,
}

impl At {
    /// Names a page of the window.
    pub const fn window(page: u32) -> At {
        At { place: Place::Window(page), byte: 0 }
    }

    /// Names a page above the heap's start.
    pub const fn heap(page: u32) -> At {
        At { place: Place::Heap(page), byte: 0 }
    }

    /// Names a page of a slot's mapping.
    pub const fn slot(slot: u8, page: u32) -> At {
        At { place: Place::Slot(slot, page), byte: 0 }
    }

    /// Names an address that is the same on all systems.
    pub const fn raw(address: u64) -> At {
        At { place: Place::Raw(address), byte: 0 }
    }

    /// Names the address `byte` bytes further.
    #[must_use]
    pub const fn plus(self, byte: u16) -> At {
        At { place: self.place, byte }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Window(page) => write!(f, "w{page}")?,
            Place::Heap(page) => write!(f, "h{page}")?,
            Place::Slot(slot, page) => write!(f, "s{slot}.{page}")?,
            Place::Raw(address) => write!(f, "{address:#x}")?,
        }
        match self.byte {
            0 => Ok(()),
            byte => write!(f, "+{byte}"),
        }
    }
}

impl From<At> for String {
    fn from(at: At) -> String {
        at.to_string()
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<At, String> {
        let wrong = || format!("{text:?} is no address such as w4, h2, s3.1 or 0x1000");
        let (base, byte) = match text.split_once('+') {
            Some((base, byte)) => (base, byte.parse().map_err(|_| wrong())?),
            None => (text, 0),
        };
        let place = if let Some(page) = base.strip_prefix('w') {
            Place::Window(page.parse().map_err(|_| wrong())?)
        } else if let Some(page) = base.strip_prefix('h') {
            Place::Heap(page.parse().map_err(|_| wrong())?)
        } else if let Some((slot, page)) = base.strip_prefix('s').and_then(|rest| rest.split_once('.')) {
            Place::Slot(slot.parse().map_err(|_| wrong())?, page.parse().map_err(|_| wrong())?)
        } else {
            let digits = base.strip_prefix("0x").ok_or_else(wrong)?;
            Place::Raw(u64::from_str_radix(digits, 16).map_err(|_| wrong())?)
        };
        Ok(At { place, byte })
    }
}

impl TryFrom<String> for At {
    type Error = String;

    fn try_from(text: String) -> Result<At, String> {
        text.parse()
    }
}
