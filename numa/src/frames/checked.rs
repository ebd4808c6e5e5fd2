//! The usual paths of single frames in paranoid mode: like a magazine hit, and the frame's mark.

use topomem_percpu::{CpuPin, Platform};
use x86_64::structures::paging::PhysFrame;

use super::entry::Give;
use super::machine::Machine;
use super::magazine::{Checked, Magazine};
use super::{Frames, Zeroing};

impl<P: Platform> Frames<P> {
    /// In paranoid mode, a frame of the CPU's current word.
    pub(super) fn take_checked(&self, pin: &CpuPin) -> Option<PhysFrame> {
        let machine = self.machine()?;
        if machine.checked == Checked::No {
            return None;
        }
        let entered = self.rack.get(pin.cpu()).and_then(Magazine::enter)?;
        // A drain that was asked for is answered off this path.
        if entered.wants_attention() { None } else { entered.take_checked() }
    }

    /// In paranoid mode, takes back a frame of the CPU's current word; false where it is not, or
    /// is to be cleared first, or refused.
    #[inline(never)]
    pub(super) fn give_checked(&self, machine: &Machine, pin: &CpuPin, frame: PhysFrame) -> bool {
        machine.zeroing == Zeroing::OnRequest
            && self.rack.get(pin.cpu()).and_then(Magazine::enter).is_some_and(|entered| {
                !entered.wants_attention() && entered.give_checked(frame) == Give::Taken
            })
    }
}
