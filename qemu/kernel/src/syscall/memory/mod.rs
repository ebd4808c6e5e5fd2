//! Memory.

pub(super) mod locks;
pub(super) mod map;
pub(super) mod placement;
pub(super) mod residence;

use linux_raw_sys::general::{
    MADV_COLD, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED, MADV_DONTNEED_LOCKED,
    MADV_FREE, MADV_HUGEPAGE, MADV_KEEPONFORK, MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT,
    MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_RANDOM, MADV_REMOVE, MADV_SEQUENTIAL, MADV_WILLNEED,
    MADV_WIPEONFORK, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_EXEC, PROT_READ, PROT_WRITE,
};
use topomem::Access;
use topomem::region::{Advice, HugePages, Relocation};
use topomem_exec::PAGE;

use super::{Answer, Errno};
use crate::arch::user::USER_END;
use crate::process::{Announced, Memory, Task, fixed};

/// What `prctl` does here.
const PR_SET_THP_DISABLE: u32 = 41;
const PR_GET_THP_DISABLE: u32 = 42;

/// `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE`.
const GUARD_INSTALL: u32 = 102;
const GUARD_REMOVE: u32 = 103;

/// What a change of mappings comes to.
pub(super) type Change<'m> = Result<Announced<'m>, Errno>;

/// What the `PROT_…` in `bits` permit.
pub(super) fn access(bits: u64) -> Result<Access, Errno> {
    let bits = u32::try_from(bits).map_err(|_| Errno::INVALID)?;
    if bits & !(PROT_READ | PROT_WRITE | PROT_EXEC) != 0 {
        return Err(Errno::INVALID);
    }
    match (bits & PROT_WRITE != 0, bits & PROT_EXEC != 0) {
        (true, true) => Err(Errno::ACCESS),
        (true, false) => Ok(Access::WRITE),
        (false, true) => Ok(Access::EXECUTE),
        (false, false) if bits == 0 => Ok(Access::NONE),
        (false, false) => Ok(Access::READ),
    }
}

pub(super) fn protect(memory: &Memory, at: u64, bytes: u64, bits: u64) -> Change<'_> {
    memory.protect(at, bytes, access(bits)?)
}

pub(super) fn unmap(memory: &Memory, at: u64, bytes: u64) -> Change<'_> {
    memory.unmap(at, bytes)
}

pub(super) fn relocate(task: &Task, [at, old, new, flags, to]: [u64; 5]) -> Answer {
    let flags = u32::try_from(flags).map_err(|_| Errno::INVALID)?;
    // A length that is too much is found before what is mapped is looked at.
    if new.checked_next_multiple_of(PAGE).is_none_or(|new| new == 0 || new > USER_END) {
        return Err(Errno::INVALID);
    }
    let to = if flags & MREMAP_FIXED != 0 { Some(fixed(to).map_err(|_| Errno::INVALID)?) } else { None };
    if flags & MREMAP_DONTUNMAP != 0 {
        let is_plain = flags & !MREMAP_FIXED == MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
        if !is_plain || old.div_ceil(PAGE) != new.div_ceil(PAGE) {
            return Err(Errno::INVALID);
        }
        return task.memory().move_contents(at, old, to);
    }
    let relocation = match flags {
        0 => Relocation::InPlace,
        MREMAP_MAYMOVE => Relocation::MayMove,
        _ if flags == MREMAP_MAYMOVE | MREMAP_FIXED => Relocation::Fixed(to.ok_or(Errno::INVALID)?),
        _ => return Err(Errno::INVALID),
    };
    task.memory().relocate(at, old, new, relocation)
}

/// `madvise` with `MADV_COLLAPSE`.
pub(super) fn collapse(memory: &Memory, at: u64, bytes: u64) -> Answer {
    memory.collapse(at, bytes)?;
    Ok(0)
}

pub(super) fn advise(memory: &Memory, at: u64, bytes: u64, advice: u64) -> Change<'_> {
    let advice = match advice as u32 {
        MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_WILLNEED | MADV_COLD | MADV_PAGEOUT
        | MADV_DONTDUMP | MADV_DODUMP => Advice::Normal,
        MADV_HUGEPAGE => Advice::Huge,
        MADV_NOHUGEPAGE => Advice::NoHuge,
        // Nothing leaves memory by itself, so that no page has to be locked there.
        MADV_DONTNEED | MADV_DONTNEED_LOCKED => Advice::DontNeed,
        MADV_FREE | MADV_WIPEONFORK => {
            memory.check_without_object(at, bytes)?;
            if advice as u32 == MADV_FREE { Advice::DontNeed } else { Advice::WipeOnFork }
        }
        MADV_DONTFORK => Advice::DontFork,
        MADV_DOFORK | MADV_KEEPONFORK => Advice::DoFork,
        GUARD_INSTALL => Advice::GuardInstall,
        GUARD_REMOVE => Advice::GuardRemove,
        _ => return Err(Errno::INVALID),
    };
    memory.advise(at, bytes, advice)
}

/// Tells whether an advice may have to wait for a pager: [`advise_and_wait`] follows it.
pub(super) fn may_wait(advice: u64) -> bool {
    matches!(advice as u32, MADV_REMOVE | MADV_POPULATE_READ | MADV_POPULATE_WRITE)
}

pub(super) async fn advise_and_wait(task: &Task, at: u64, bytes: u64, advice: u64) -> Answer {
    let memory = task.memory();
    match advice as u32 {
        MADV_REMOVE => memory.remove(at, bytes).await?,
        MADV_POPULATE_READ => memory.populate(at, bytes, Advice::PopulateRead).await?,
        MADV_POPULATE_WRITE => memory.populate(at, bytes, Advice::PopulateWrite).await?,
        _ => return Err(Errno::INVALID),
    }
    Ok(0)
}

/// `prctl`: whether a program's memory may get pages of 2 MiB without asking.
pub(super) fn settings(task: &Task, what: u64, value: u64) -> Answer {
    let memory = task.memory();
    match what as u32 {
        PR_SET_THP_DISABLE => {
            memory.set_huge_pages(if value == 0 { HugePages::Advised } else { HugePages::Never });
            Ok(0)
        }
        PR_GET_THP_DISABLE => Ok(u64::from(memory.huge_pages() == HugePages::Never)),
        _ => Err(Errno::INVALID),
    }
}
