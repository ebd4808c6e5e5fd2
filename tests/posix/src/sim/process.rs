//! A process of the simulated machine: its calls and its accesses.

mod mapping;

use std::ops::Range;

use topomem::object::{Residency, SharedWrites};
use topomem::region::{
    Advice as Advised, FaultAccess, FaultError, MadviseError, MprotectError, MremapError, MunmapError,
    ObjectPart, PageFault, Relocation, Sharing as Shared,
};
use topomem::sim::{Access as Accessed, Privilege, Sim, SimService};
use topomem::{Access as Permitted, AddressSpace, CpuPin, VirtAddr};

use super::files::Files;
use crate::compare::answer::{Errno, Fault, Listed, Rest, Shows, View};
use crate::compare::system::Process;
use crate::log::operation::{Access, Advice, Call, OFFSETS, PAGE, Protection, RemapFlags, SyncFlags, Vector};
use crate::log::slots::{Slots, TOP};

type Space = AddressSpace<&'static Sim>;

/// A process, as the CPU that runs it.
pub(super) struct SimProcess<'a> {
    pub(super) sim: &'static Sim,
    pub(super) service: &'static SimService,
    pub(super) pin: &'a CpuPin,
    pub(super) space: &'a Space,
    pub(super) files: &'a Files,
}

pub(super) fn address(address: u64) -> Result<VirtAddr, Errno> {
    VirtAddr::new(address).map_err(|_| Errno::ENOMEM)
}

/// Returns the end of a range, if it is a number.
fn end_of(at: u64, length: u64) -> Option<u64> {
    at.checked_add(length.checked_next_multiple_of(PAGE)?)
}

/// Returns the access that a protection is. Write-only and execute-only mappings do not exist.
fn access_of(protection: Protection) -> Result<Permitted, Errno> {
    match protection {
        Protection::NONE => Ok(Permitted::NONE),
        Protection::READ => Ok(Permitted::READ),
        Protection::READ_WRITE => Ok(Permitted::WRITE),
        Protection(5) => Ok(Permitted::EXECUTE),
        _ => Err(Errno::EINVAL),
    }
}

