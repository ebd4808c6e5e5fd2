//! A process's memory: where system calls and faults meet the address space.

extern crate alloc;

use alloc::vec::Vec;

use spin::mutex::SpinMutex;
use topomem::{Access, AddressSpace, FrameRequest, PageRange, PageSize, Protection, VirtAddr, WakersDue};
use topomem_exec::{Access as SegmentAccess, Bounds, PAGE};
use x86_64::registers::control::Cr3;

use crate::arch::random::random;
use crate::arch::user::USER_END;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;
use crate::per_cpu::Polling;
use crate::syscall::Errno;

/// The lowest address that a program may map, as Linux has it by default.
const LOWEST: u64 = 0x1_0000;
/// Where the addresses end that mappings are placed below: the usual 47 bits, however many levels of tables
/// there are, since programs keep other things in the upper bits.
const TOP: u64 = if USER_END < 1 << 47 { USER_END } else { (1 << 47) - PAGE };
/// By how many pages places are shifted at random.
const SHIFT_PAGES: u64 = 1 << 20;
/// Bytes that a program's break may grow to.
const MOST_BREAK: u64 = 1 << 30;

/// The addresses that a program may have.
pub const BOUNDS: Bounds = Bounds { start: LOWEST, end: USER_END };

/// Where a mapping goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// There if nothing is there, else anywhere.
    Near(u64),
    /// There, whatever is there.
    Exactly(u64),
    /// There if nothing is there, else nowhere.
    OnlyFree(u64),
}

/// What may be done with pages; `None` for nothing at all.
pub type Permission = Option<Access>;

/// What `access` permits.
///
/// # Errors
///
/// [`Errno::ACCESS`] for writing and executing at once, which nothing here may.
pub fn permission_of(access: SegmentAccess) -> Result<Permission, Errno> {
    match access {
        SegmentAccess::None => Ok(None),
        SegmentAccess::Read => Ok(Some(Access::READ)),
        SegmentAccess::Write => Ok(Some(Access::WRITE)),
        SegmentAccess::Execute => Ok(Some(Access::EXECUTE)),
        SegmentAccess::WriteExecute => Err(Errno::ACCESS),
    }
}

#[derive(Debug, Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    permission: Permission,
    /// It has frames; where nothing is permitted, [`aside`] from its place.
    is_filled: bool,
}

#[derive(Debug)]
struct Layout {
    /// By address, without overlaps.
    regions: Vec<Region>,
    /// Below which mappings are placed.
    top: u64,
    break_start: u64,
    break_end: u64,
}

/// Why a fault is the program's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is mapped there.
    NotMapped,
    /// What is mapped there may not be used so.
    NotPermitted,
}

/// What a process has in memory.
#[derive(Debug)]
pub struct Memory {
    space: AddressSpace<Kernel>,
    layout: SpinMutex<Layout, Polling>,
}

