//! A process's memory: where system calls and faults meet the address space.

pub(super) mod access;
pub(super) mod locking;
pub(super) mod mapping;
pub(super) mod placement;

use core::sync::atomic::AtomicBool;

use topomem::frames::AllocError;
use topomem::region::{
    Advice, FaultAccess, FaultError, HugePages, Kind, MadviseError, MapRequest, MprotectError, PageFault,
    Placement, Relocation,
};
use topomem::{Access, AddressSpace, PhysFrame, Unmapping, VirtAddr, WakersDue};
use topomem_exec::Bounds;

use crate::arch::random::random;
use crate::arch::tlb;
use crate::arch::user::USER_END;
use crate::executor::yield_now;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;
use crate::syscall::Errno;

/// The lowest address that a program may map, as Linux has it by default.
const LOWEST: u64 = 0x1_0000;

/// The addresses that a program may have.
pub(super) const BOUNDS: Bounds = Bounds { start: LOWEST, end: USER_END };

/// Why a fault is the program's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing is mapped there.
    NotMapped,
    /// What is mapped there may not be used so.
    NotPermitted,
    /// It lies beyond the end of what is mapped there, or cannot be read in.
    NoSuchPage,
    /// There is no memory for the page.
    OutOfMemory,
    /// There is no page of the size that the program has asked for.
    NoLargePage,
}

/// What a process has in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(super) space: AddressSpace<Kernel>,
    /// The program that was loaded into it, by its path in the RAM disk.
    program: &'static [u8],
    /// Is what is mapped in memory from the first?
    pub(super) fills_new_mappings: AtomicBool,
}

/// Which address space a memory is, as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpaceKey(PhysFrame);

/// A change of mappings that other CPUs have not all heard of yet; `None` if they have.
pub(crate) type Announced<'m> = Option<Unmapping<'m, Kernel>>;

