//! Boot, step by step: each step consumes the value of the step before.

use core::fmt;

use topomem_numa::frames::{AllocError, BootMemory, FrameRequest, FramesConfig, InitError, PerFrameTable};
use topomem_numa::{ApicId, Diagnostic, FirmwareTables, MemoryMap, Topology};
use topomem_percpu::sync::atomic::Ordering;
use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::PageRange;

use super::{MemoryService, OnlineError, stage};
use crate::Machine;
use crate::address_space::{SpaceCore, SpaceKind, pages_of};
use crate::heap::KernelHeap;
use crate::page_table::{Format, PageTable, Pages, Reserve, RootEntries};
use crate::region::SpaceLayout;

/// The first step, before discovery.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, _| {
/// use topomem::BootError;
///
/// // `Sim::boot_service` has booted the service: a second boot is refused.
/// assert!(matches!(service.boot(), Err(BootError::AlreadyBooted)));
/// # Ok(())
/// # }).unwrap();
/// ```
#[must_use = "boot has only begun"]
#[derive(Debug)]
pub struct Boot<P: Machine> {
    service: &'static MemoryService<P>,
}

/// The second step: the topology is known, without frames yet.
#[must_use = "boot has only begun"]
#[derive(Debug)]
pub struct Discovered<P: Machine> {
    service: &'static MemoryService<P>,
}

/// The third step: the allocator works, with the boot CPU's magazines in front.
#[must_use = "boot is not complete"]
#[derive(Debug)]
pub struct WithFrames<P: Machine> {
    service: &'static MemoryService<P>,
}

/// The fourth step: the heap works, or the kernel has none.
#[must_use = "boot is not complete"]
#[derive(Debug)]
pub struct WithHeap<P: Machine> {
    service: &'static MemoryService<P>,
}

/// The position of the kernel's address space.
///
/// ```
/// use topomem::{KernelLayout, PageRange, PageSize, VirtAddr};
///
/// let window = PageRange::new(VirtAddr::new(0xffff_c000_0000_0000)?, 512, PageSize::Size1GiB)?;
/// let layout = KernelLayout { window, inherit: None };
/// assert_eq!(layout.window.bytes(), 512 << 30);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct KernelLayout {
    /// The addresses mapped by the service for the kernel: whole root entries (512 GiB with 4
    /// levels) without another user, none of them programs'. Each costs a table at boot, since all spaces share it.
    pub window: PageRange,
    /// The root the kernel booted with. All spaces take over its entries unchanged (image, direct map), except those of
    /// programs' addresses: its upper half, unless [`WithHeap::programs`] said otherwise. `None` if only the window is
    /// mapped.
    pub inherit: Option<PhysFrame>,
}

/// The reason why boot failed.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::BootError;
///
/// let again = service.boot().map(|_| ());
/// assert!(matches!(again, Err(BootError::AlreadyBooted)));
/// # let _ = pin;
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError<E> {
    /// Boot has begun before.
    AlreadyBooted,
    /// The frame allocator could not be built.
    Frames(InitError<E>),
    /// Page tables need the per-frame table: [`PerFrameTable::Present`].
    NoPerFrameTable,
    /// The machine has more than 8 TiB of memory in all, at any addresses: the per-frame links
    /// number no more.
    TooMuchMemory,
    /// The boot CPU did not come online.
    Cpu(OnlineError),
    /// The kernel's window is in programs' addresses or in the hole between the halves, or does not consist of whole root
    /// entries.
    MisplacedWindow(PageRange),
    /// Programs' addresses are not in the lower half, or do not consist of whole root entries.
    MisplacedPrograms(PageRange),
    /// The inherited root uses an entry of the window.
    WindowInUse(PageRange),
    /// No frame for the kernel's tables.
    OutOfFrames(AllocError),
}

impl<E: fmt::Display> fmt::Display for BootError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::AlreadyBooted => f.write_str("boot has begun before"),
            BootError::Frames(error) => error.fmt(f),
            BootError::NoPerFrameTable => f.write_str("page tables need the per-frame table"),
            BootError::TooMuchMemory => f.write_str("more than 8 TiB of memory"),
            BootError::Cpu(error) => error.fmt(f),
            BootError::MisplacedWindow(window) => {
                write!(f, "the window at {} is not whole root entries of the kernel's", window.start())
            }
            BootError::MisplacedPrograms(range) => {
                write!(
                    f,
                    "programs' addresses at {} are not whole root entries of the lower half",
                    range.start()
                )
            }
            BootError::WindowInUse(window) => write!(f, "the window at {} is in use", window.start()),
            BootError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for BootError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            BootError::Frames(error) => Some(error),
            BootError::Cpu(error) => Some(error),
            BootError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// Errors without a boot memory's own errors.