impl Memory {
    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_MEMORY`].
    pub fn new() -> Result<Memory, Errno> {
        let space = SERVICE.create_space(&pin()).map_err(|_| Errno::NO_MEMORY)?;
        let top = TOP - random() % SHIFT_PAGES * PAGE;
        let layout = Layout { regions: Vec::new(), top, break_start: 0, break_end: 0 };
        Ok(Memory { space, layout: SpinMutex::new(layout) })
    }

    /// Has the executing CPU translate through this space, if it does not already.
    pub fn activate(&self) {
        if Cr3::read().0 == self.space.root() {
            return;
        }
        let pin = pin();
        // SAFETY: the CPU is online, this is a task and no handler, and only tasks change the root.
        if unsafe { self.space.activate(&pin) } == WakersDue::Perhaps {
            SERVICE.wake_due(&pin);
        }
    }

    /// Has the executing CPU translate through the kernel's space, if it does so through this one.
    pub fn leave(&self) {
        if Cr3::read().0 == self.space.root() {
            leave_spaces();
        }
    }

    /// Maps `bytes` of zeros.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`] for no bytes or a place within a page, [`Errno::EXISTS`], [`Errno::NO_MEMORY`].
    pub async fn map(&self, place: Place, bytes: u64, permission: Permission) -> Result<u64, Errno> {
        let bytes = bytes.checked_next_multiple_of(PAGE).ok_or(Errno::NO_MEMORY)?;
        if bytes == 0 {
            return Err(Errno::INVALID);
        }
        let start = match place {
            Place::Near(near) => {
                let layout = self.layout.lock();
                let near = near / PAGE * PAGE;
                let is_free = near != 0 && in_bounds(near, bytes) && layout.is_free(near, bytes);
                if is_free { near } else { layout.highest_free(bytes).ok_or(Errno::NO_MEMORY)? }
            }
            Place::Exactly(start) | Place::OnlyFree(start) => {
                if !start.is_multiple_of(PAGE) {
                    return Err(Errno::INVALID);
                }
                if !in_bounds(start, bytes) {
                    return Err(Errno::NO_MEMORY);
                }
                start
            }
        };
        match place {
            Place::OnlyFree(_) if !self.layout.lock().is_free(start, bytes) => return Err(Errno::EXISTS),
            Place::Exactly(_) => self.unmap(start, bytes).await?,
            _ => {}
        }
        self.add(start, start + bytes, permission)?;
        Ok(start)
    }

    fn add(&self, start: u64, end: u64, permission: Permission) -> Result<(), Errno> {
        self.layout.lock().insert(Region { start, end, permission, is_filled: permission.is_some() })?;
        let Some(access) = permission else { return Ok(()) };
        let mapped = range(start, end).and_then(|range| {
            let request = FrameRequest::frame().zeroed();
            Ok(self.space.map(&pin(), range, request, Protection::user(access))?)
        });
        if mapped.is_err() {
            self.layout.lock().regions.retain(|region| region.start != start);
        }
        mapped
    }

    /// Unmaps what is mapped in `bytes` from `start` on.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`].
    pub async fn unmap(&self, start: u64, bytes: u64) -> Result<(), Errno> {
        let end = end_of(start, bytes)?;
        {
            let mut layout = self.layout.lock();
            layout.cut(start)?;
            layout.cut(end)?;
            layout.regions.retain(|region| !(start <= region.start && region.end <= end));
        }
        self.space.unmap(&pin(), range(start, end)?)?.await;
        self.space.unmap(&pin(), range(aside(start), aside(end - PAGE) + PAGE)?)?.await;
        Ok(())
    }

    /// Changes what may be done with `bytes` from `start` on.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`]; [`Errno::NO_MEMORY`] also if some of it is not mapped, and then nothing has
    /// changed.
    pub async fn protect(&self, start: u64, bytes: u64, permission: Permission) -> Result<(), Errno> {
        if bytes == 0 && start.is_multiple_of(PAGE) {
            return Ok(());
        }
        let end = end_of(start, bytes)?;
        let changed = {
            let mut layout = self.layout.lock();
            if !layout.is_full(start, end) {
                return Err(Errno::NO_MEMORY);
            }
            layout.cut(start)?;
            layout.cut(end)?;
            let mut changed = Vec::new();
            changed.try_reserve(layout.regions.len()).map_err(|_| Errno::NO_MEMORY)?;
            for region in &mut layout.regions {
                if start <= region.start && region.end <= end {
                    changed.push(*region);
                    region.permission = permission;
                    region.is_filled |= permission.is_some();
                }
            }
            changed
        };
        for Region { start, end, permission: old, is_filled } in changed {
            let (place, shadow) = (range(start, end)?, range(aside(start), aside(end - PAGE) + PAGE)?);
            match permission.map(Protection::user) {
                None if old.is_some() => {
                    self.space.remap(&pin(), place, shadow.start())?.await;
                }
                None => {}
                Some(protection) if is_filled => {
                    if old.is_none() {
                        self.space.remap(&pin(), shadow, place.start())?.await;
                    }
                    self.space.protect(&pin(), place, protection)?.await;
                }
                Some(protection) => {
                    self.space.map(&pin(), place, FrameRequest::frame().zeroed(), protection)?;
                }
            }
        }
        Ok(())
    }

    /// Puts the start of the break at `address`.
    pub fn start_break(&self, address: u64) {
        let mut layout = self.layout.lock();
        (layout.break_start, layout.break_end) = (address, address);
    }

    /// Moves the break to `address` if it can be there; where it is then.
    pub async fn set_break(&self, address: u64) -> u64 {
        let (first, old) = {
            let layout = self.layout.lock();
            (layout.break_start, layout.break_end)
        };
        if !(first..=first + MOST_BREAK).contains(&address) {
            return old;
        }
        let (old_page, new_page) = (old.next_multiple_of(PAGE), address.next_multiple_of(PAGE));
        let moved = if new_page > old_page {
            self.map(Place::OnlyFree(old_page), new_page - old_page, Some(Access::WRITE)).await.map(|_| ())
        } else if new_page < old_page {
            self.unmap(new_page, old_page - new_page).await
        } else {
            Ok(())
        };
        if moved.is_err() {
            return old;
        }
        self.layout.lock().break_end = address;
        address
    }

    /// A program's access to `address` faulted. Returns once the access can be repeated.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: it would fault again.
    pub async fn resolve(&self, address: u64) -> Result<(), Refusal> {
        let layout = self.layout.lock();
        match layout.regions.iter().find(|region| (region.start..region.end).contains(&address)) {
            Some(_) => Err(Refusal::NotPermitted),
            None => Err(Refusal::NotMapped),
        }
    }
}

