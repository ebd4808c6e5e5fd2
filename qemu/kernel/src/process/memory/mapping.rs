//! Mappings of objects: of files, and of memory that processes share.

use core::ops::Range;

use topomem::object::{MemoryObject, ObjectId, Residency, SharedWrites};
use topomem::region::{MapRequest, ObjectMapping, ObjectPart, Sharing};
use topomem::{Access, VirtAddr};
use topomem_exec::PAGE;

use super::{aligned, check_place, user_address};
use crate::arch::user::USER_END;
use crate::memory::platform::{Kernel, pin};
use crate::process::Memory;
use crate::syscall::Errno;

/// What a part of a range has in common.
pub(super) struct Part {
    /// Its addresses.
    pub bytes: Range<u64>,
    /// What a program may do with it.
    pub access: Access,
    /// What it shows from its first byte on; `None` for private memory without a file.
    pub object: Option<ObjectPart<Kernel>>,
}

/// What becomes of the pages that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteBack {
    /// They are written back before the call returns.
    Awaited,
    /// They are written back some time.
    Later,
}

impl Memory {
    /// Maps the bytes of `object` from `offset` on as `request` says; `writes` says whether a shared mapping may
    /// come to be writable. Returns where that is.
    ///
    /// # Errors
    ///
    /// As for [`Memory::map`].
    pub(crate) fn map_object(
        &self,
        request: &MapRequest,
        object: &MemoryObject<Kernel>,
        offset: u64,
        sharing: Sharing,
        writes: SharedWrites,
    ) -> Result<u64, Errno> {
        check_place(request)?;
        let mapping = ObjectMapping::new(object, offset, sharing);
        let mapping = match writes {
            SharedWrites::Permitted => mapping,
            SharedWrites::Denied => mapping.deny_writes(),
        };
        Ok(self.space().mmap_object(&pin(), request, mapping)?.as_u64())
    }

    /// Returns which byte of which object the byte at `address` is, if processes share it.
    pub(crate) fn shared_byte(&self, address: u64) -> Option<(ObjectId, u64)> {
        let part = self.space().object_at(&pin(), user_address(address)?)?;
        (part.sharing == Sharing::Shared).then(|| (part.object.id(), part.offset))
    }

    /// Tells whether a page of a range is mapped.
    pub(crate) fn is_taken(&self, range: Range<u64>) -> bool {
        let next = self.space().next_region(&pin(), VirtAddr::new_truncate(range.start));
        next.is_some_and(|next| next.start().as_u64() < range.end)
    }

    /// Returns the first part of a range that is mapped.
    fn next_part(&self, range: Range<u64>) -> Option<Part> {
        let pin = pin();
        let region = self.space().next_region(&pin, VirtAddr::new_truncate(range.start))?;
        let bytes = region.start().as_u64()..region.end().as_u64().min(range.end);
        let object = self.space().object_at(&pin, region.start());
        (!bytes.is_empty()).then_some(Part { bytes, access: region.region().access(), object })
    }

    /// Calls `each` with each mapped part of a range, up to its first error.
    ///
    /// # Errors
    ///
    /// Those of `each`; [`Errno::NO_MEMORY`] at the end if a page of the range is not mapped.
    pub(super) async fn for_each_part(
        &self,
        range: Range<u64>,
        mut each: impl AsyncFnMut(&Part) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut has_hole = false;
        let mut at = range.start;
        while at < range.end {
            let Some(part) = self.next_part(at..range.end) else { return Err(Errno::NO_MEMORY) };
            has_hole |= part.bytes.start > at;
            each(&part).await?;
            at = part.bytes.end;
        }
        if has_hole { Err(Errno::NO_MEMORY) } else { Ok(()) }
    }

    /// Has what was written to shared mappings of files in `bytes` from `start` on written back.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`] if a page is not mapped, [`Errno::INPUT_OUTPUT`].
    pub(crate) async fn sync(&self, start: u64, bytes: u64, write_back: WriteBack) -> Result<(), Errno> {
        let range = range(start, bytes, Errno::NO_MEMORY)?;
        self.for_each_part(range, async |part| match &part.object {
            Some(shown) if shown.sharing == Sharing::Shared && write_back == WriteBack::Awaited => {
                Ok(shown.object.sync(part.within(shown)).await?)
            }
            _ => Ok(()),
        })
        .await
    }

    /// Takes the pages that are shown in `bytes` from `start` on out of their objects.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`] for memory without an object, [`Errno::ACCESS`] for private mappings and for those of
    /// files that may be read alone, [`Errno::NO_MEMORY`] if a page is not mapped, [`Errno::INPUT_OUTPUT`].
    pub(crate) async fn remove(&self, start: u64, bytes: u64) -> Result<(), Errno> {
        let range = range(start, bytes, Errno::INVALID)?;
        self.for_each_part(range, async |part| {
            let shown = part.object.as_ref().ok_or(Errno::INVALID)?;
            if shown.sharing == Sharing::Private || shown.writes == SharedWrites::Denied {
                return Err(Errno::ACCESS);
            }
            Ok(shown.object.punch_hole(part.within(shown)).await?)
        })
        .await
    }

    /// Checks each part of `bytes` from `start` on that shows an object. Wrong ranges and holes are left out:
    /// whoever changes the range sees to them.
    fn check_objects(
        &self,
        start: u64,
        bytes: u64,
        check: impl Fn(&ObjectPart<Kernel>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let Ok(mut range) = range(start, bytes, Errno::INVALID) else { return Ok(()) };
        while let Some(part) = self.next_part(range.clone()) {
            part.object.as_ref().map_or(Ok(()), &check)?;
            range.start = part.bytes.end;
        }
        Ok(())
    }

    /// Checks that no page in `bytes` from `start` on is of an object.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`] if one is.
    pub(crate) fn check_without_object(&self, start: u64, bytes: u64) -> Result<(), Errno> {
        self.check_objects(start, bytes, |_| Err(Errno::INVALID))
    }

    /// Says of each page from `start` on whether it is in memory, up to the first that is not mapped. Returns
    /// how many pages that are.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`] beyond what programs have.
    pub(crate) fn resident(&self, start: u64, pages: &mut [Residency]) -> Result<usize, Errno> {
        let at = aligned(start, Errno::NO_MEMORY)?;
        match self.space().residency(&pin(), at, pages) {
            Ok(()) => Ok(pages.len()),
            Err(hole) => Ok(((hole.as_u64() - start) / PAGE) as usize),
        }
    }
}

impl Part {
    /// Returns which bytes of its object the part shows.
    fn within(&self, shown: &ObjectPart<Kernel>) -> Range<u64> {
        shown.offset..shown.offset + (self.bytes.end - self.bytes.start)
    }
}

/// Returns the pages of `bytes` from `start` on, as addresses.
pub(in crate::process) fn range(start: u64, bytes: u64, outside: Errno) -> Result<Range<u64>, Errno> {
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::INVALID);
    }
    let end = bytes.checked_next_multiple_of(PAGE).and_then(|bytes| start.checked_add(bytes));
    Ok(start..end.filter(|&end| end <= USER_END).ok_or(outside)?)
}