type PlainError = BootError<core::convert::Infallible>;

impl<P: Machine> MemoryService<P> {
    /// Begins boot, on the boot CPU.
    ///
    /// # Errors
    ///
    /// Returns [`BootError::AlreadyBooted`] if boot has begun before.
    pub fn boot(&'static self) -> Result<Boot<P>, PlainError> {
        // AcqRel: the holder of the token has exclusive use of the topology.
        let begun =
            self.stage.compare_exchange(stage::NONE, stage::BOOTING, Ordering::AcqRel, Ordering::Relaxed);
        begun.map(|_| Boot { service: self }).map_err(|_| BootError::AlreadyBooted)
    }

    fn advance(&self, stage: u8) {
        // Release pairs with the Acquire in `reached`.
        self.stage.store(stage, Ordering::Release);
    }
}

impl<P: Machine> Boot<P> {
    /// Discovers nodes, CPUs and distances from firmware's tables, or a single node without tables.
    /// `boot` is the APIC id of the executing CPU. Errors in the tables are passed to
    /// `diagnostics`.
    pub fn discover(
        self,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) -> Discovered<P> {
        self.describe(|topology| topology.discover(tables, boot, diagnostics))
    }

    /// Discovers as [`Boot::discover`] does, with memory of `map` for what a machine of more than 8 nodes, 64 CPUs or
    /// 32 ranges needs: see [`Topology::discover_in`].
    pub fn discover_in(
        self,
        map: &mut MemoryMap,
        tables: &FirmwareTables<'_>,
        boot: ApicId,
        diagnostics: &mut dyn FnMut(Diagnostic),
    ) -> Discovered<P> {
        let platform = *self.service.platform();
        self.describe(|topology| topology.discover_in(&platform, map, tables, boot, diagnostics))
    }

    /// Lets `fill` describe the machine: for firmware without such tables.
    pub fn describe(self, fill: impl FnOnce(&mut Topology)) -> Discovered<P> {
        // SAFETY: `self` is the only boot token, and no context reads the topology before the stage
        // is reached.
        fill(unsafe { &mut *self.service.topology.get() });
        self.service.advance(stage::TOPOLOGY);
        Discovered { service: self.service }
    }
}

impl<P: Machine> Discovered<P> {
    /// Returns the topology, for a boot allocator over it.
    pub fn topology(&self) -> &'static Topology {
        // SAFETY: the topology is complete, and never written again.
        unsafe { &*self.service.topology.get() }
    }

    /// Gives all free memory to the frame allocator, and the boot CPU its magazines.
    ///
    /// # Errors
    ///
    /// - [`BootError::NoPerFrameTable`] if `config` leaves out the per-frame table.
    /// - [`BootError::Frames`] if the frame allocator cannot be built.
    /// - [`BootError::TooMuchMemory`] if the machine has more than 8 TiB of memory.
    /// - [`BootError::Cpu`] if the boot CPU does not come online.
    pub fn frames<G: BootMemory>(
        self,
        pin: &CpuPin,
        boot_memory: &mut G,
        config: &FramesConfig,
    ) -> Result<WithFrames<P>, BootError<G::Error>> {
        if config.table != PerFrameTable::Present {
            return Err(BootError::NoPerFrameTable);
        }
        let service = self.service;
        service.frames.init(boot_memory, config).map_err(BootError::Frames)?;
        // Chains of frames are linked by numbers of 31 bits.
        if service.frames.last_info_number() >> 31 != 0 {
            return Err(BootError::TooMuchMemory);
        }
        service.frames.cpu_online(pin).map_err(|error| BootError::Cpu(OnlineError::Frames(error)))?;
        service.place_cpu(pin).map_err(BootError::Cpu)?;
        service.advance(stage::FRAMES);
        Ok(WithFrames { service })
    }
}

impl<P: Machine> WithFrames<P> {
    /// Connects the heap, and gives the boot CPU its magazines of objects.
    ///
    /// # Errors
    ///
    /// Returns [`BootError::Cpu`] if no memory for the boot CPU's magazines is left.
    pub fn heap(self, pin: &CpuPin, heap: &'static KernelHeap<P>) -> Result<WithHeap<P>, PlainError> {
        heap.heap().cpu_online(pin).map_err(|_| BootError::Cpu(OnlineError::OutOfMemory))?;
        // Release pairs with the Acquire in `MemoryService::heap`.
        self.service.heap.store(core::ptr::from_ref(heap).cast_mut(), Ordering::Release);
        Ok(WithHeap { service: self.service })
    }

