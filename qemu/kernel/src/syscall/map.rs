//! `mmap`.

use linux_raw_sys::general::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_LOCKED,
    MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE,
};
use topomem::object::{MemoryObject, SharedWrites};
use topomem::region::{Kind, MapRequest, Placement, Populate, Sharing};
use topomem::{PageSize, VirtAddr};
use topomem_exec::PAGE;

use super::files::file;
use super::memory::access;
use super::{Answer, Errno};
use crate::arch::user::USER_END;
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;
use crate::process::{Task, fixed};

/// The size of pages that `MAP_HUGETLB` in `flags` asks for: the logarithm stands in the highest bits.
fn page_size(flags: u32) -> Result<PageSize, Errno> {
    match flags >> MAP_HUGE_SHIFT {
        0 | 21 => Ok(PageSize::Size2MiB),
        30 => Ok(PageSize::Size1GiB),
        _ => Err(Errno::INVALID),
    }
}

/// `mmap`: of private memory, of memory that children share, or of a file.
pub(super) fn map(task: &Task, [at, bytes, bits, flags, descriptor, offset]: [u64; 6]) -> Answer {
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::INVALID);
    }
    let flags = flags as u32;
    let has = |flag: u32| flags & flag == flag;
    let file = if has(MAP_ANONYMOUS) { None } else { Some(file(task, descriptor)?) };
    let access = access(bits)?;
    let sharing = match flags & MAP_TYPE {
        MAP_PRIVATE => Sharing::Private,
        MAP_SHARED | MAP_SHARED_VALIDATE => Sharing::Shared,
        _ => return Err(Errno::INVALID),
    };
    let placement = if has(MAP_FIXED_NOREPLACE) {
        Placement::FixedNoReplace(fixed(at)?)
    } else if has(MAP_FIXED) {
        Placement::Fixed(fixed(at)?)
    } else if at == 0 || at >= USER_END {
        Placement::Anywhere
    } else {
        Placement::Hint(VirtAddr::new_truncate(at))
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
        (_, _) if bytes == 0 => Err(Errno::INVALID),
        (_, Sharing::Shared) if has(MAP_GROWSDOWN) => Err(Errno::INVALID),
        (None, Sharing::Shared) => {
            let size = bytes.checked_next_multiple_of(PAGE).filter(|&size| size <= USER_END);
            let size = size.ok_or(Errno::NO_MEMORY)?;
            let object = MemoryObject::anonymous(&SERVICE, &pin(), size).map_err(|_| Errno::NO_MEMORY)?;
            task.memory().map_object(&request, &object, 0, sharing, SharedWrites::Permitted)
        }
        (Some(file), sharing) => {
            let end = offset.checked_add(bytes).filter(|&end| i64::try_from(end).is_ok());
            end.ok_or(Errno::OVERFLOW)?;
            let writes = access.writes() && sharing == Sharing::Shared;
            if !file.mode.reads() || writes && !file.mode.writes() {
                return Err(Errno::ACCESS);
            }
            let object = file.object().ok_or(Errno::NO_DEVICE)?;
            if has(MAP_GROWSDOWN) {
                return Err(Errno::INVALID);
            }
            let may_write = if file.mode.writes() { SharedWrites::Permitted } else { SharedWrites::Denied };
            task.memory().map_object(&request, object, offset, sharing, may_write)
        }
    }
}