/// Ends `change` if that takes no wait.
#[inline(always)]
fn finished<E: Into<Errno>>(mut change: Result<Unmapping<'_, Kernel>, E>) -> Result<Announced<'_>, Errno> {
    // Where it is: a change is large to move.
    if let Ok(unmapping) = &mut change
        && unmapping.finish(&pin())
    {
        return Ok(None);
    }
    change.map(Some).map_err(Into::into)
}

/// Returns why no advice is taken on `bytes` from `start` on.
fn refused(error: MadviseError, start: u64, bytes: u64) -> Errno {
    let end = bytes.checked_next_multiple_of(topomem_exec::PAGE).and_then(|bytes| start.checked_add(bytes));
    if end.is_none() { Errno::INVALID } else { error.into() }
}

/// The address as the service knows it, if a program may have it.
pub(super) fn user_address(address: u64) -> Option<VirtAddr> {
    (address < USER_END).then(|| VirtAddr::new_truncate(address))
}

impl Memory {
    /// An empty address space, for the program at this path of the RAM disk.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_MEMORY`].
    pub(crate) fn new(program: &'static [u8]) -> Result<Memory, Errno> {
        let space = SERVICE.create_randomized_space(&pin(), random()).map_err(|_| Errno::NO_MEMORY)?;
        Ok(Memory { space, program, fills_new_mappings: AtomicBool::new(false) })
    }

    /// Returns the path of the program that was loaded into it, without a slash at the start.
    pub(crate) fn program(&self) -> &'static [u8] {
        self.program
    }

    /// Returns what no other address space has at the same time.
    pub(crate) fn key(&self) -> SpaceKey {
        SpaceKey(self.space.root())
    }

    /// Has the executing CPU translate through this space, if it does not already.
    pub(crate) fn activate(&self) {
        if tlb::root() == self.space.root() {
            return;
        }
        let pin = pin();
        // SAFETY: the CPU is online, this is a task and no handler, and only tasks change the root.
        if unsafe { self.space.activate(&pin) } == WakersDue::Perhaps {
            SERVICE.wake_due(&pin);
        }
    }

    /// Has the executing CPU translate through the kernel's space, if it does so through this one.
    pub(crate) fn leave(&self) {
        if tlb::root() == self.space.root() {
            leave_spaces();
        }
    }

    /// Gives all of it back, in steps with turns of other tasks in between.
    pub(crate) async fn close(self) {
        self.space.close().await;
    }

    /// Returns a copy, which shares the frames until they are written.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_MEMORY`].
    pub(crate) fn fork(&self) -> Result<Memory, Errno> {
        let space = self.space.fork(&pin()).map_err(|_| Errno::NO_MEMORY)?;
        // A child has locked nothing.
        Ok(Memory { space, program: self.program, fills_new_mappings: AtomicBool::new(false) })
    }

    /// Returns the address space.
    pub(crate) fn space(&self) -> &AddressSpace<Kernel> {
        &self.space
    }

    /// Returns how many faults were answered without waiting, and how many after waiting for a page.
    pub(crate) fn faults(&self) -> (u64, u64) {
        (self.space.minor_faults(), self.space.major_faults())
    }

    /// Maps what `request` asks for; where that is.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::EXISTS`], [`Errno::NO_MEMORY`], [`Errno::NOT_PERMITTED`] below what a
    /// program may map.
    pub(crate) fn map(&self, request: &MapRequest) -> Result<u64, Errno> {
        check_place(request)?;
        Ok(self.space.mmap(&pin(), request)?.as_u64())
    }

    /// Unmaps what is mapped in `bytes` from `start` on. No CPU can use what was there before when what is
    /// returned completes.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`].
    #[inline]
    pub(crate) fn unmap(&self, start: u64, bytes: u64) -> Result<Announced<'_>, Errno> {
        let start = user_address(start).ok_or(Errno::INVALID)?;
        finished(self.space.munmap(&pin(), start, bytes))
    }

    /// Changes what may be done with `bytes` from `start` on. No CPU can use what was there before when what is
    /// returned completes.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`]; [`Errno::ACCESS`] for a shared mapping of a file that may be read
    /// alone, or if frames would be writable and executable.
    #[inline]
    pub(crate) fn protect(&self, start: u64, bytes: u64, access: Access) -> Result<Announced<'_>, Errno> {
        let at = aligned(start, Errno::NO_MEMORY)?;
        match self.space.mprotect(&pin(), at, bytes, access) {
            Err(MprotectError::OutsideSpace) => self.protect_up_to_end(at, bytes, access),
            change => finished(change),
        }
    }

    /// [`Memory::protect`] for a range that goes beyond what programs have: that is a hole, and what lies before
    /// a hole changes.
    #[cold]
    fn protect_up_to_end(&self, start: VirtAddr, bytes: u64, access: Access) -> Result<Announced<'_>, Errno> {
        let end = bytes.checked_next_multiple_of(topomem_exec::PAGE);
        if end.and_then(|bytes| start.as_u64().checked_add(bytes)).is_some() {
            self.space.mprotect(&pin(), start, USER_END - start.as_u64(), access)?.wait(&pin());
        }
        Err(Errno::NO_MEMORY)
    }

    /// Makes a mapping longer or shorter, or moves it; where it is then.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::FAULT`], [`Errno::NO_MEMORY`].
    pub(crate) fn relocate(
        &self,
        start: u64,
        old: u64,
        new: u64,
        relocation: Relocation,
    ) -> Result<u64, Errno> {
        let start = aligned(start, Errno::FAULT)?;
        Ok(self.space.mremap(&pin(), start, old, new, relocation)?.as_u64())
    }

    /// Moves the contents of a mapping to `to`, or anywhere; where they are then. The mapping stays, empty.
    ///
    /// # Errors
    ///
    /// As for [`Memory::relocate`].
    pub(crate) fn move_contents(&self, start: u64, bytes: u64, to: Option<VirtAddr>) -> Result<u64, Errno> {
        let start = aligned(start, Errno::FAULT)?;
        Ok(self.space.move_contents(&pin(), start, bytes, to)?.as_u64())
    }

    /// Follows an advice on `bytes` from `start` on. No CPU can use what was there before when what is
    /// returned completes.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`].
    #[inline]
    pub(crate) fn advise(&self, start: u64, bytes: u64, advice: Advice) -> Result<Announced<'_>, Errno> {
        let at = aligned(start, Errno::NO_MEMORY)?;
        finished(self.space.madvise(&pin(), at, bytes, advice).map_err(|error| refused(error, start, bytes)))
    }

    /// As [`Memory::advise`], and waits for pages that have to be read in.
    ///
    /// # Errors
    ///
    /// As for [`Memory::advise`]; [`Errno::FAULT`] for a page that cannot be read in.
    pub(crate) async fn populate(&self, start: u64, bytes: u64, advice: Advice) -> Result<(), Errno> {
        let at = aligned(start, Errno::NO_MEMORY)?;
        loop {
            let unmapping = match self.space.madvise(&pin(), at, bytes, advice) {
                Err(MadviseError::NotInMemory(page)) => {
                    let access =
                        if advice == Advice::PopulateWrite { FaultAccess::Write } else { FaultAccess::Read };
                    let read_in = self.answer(PageFault::new(page, access)).await;
                    read_in.map_err(|_| Errno::FAULT)?;
                    continue;
                }
                advised => advised.map_err(|error| refused(error, start, bytes))?,
            };
            unmapping.await;
            return Ok(());
        }
    }

    /// Makes pages of 2 MiB of what is mapped in `bytes` from `start` on.
    ///
    /// # Errors
    ///
    /// [`Errno::INVALID`], [`Errno::NO_MEMORY`], [`Errno::AGAIN`].
    pub(crate) fn collapse(&self, start: u64, bytes: u64) -> Result<(), Errno> {
        let start = aligned(start, Errno::NO_MEMORY)?;
        Ok(self.space.collapse(&pin(), start, bytes)?)
    }

    /// Says which memory gets pages of 2 MiB without asking.
    pub(crate) fn set_huge_pages(&self, setting: HugePages) {
        self.space.set_huge_pages(setting);
    }

    /// Returns which memory gets pages of 2 MiB without asking.
    pub(crate) fn huge_pages(&self) -> HugePages {
        self.space.huge_pages()
    }

    /// Has the heap begin at `address`, before the program runs.
    pub(crate) fn start_heap(&self, address: u64) {
        self.space.set_heap_start(VirtAddr::new_truncate(address));
    }

    /// Moves the end of the heap to `address` if it can be there; where it is then.
    pub(crate) fn set_break(&self, address: u64) -> u64 {
        // Below the heap's start nothing moves.
        self.space.brk(&pin(), user_address(address).unwrap_or(VirtAddr::new_truncate(0))).as_u64()
    }

    /// A program's `access` to `address` faulted, for want of a translation, or because the translation that
    /// `is_mapped` does not permit it. May the program repeat it now? If not, [`Memory::resolve`] says why.
    #[inline]
    pub(crate) fn resolves_at_once(&self, address: u64, access: FaultAccess, is_mapped: bool) -> bool {
        let Some(address) = user_address(address) else { return false };
        let fault = PageFault::new(address, access);
        let fault = if is_mapped { fault.not_permitted() } else { fault };
        self.space.on_page_fault(&pin(), fault).is_ok()
    }

    /// A program's `access` to `address` faulted. Returns once it can be repeated.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: it would fault again.
    pub(crate) async fn resolve(&self, address: u64, access: FaultAccess) -> Result<(), Refusal> {
        let address = user_address(address).ok_or(Refusal::NotMapped)?;
        self.answer(PageFault::new(address, access)).await
    }

    /// As [`Memory::resolve`], if there is a translation that does not permit the access.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: it would fault again.
    pub(crate) async fn resolve_refused(&self, address: u64, access: FaultAccess) -> Result<(), Refusal> {
        let address = user_address(address).ok_or(Refusal::NotMapped)?;
        self.answer(PageFault::new(address, access).not_permitted()).await
    }

    async fn answer(&self, mut fault: PageFault) -> Result<(), Refusal> {
        loop {
            match self.space.on_page_fault(&pin(), fault) {
                Ok(_) => return Ok(()),
                Err(FaultError::NotMapped | FaultError::Guarded) => return Err(Refusal::NotMapped),
                Err(FaultError::BeyondEnd) => return Err(Refusal::NoSuchPage),
                // Others run until the pager has answered.
                Err(FaultError::Waits(page)) => {
                    page.await.map_err(|_| Refusal::NoSuchPage)?;
                    fault = fault.after_wait();
                }
                // Frames are free once others have moved on.
                Err(FaultError::OutOfFrames(AllocError::WouldBlock { .. })) => yield_now().await,
                Err(FaultError::OutOfFrames(_)) => return Err(Refusal::OutOfMemory),
                Err(FaultError::NoLargePage(..)) => return Err(Refusal::NoLargePage),
                Err(_) => return Err(Refusal::NotPermitted),
            }
        }
    }
}