/// Has the executing CPU translate through the kernel's space.
pub fn leave_spaces() {
    let pin = pin();
    if let Some(kernel) = SERVICE.kernel_space()
        // SAFETY: as in `activate`.
        && unsafe { kernel.activate(&pin) } == WakersDue::Perhaps
    {
        SERVICE.wake_due(&pin);
    }
}

impl Layout {
    fn is_free(&self, start: u64, bytes: u64) -> bool {
        !self.regions.iter().any(|region| region.start < start + bytes && start < region.end)
    }

    /// Is all mapped from `start` to `end`?
    fn is_full(&self, start: u64, end: u64) -> bool {
        let mut reached = start;
        for region in &self.regions {
            if region.start <= reached && reached < region.end {
                reached = region.end;
            }
        }
        reached >= end
    }

    /// The highest place where nothing is mapped.
    fn highest_free(&self, bytes: u64) -> Option<u64> {
        let mut end = self.top;
        for region in self.regions.iter().rev() {
            if region.end <= end && end - region.end >= bytes {
                break;
            }
            end = end.min(region.start);
        }
        end.checked_sub(bytes).filter(|&start| start >= LOWEST)
    }

    fn insert(&mut self, region: Region) -> Result<(), Errno> {
        self.regions.try_reserve(1).map_err(|_| Errno::NO_MEMORY)?;
        let at = self.regions.partition_point(|other| other.start < region.start);
        self.regions.insert(at, region);
        Ok(())
    }

    /// Has a region end at `address` if one lies across it.
    fn cut(&mut self, address: u64) -> Result<(), Errno> {
        let Some(at) = self.regions.iter().position(|region| region.start < address && address < region.end)
        else {
            return Ok(());
        };
        let upper = Region { start: address, ..self.regions[at] };
        self.insert(upper)?;
        self.regions[at].end = address;
        Ok(())
    }
}

/// Where frames are kept of pages that permit nothing: page tables have no such pages yet.
fn aside(address: u64) -> u64 {
    address ^ 1 << 46
}

fn in_bounds(start: u64, bytes: u64) -> bool {
    start >= LOWEST && start.checked_add(bytes).is_some_and(|end| end <= TOP)
}

/// Where `bytes` from the page `start` on end.
fn end_of(start: u64, bytes: u64) -> Result<u64, Errno> {
    let end = start.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(PAGE));
    end.filter(|&end| start.is_multiple_of(PAGE) && start < end && end <= USER_END).ok_or(Errno::INVALID)
}

fn range(start: u64, end: u64) -> Result<PageRange, Errno> {
    let pages = (end - start) / PAGE;
    PageRange::new(VirtAddr::new_truncate(start), pages, PageSize::Size4KiB).map_err(|_| Errno::INVALID)
}