    /// Continues without a heap.
    pub fn no_heap(self) -> WithHeap<P> {
        WithHeap { service: self.service }
    }
}

impl<P: Machine> WithHeap<P> {
    /// Makes `range` the addresses of programs' spaces: whole root entries of the lower half. All others are the
    /// kernel's, and the same in all spaces. Without this call programs have the lower half.
    ///
    /// For a kernel that lies in the lower half itself, identity-mapped for example: its spaces keep the entries of the
    /// root that it booted with, and its window may lie there, too.
    ///
    /// # Errors
    ///
    /// Returns [`BootError::MisplacedPrograms`] if the range is not of whole root entries, or not in the lower half.
    pub fn programs(self, range: PageRange) -> Result<WithHeap<P>, PlainError> {
        let pages = pages_of(range);
        if half_of_entries::<P::Format>(pages) != Some(Half::Lower) {
            return Err(BootError::MisplacedPrograms(range));
        }
        // Relaxed: read after the kernel's space was published.
        self.service.programs.0.store(pages.first, Ordering::Relaxed);
        self.service.programs.1.store(pages.last + 1, Ordering::Relaxed);
        Ok(self)
    }

    /// Builds the kernel's page tables, loads them, and brings the boot CPU online for shootdowns.
    /// Boot is then complete: further CPUs may come online.
    ///
    /// # Safety
    ///
    /// `layout.inherit` is the root of page tables of this format. They stay unchanged, and map
    /// everything the kernel uses. Nothing outside the service changes its window.
    ///
    /// # Errors
    ///
    /// - [`BootError::MisplacedWindow`] if the window is programs', or does not consist of whole root entries.
    /// - [`BootError::WindowInUse`] if the inherited root uses an entry of the window.
    /// - [`BootError::OutOfFrames`] if no frame is left.
    /// - [`BootError::Cpu`] if the boot CPU does not come online.
    pub unsafe fn kernel_space(
        self,
        pin: &CpuPin,
        layout: &KernelLayout,
    ) -> Result<&'static MemoryService<P>, PlainError> {
        let service = self.service;
        let frames = &service.frames;
        let window = pages_of(layout.window);
        let programs = service.programs();
        let is_apart = window.last < programs.first || programs.last < window.first;
        if !is_apart || half_of_entries::<P::Format>(window).is_none() {
            return Err(BootError::MisplacedWindow(layout.window));
        }
        let table = PageTable::new(frames, pin, RootEntries::Shared).map_err(BootError::OutOfFrames)?;
        if let Some(root) = layout.inherit {
            // SAFETY: the table is new; the caller's promise for the inherited root.
            unsafe { table.share_from(frames, root, programs) };
        }
        if !table.root_entries_vacant(frames, window) {
            return Err(BootError::WindowInUse(layout.window));
        }
        let mut reserve = Reserve::new(frames, pin);
        table.root_tables(frames, &mut reserve, window).map_err(BootError::OutOfFrames)?;
        let core =
            SpaceCore::place(service, pin, table, SpaceKind::Kernel, window, SpaceLayout::below(window));
        let core = core.map_err(|(error, _)| BootError::OutOfFrames(error))?;
        let zeros = frames.alloc(pin, &FrameRequest::frame().zeroed()).map_err(BootError::OutOfFrames)?;
        // Release pairs with the Acquire in `zero_frame`.
        service.zero_frame.store(zeros.start_address().as_u64(), Ordering::Release);
        // Release pairs with the Acquire in `kernel_core`.
        service.kernel_space.store(core::ptr::from_ref(core).cast_mut(), Ordering::Release);
        service.platform.load_root(core.table.root());
        service.shootdown.cpu_online(pin).map_err(|error| BootError::Cpu(OnlineError::Shootdown(error)))?;
        service.advance(stage::READY);
        Ok(service)
    }
}

/// One of the two halves of the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Lower,
    Upper,
}

/// Returns the half that `pages`, whole root entries, lie in. Returns `None` if they are no whole entries, or lie in the
/// hole between the halves or in both: the hardware ignores the bits above the root's, and would find such pages at
/// another address.
fn half_of_entries<F: Format>(pages: Pages) -> Option<Half> {
    let sign = |page: u64| (page << 12) as i64 >> (F::ROOT.address_bits() - 1);
    match (sign(pages.first), sign(pages.last)) {
        (0, 0) if pages.fill_entries(F::ROOT) => Some(Half::Lower),
        (-1, -1) if pages.fill_entries(F::ROOT) => Some(Half::Upper),
        _ => None,
    }
}
