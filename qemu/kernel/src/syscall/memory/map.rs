//! `mmap`.

use linux_raw_sys::general::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_LOCKED,
    MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE,
};
use topomem::object::{MemoryObject, SharedWrites};
use topomem::region::{Kind, MapRequest, Placement, Populate, Sharing};
use topomem::{Access, PageSize, VirtAddr};
use topomem_exec::PAGE;

use super::access;
use crate::arch::user::USER_END;
use crate::file::OpenFile;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;
use crate::process::{Task, fixed};
use crate::syscall::files::file;
use crate::syscall::{Answer, Errno};

/// The size of pages that `MAP_HUGETLB` in `flags` asks for: the logarithm stands in the highest bits.
fn page_size(flags: u32) -> Result<PageSize, Errno> {
    match flags >> MAP_HUGE_SHIFT {
        0 | 21 => Ok(PageSize::Size2MiB),
        30 => Ok(PageSize::Size1GiB),
        _ => Err(Errno::INVALID),
    }
}

/// Says where `size` bytes, whole pages, go by the address that a program names and its `flags`.
///
/// # Errors
///
/// [`Errno::NO_MEMORY`] beyond what programs have, [`Errno::INVALID`], [`Errno::EXISTS`].
fn place(task: &Task, at: u64, size: u64, flags: u32) -> Result<Placement, Errno> {
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) == 0 {
        let is_anywhere = at == 0 || at >= USER_END;
        return Ok(if is_anywhere {
            Placement::Anywhere
        } else {
            Placement::Hint(VirtAddr::new_truncate(at))
        });
    }
    if at > USER_END - size {
        return Err(Errno::NO_MEMORY);
    }
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::INVALID);
    }
    let start = fixed(at)?;
    match flags & MAP_FIXED_NOREPLACE {
        0 => Ok(Placement::Fixed(start)),
        // Before anything is found wrong with a file.
        _ if task.memory().is_taken(at..at + size) => Err(Errno::EXISTS),
        _ => Ok(Placement::FixedNoReplace(start)),
    }
}

/// Checks that `file` may be mapped so, from `offset` on. Returns what is mapped.
///
/// # Errors
///
/// [`Errno::ACCESS`], [`Errno::NOT_PERMITTED`] to execute a pipe, [`Errno::NO_DEVICE`] for what cannot be mapped,
/// [`Errno::INVALID`] for a stack.
fn mappable(
    file: &OpenFile,
    access: Access,
    sharing: Sharing,
    kind: Kind,
) -> Result<&MemoryObject<Kernel>, Errno> {
    let writes = access.writes() && sharing == Sharing::Shared;
    if !file.mode.reads() || writes && !file.mode.writes() {
        return Err(Errno::ACCESS);
    }
    if file.is_pipe() && access.executes() {
        return Err(Errno::NOT_PERMITTED);
    }
    let object = file.object().ok_or(Errno::NO_DEVICE)?;
    if kind == Kind::Stack { Err(Errno::INVALID) } else { Ok(object) }
}

/// `mmap`: of private memory, of memory that children share, or of a file. What is wrong is found in Linux's order.
pub(in crate::syscall) fn map(task: &Task, [at, bytes, bits, flags, descriptor, offset]: [u64; 6]) -> Answer {
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::INVALID);
    }
    let flags = flags as u32;
    let has = |flag: u32| flags & flag == flag;
    let file = if has(MAP_ANONYMOUS) { None } else { Some(file(task, descriptor)?) };
    let access = access(bits)?;
    if bytes == 0 {
        return Err(Errno::INVALID);
    }
    let size = bytes.checked_next_multiple_of(PAGE).filter(|&size| size <= USER_END);
    let size = size.ok_or(Errno::NO_MEMORY)?;
    let placement = place(task, at, size, flags)?;
    let is_file = file.as_ref().is_some_and(|file| file.object().is_some());
    if is_file && offset.checked_add(size).is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(Errno::OVERFLOW);
    }
    let sharing = match flags & MAP_TYPE {
        MAP_PRIVATE => Sharing::Private,
        MAP_SHARED | MAP_SHARED_VALIDATE => Sharing::Shared,
        _ => return Err(Errno::INVALID),
    };
    let kind = if has(MAP_GROWSDOWN) { Kind::Stack } else { Kind::Anonymous };
    let fills = has(MAP_POPULATE) || has(MAP_LOCKED) || task.memory().fills_new_mappings();
    let populate = if fills { Populate::Now } else { Populate::OnDemand };
    let request = match has(MAP_HUGETLB) {
        // No object has large pages.
        true if file.is_some() || sharing == Sharing::Shared => return Err(Errno::INVALID),
        true => MapRequest::huge(bytes, page_size(flags)?),
        false => MapRequest::anonymous(bytes).kind(kind),
    };
    let request = request.access(access).placed(placement).populate(populate);
    match (file, sharing) {
        (None, Sharing::Private) => task.memory().map(&request),
        (None, Sharing::Shared) if kind == Kind::Stack => Err(Errno::INVALID),
        (None, Sharing::Shared) => {
            let object = MemoryObject::anonymous(&SERVICE, &pin(), size).map_err(|_| Errno::NO_MEMORY)?;
            task.memory().map_object(&request, &object, 0, sharing, SharedWrites::Permitted)
        }
        (Some(file), sharing) => {
            let object = mappable(&file, access, sharing, kind)?;
            let may_write = if file.mode.writes() { SharedWrites::Permitted } else { SharedWrites::Denied };
            task.memory().map_object(&request, object, offset, sharing, may_write)
        }
    }
}