/// The address of a page, or `outside` if no program may have it.
pub(super) fn aligned(address: u64, outside: Errno) -> Result<VirtAddr, Errno> {
    if !address.is_multiple_of(topomem_exec::PAGE) {
        return Err(Errno::INVALID);
    }
    user_address(address).ok_or(outside)
}

/// Where a mapping goes that must be at `address`.
///
/// # Errors
///
/// [`Errno::NO_MEMORY`] if no program may have that.
pub(crate) fn fixed(address: u64) -> Result<VirtAddr, Errno> {
    user_address(address).ok_or(Errno::NO_MEMORY)
}

/// A request for a program's own `bytes` at `address`, of that kind.
///
/// # Errors
///
/// As for [`fixed`].
pub(super) fn request_at(address: u64, bytes: u64, kind: Kind, access: Access) -> Result<MapRequest, Errno> {
    let request = MapRequest::anonymous(bytes).kind(kind).access(access);
    Ok(request.placed(Placement::FixedNoReplace(fixed(address)?)))
}

/// Checks that `request` does not ask for addresses below what a program may map.
///
/// # Errors
///
/// [`Errno::NOT_PERMITTED`].
pub(super) fn check_place(request: &MapRequest) -> Result<(), Errno> {
    match request.placement() {
        Placement::Fixed(at) | Placement::FixedNoReplace(at) if at.as_u64() < LOWEST => {
            Err(Errno::NOT_PERMITTED)
        }
        _ => Ok(()),
    }
}

/// Has the executing CPU translate through the kernel's space.
pub(crate) fn leave_spaces() {
    let pin = pin();
    if let Some(kernel) = SERVICE.kernel_space()
        // SAFETY: as in `activate`.
        && unsafe { kernel.activate(&pin) } == WakersDue::Perhaps
    {
        SERVICE.wake_due(&pin);
    }
}