impl SimProcess<'_> {
    /// Calls `each` with what each mapped part of a range shows, and how many bytes the part has, up to its first
    /// error.
    fn for_each_part(
        &self,
        at: u64,
        length: u64,
        mut each: impl FnMut(Option<&ObjectPart<&'static Sim>>, u64) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let end = end_of(at, length).ok_or(Errno::ENOMEM)?;
        let (mut from, mut has_hole) = (at, false);
        while from < end {
            let region = self.space.next_region(self.pin, address(from)?);
            let Some(region) = region.filter(|region| region.start().as_u64() < end) else {
                return Err(Errno::ENOMEM);
            };
            let (start, stop) = (region.start().as_u64(), region.end().as_u64().min(end));
            has_hole |= start > from;
            each(self.space.object_at(self.pin, region.start()).as_ref(), stop - start)?;
            from = stop;
        }
        if has_hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn sync(&self, at: u64, length: u64, flags: SyncFlags) -> Result<u64, Errno> {
        if !at.is_multiple_of(PAGE) || flags.asynchronous && flags.synchronous {
            return Err(Errno::EINVAL);
        }
        self.for_each_part(at, length, |part, bytes| match part {
            Some(part) if part.sharing == Shared::Shared => {
                self.files.wait(part.object.sync(part.offset..part.offset + bytes)).map_err(|_| Errno::ENOMEM)
            }
            _ => Ok(()),
        })?;
        Ok(0)
    }

    fn resident(&self, at: u64, length: u64, vector: Vector) -> Result<u64, Errno> {
        if !at.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let end = end_of(at, length).filter(|&end| end <= TOP).ok_or(Errno::ENOMEM)?;
        let mut pages = vec![Residency::Absent; ((end - at) / PAGE) as usize];
        let known = match self.space.residency(self.pin, address(at)?, &mut pages) {
            Ok(()) => end,
            Err(hole) => hole.as_u64(),
        };
        if vector == Vector::Bad && known > at {
            return Err(Errno::EFAULT);
        }
        if known == end { Ok(0) } else { Err(Errno::ENOMEM) }
    }

    /// Takes pages out of their objects.
    fn remove(&self, at: u64, length: u64) -> Result<u64, Errno> {
        if !at.is_multiple_of(PAGE) || end_of(at, length).is_none() {
            return Err(Errno::EINVAL);
        }
        self.for_each_part(at, length, |part, bytes| {
            let part = part.ok_or(Errno::EINVAL)?;
            if part.sharing == Shared::Private || part.writes == SharedWrites::Denied {
                return Err(Errno::EACCES);
            }
            let removed = self.files.wait(part.object.punch_hole(part.offset..part.offset + bytes));
            removed.map_err(|_| Errno::ENOMEM)
        })?;
        Ok(0)
    }

    fn protect(&self, at: u64, length: u64, protection: Protection) -> Result<u64, Errno> {
        if length != 0 && end_of(at, length).is_none() {
            return Err(if at.is_multiple_of(PAGE) { Errno::ENOMEM } else { Errno::EINVAL });
        }
        // What lies above the top is a hole; what lies below changes nevertheless.
        let below = length.min(TOP.saturating_sub(at));
        match self.space.mprotect(self.pin, address(at)?, below, access_of(protection)?) {
            Ok(unmapping) => unmapping.wait(self.pin),
            Err(MprotectError::Misaligned(_)) => return Err(Errno::EINVAL),
            Err(MprotectError::Denied(_)) => return Err(Errno::EACCES),
            Err(_) => return Err(Errno::ENOMEM),
        }
        if below == length { Ok(0) } else { Err(Errno::ENOMEM) }
    }

    fn advise(&self, at: u64, length: u64, advice: Advice) -> Result<u64, Errno> {
        if matches!(advice, Advice::Free | Advice::WipeOnFork) && at.is_multiple_of(PAGE) {
            let checked = self.for_each_part(at, length, |part, _| match part {
                Some(_) => Err(Errno::EINVAL),
                None => Ok(()),
            });
            // Holes are found below.
            if checked == Err(Errno::EINVAL) {
                return checked.map(|()| 0);
            }
        }
        let advice = match advice {
            Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => Advised::DontNeed,
            Advice::DontFork => Advised::DontFork,
            Advice::DoFork | Advice::KeepOnFork => Advised::DoFork,
            Advice::WipeOnFork => Advised::WipeOnFork,
            Advice::HugePage | Advice::NoHugePage => Advised::Normal,
            Advice::PopulateRead => Advised::PopulateRead,
            Advice::PopulateWrite => Advised::PopulateWrite,
            Advice::GuardInstall => Advised::GuardInstall,
            Advice::GuardRemove => Advised::GuardRemove,
            Advice::Remove => return self.remove(at, length),
            Advice::Unknown => return Err(Errno::EINVAL),
        };
        if end_of(at, length).is_none() {
            return Err(Errno::EINVAL);
        }
        let advised = loop {
            match self.space.madvise(self.pin, address(at)?, length, advice) {
                Err(MadviseError::NotInMemory(page)) => {
                    let access =
                        if advice == Advised::PopulateWrite { Access::Write(0) } else { Access::Read };
                    self.fault_in(page.as_u64(), access).map_err(|_| Errno::EFAULT)?;
                }
                advised => break advised,
            }
        };
        match advised {
            Ok(unmapping) => unmapping.wait(self.pin),
            Err(MadviseError::Misaligned(_) | MadviseError::Denied(_)) => return Err(Errno::EINVAL),
            Err(MadviseError::Guarded(_)) => return Err(Errno::EFAULT),
            Err(_) => return Err(Errno::ENOMEM),
        }
        Ok(0)
    }

    fn remap(&self, at: u64, old: u64, new: u64, flags: RemapFlags, to: Option<u64>) -> Result<u64, Errno> {
        if flags.unknown || new > TOP || to.is_some() && !flags.may_move {
            return Err(Errno::EINVAL);
        }
        let wrong = |_| Errno::EINVAL;
        let moved = |moved: Result<VirtAddr, MremapError>| match moved {
            Ok(start) => Ok(start.as_u64()),
            Err(MremapError::Misaligned(_) | MremapError::Empty | MremapError::Overlap) => Err(Errno::EINVAL),
            Err(MremapError::NoRegion(_)) => Err(Errno::EFAULT),
            Err(_) => Err(Errno::ENOMEM),
        };
        if flags.keep_source {
            let rounded = |length: u64| length.checked_next_multiple_of(PAGE).unwrap_or(0);
            if !flags.may_move || rounded(old) != rounded(new) || rounded(new) == 0 {
                return Err(Errno::EINVAL);
            }
            let to = to.map(address).transpose().map_err(wrong)?;
            return moved(self.space.move_contents(self.pin, address(at).map_err(wrong)?, old, to));
        }
        let relocation = match to {
            Some(to) => Relocation::Fixed(address(to).map_err(wrong)?),
            None if flags.may_move => Relocation::MayMove,
            None => Relocation::InPlace,
        };
        moved(self.space.mremap(self.pin, address(at).map_err(wrong)?, old, new, relocation))
    }

    /// Makes an access possible, or says why it is not. The word must be aligned.
    fn fault_in(&self, word: u64, access: Access) -> Result<VirtAddr, Fault> {
        let word = address(word).map_err(|_| Fault::Unmapped)?;
        let (accessed, tried) = match access {
            Access::Read => (Accessed::Read, FaultAccess::Read),
            Access::Write(_) => (Accessed::Write, FaultAccess::Write),
            Access::Execute => (Accessed::Execute, FaultAccess::Execute),
        };
        while self.sim.probe(word, accessed, Privilege::User).is_err() {
            match self.space.on_page_fault(self.pin, PageFault::new(word, tried)) {
                Ok(_) => {}
                Err(FaultError::NotMapped | FaultError::Guarded) => return Err(Fault::Unmapped),
                Err(FaultError::Denied) => return Err(Fault::Denied),
                Err(FaultError::BeyondEnd) => return Err(Fault::BeyondEnd),
                Err(FaultError::Waits(page)) => {
                    self.files.wait(page).map_err(|_| Fault::Other { signal: 7, code: 0 })?;
                }
                // SIGKILL: memory has run out.
                Err(_) => return Err(Fault::Other { signal: 9, code: 0 }),
            }
        }
        Ok(word)
    }

    fn load(&self, word: u64) -> Result<[u8; 8], Fault> {
        let word = self.fault_in(word, Access::Read)?;
        let value = self.sim.load(word).map_err(|_| Fault::Other { signal: 0, code: 0 })?;
        Ok(value.to_le_bytes())
    }
}

impl Process for SimProcess<'_> {
    fn call(&mut self, call: &Call<u64>, slots: &Slots) -> Result<u64, Errno> {
        match *call {
            Call::Map(ref map) => self.map(map),
            Call::Unmap { at, length } => {
                match self.space.munmap(self.pin, address(at).map_err(|_| Errno::EINVAL)?, length) {
                    Ok(unmapping) => unmapping.wait(self.pin),
                    Err(MunmapError::OutOfFrames(_)) => return Err(Errno::ENOMEM),
                    Err(_) => return Err(Errno::EINVAL),
                }
                Ok(0)
            }
            Call::Protect { at, length, protection } => self.protect(at, length, protection),
            Call::Advise { at, length, advice } => self.advise(at, length, advice),
            Call::Remap { at, old, new, flags, to, .. } => self.remap(at, old, new, flags, to),
            Call::Break(to) => {
                let to = address(slots.break_address(to)).or_else(|_| address(0))?;
                Ok(self.space.brk(self.pin, to).as_u64() - slots.layout.heap)
            }
            Call::Sync { at, length, flags } => self.sync(at, length, flags),
            Call::Resident { at, length, vector } => self.resident(at, length, vector),
            Call::WriteFile { file, position, value } => self.files.write(self.pin, file, position, value),
            Call::ReadFile { file, position } => self.files.read(file, position),
            Call::Truncate { file, length } => self.files.truncate(self.pin, file, length),
            Call::Lock { .. } | Call::Unlock { .. } => Err(Errno::ENOSYS),
        }
    }

    fn touch(&mut self, address: u64, access: Access) -> Result<u8, Fault> {
        let (word, byte) = (address & !7, (address & 7) as usize);
        match access {
            Access::Read => Ok(self.load(word)?[byte]),
            Access::Execute => self.fault_in(word, access).map(|_| 0),
            Access::Write(value) => {
                let at = self.fault_in(word, access)?;
                let mut bytes = self.load(word)?;
                bytes[byte] = value;
                self.sim
                    .store(at, u64::from_le_bytes(bytes))
                    .map_err(|_| Fault::Other { signal: 0, code: 0 })?;
                Ok(0)
            }
        }
    }

    fn look(&mut self, page: u64) -> Result<View, Fault> {
        let mut samples = [0; OFFSETS.len()];
        let mut rest = Rest::Zero;
        // A word of each cache line, and those with samples: a page has many words, and each is an access of
        // a simulated CPU.
        let words = (0..PAGE)
            .step_by(8)
            .filter(|word| word.is_multiple_of(64) || OFFSETS.iter().any(|offset| offset & !7 == *word));
        for offset in words {
            for (index, byte) in self.load(page + offset)?.into_iter().enumerate() {
                match OFFSETS.iter().position(|&sample| sample == offset + index as u64) {
                    Some(sample) => samples[sample] = byte,
                    None if byte != 0 => rest = Rest::Dirty,
                    None => {}
                }
            }
        }
        Ok(View { samples, rest })
    }

    fn list(&mut self, within: Range<u64>, report: &mut dyn FnMut(Listed)) {
        let mut from = within.start;
        while let Ok(at) = address(from)
            && let Some(range) = self.space.next_region(self.pin, at)
        {
            let (start, end) = (range.start().as_u64(), range.end().as_u64().min(within.end));
            if start >= end {
                break;
            }
            let access = range.region().access();
            let bit = |set: bool, bit: Protection| if set { bit.0 } else { 0 };
            let protection = bit(access.reads(), Protection::READ)
                | bit(access.writes(), Protection::WRITE)
                | bit(access.executes(), Protection::EXECUTE);
            let protection = Protection(protection);
            let shows = match range.object() {
                None => Shows::Nothing,
                Some(shown) => self.files.shows(shown.id, shown.offset),
            };
            let shared = range.region().sharing() == Shared::Shared;
            report(Listed { start, end, protection, shared, shows });
            from = end;
        }
    }
}
