//! Mapping memory: `mmap` of anonymous memory and of files.

use topomem::WriteExecute;
use topomem::object::MemoryObject;
use topomem::region::{
    Kind, MapRequest, MmapError, ObjectMapping, Placement as Placed, Populate, Sharing as Shared,
};
use topomem::sim::Sim;

use super::{SimProcess, access_of, address};
use crate::compare::answer::Errno;
use crate::log::operation::{Advice, Descriptor, Map, PAGE, Placement, Protection, Sharing, Source};
use crate::log::slots::TOP;
use crate::sim::files::Files;

impl SimProcess<'_> {
    pub(super) fn map(&self, map: &Map<u64>) -> Result<u64, Errno> {
        if !map.offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if map.source == Source::File(Descriptor::Closed) {
            return Err(Errno::EBADF);
        }
        if map.length == 0 {
            return Err(Errno::EINVAL);
        }
        let length = map.length.checked_next_multiple_of(PAGE).filter(|&length| length <= TOP);
        let length = length.ok_or(Errno::ENOMEM)?;
        let placement = match map.placement {
            Placement::Anywhere => Placed::Anywhere,
            Placement::Hint(at) => Placed::Hint(address(at)?),
            Placement::Fixed(at) | Placement::Unoccupied(at) => {
                if at > TOP - length {
                    return Err(Errno::ENOMEM);
                }
                if !at.is_multiple_of(PAGE) {
                    return Err(Errno::EINVAL);
                }
                let at = address(at)?;
                if matches!(map.placement, Placement::Fixed(_)) {
                    Placed::Fixed(at)
                } else {
                    let next = self.space.next_region(self.pin, at);
                    if next.is_some_and(|next| next.start().as_u64() < at.as_u64() + length) {
                        return Err(Errno::EEXIST);
                    }
                    Placed::FixedNoReplace(at)
                }
            }
        };
        let populate = if map.populate { Populate::Now } else { Populate::OnDemand };
        let kind = if map.grows_down { Kind::Stack } else { Kind::Anonymous };
        let object = self.object_of(map, length)?;
        let request = MapRequest::anonymous(map.length).kind(kind).access(access_of(map.protection)?);
        let request = request.placed(placement).populate(populate);
        let sharing = if map.sharing == Sharing::Shared { Shared::Shared } else { Shared::Private };
        let mapped = match &object {
            None => self.space.mmap(self.pin, &request),
            Some((object, offset)) => {
                // Linux does not mind who writes to what others execute.
                // SAFETY: the pages are executed by nobody: fetches are probed.
                object.permit_write_execute(&unsafe { WriteExecute::new() });
                let mapping = ObjectMapping::new(object, *offset, sharing);
                let may_write = match map.source {
                    Source::Anonymous => true,
                    Source::File(file) => Files::modes(file).1,
                };
                let mapping = if may_write { mapping } else { mapping.deny_writes() };
                self.space.mmap_object(self.pin, &request, mapping)
            }
        };
        match mapped {
            Ok(start) => {
                if map.populate && object.is_some() {
                    // As far as it goes: what has to be read in was left out.
                    let writes = map.protection.has(Protection::WRITE) && map.sharing == Sharing::Private;
                    let advice = if writes { Advice::PopulateWrite } else { Advice::PopulateRead };
                    let _ = self.advise(start.as_u64(), map.length, advice);
                }
                Ok(start.as_u64())
            }
            Err(MmapError::Empty | MmapError::Misaligned(_)) => Err(Errno::EINVAL),
            Err(MmapError::Occupied(_)) => Err(Errno::EEXIST),
            Err(_) => Err(Errno::ENOMEM),
        }
    }

    /// Returns what a mapping shows from its first page on, after a look at what the descriptor permits.
    fn object_of(
        &self,
        map: &Map<u64>,
        length: u64,
    ) -> Result<Option<(MemoryObject<&'static Sim>, u64)>, Errno> {
        let Source::File(file) = map.source else {
            return match map.sharing {
                Sharing::Neither => Err(Errno::EINVAL),
                Sharing::Private => Ok(None),
                Sharing::Shared if map.grows_down => Err(Errno::EINVAL),
                Sharing::Shared => {
                    let object = MemoryObject::anonymous(self.service, self.pin, length);
                    Ok(Some((object.map_err(|_| Errno::ENOMEM)?, 0)))
                }
            };
        };
        let object = self.files.object(file);
        if object.is_some() && map.offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Errno::EOVERFLOW);
        }
        let (reads, writes) = Files::modes(file);
        match map.sharing {
            Sharing::Neither => return Err(Errno::EINVAL),
            Sharing::Shared if map.protection.has(Protection::WRITE) && !writes => return Err(Errno::EACCES),
            _ if !reads => return Err(Errno::EACCES),
            _ => {}
        }
        if file == Descriptor::Pipe && map.protection.has(Protection::EXECUTE) {
            return Err(Errno::EPERM);
        }
        let object = object.ok_or(Errno::ENODEV)?;
        if map.grows_down { Err(Errno::EINVAL) } else { Ok(Some((object.clone(), map.offset))) }
    }
}
