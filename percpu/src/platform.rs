//! The interface implemented by a kernel for topomem, and the proof of being pinned to a CPU.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::PhysAddr;

use crate::CpuId;

/// An address, neither zero nor the last: all addresses have the same difference between the direct map and
/// memory.
const SOME: u64 = 0x1000;

/// State that a kernel hands from [`Platform::disable_migration`] to the matching [`Platform::enable_migration`]: an
/// interrupt flag, say. The state means nothing to topomem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Saved(pub usize);

/// The interface that a kernel supplies: which CPU runs, how to stay on a CPU, and the direct map.
///
/// Everything is monomorphised; nothing is resolved at link time. A kernel whose contexts never
/// migrate between CPUs keeps the default implementations of the two migration methods.
///
/// # Safety
///
/// - While migration is disabled, `current_cpu` returns the same id to the calling context, and no
///   other CPU is given the id.
/// - While migration is disabled, another context of the same CPU runs only nested: like an
///   interrupt handler, the nested context ends before the interrupted context goes on. (A kernel
///   with preempted threads disables preemption, not just migration.)
/// - `phys_to_virt` of RAM handed to topomem by the kernel is valid for reads and writes, for
///   as long as the platform lives, and maps distinct bytes to distinct addresses.
/// - `virt_to_phys` inverts `phys_to_virt`.
///
/// ```
/// use std::ptr::NonNull;
/// use topomem_percpu::{CpuId, Platform};
/// use topomem_percpu::PhysAddr;
///
/// struct Kernel;
///
/// // SAFETY: there is one CPU, nothing preempts, and RAM is mapped from there on.
/// unsafe impl Platform for Kernel {
///     fn current_cpu(&self) -> CpuId {
///         CpuId::BOOT
///     }
///     fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
///         NonNull::new((0xffff_8000_0000_0000 + addr.as_u64()) as *mut u8).unwrap()
///     }
/// }
///
/// assert_eq!(Kernel.pin().cpu(), CpuId::BOOT);
/// ```
pub unsafe trait Platform: Sync {
    /// Returns the executing CPU; valid with interrupts masked and in interrupt handlers.
    ///
    /// Before the kernel knows the number, the boot CPU is [`CpuId::BOOT`]. Further CPUs use nothing of topomem
    /// before the kernel knows their numbers.
    fn current_cpu(&self) -> CpuId;

    /// Returns the address of the RAM byte at `addr` in the direct map, readable and writable.
    ///
    /// The default is that of an identity map. Kernels whose RAM is elsewhere replace it, unless they take neither frames
    /// nor page tables of topomem: a heap over the kernel's own pages, and a shootdown queue, never call it.
    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        let place = core::ptr::with_exposed_provenance_mut(addr.as_u64() as usize);
        NonNull::new(place).unwrap_or(NonNull::dangling())
    }

    /// Returns the physical address of the RAM byte shown by the direct map at `address`.
    ///
    /// The default is for direct maps with a single difference between addresses, as in most kernels: the method asks
    /// [`Platform::phys_to_virt`] about address 4096, with or without RAM at the address. Kernels with further differences
    /// replace the method. A heap over frames calls the method for each returned run of pages.
    #[inline]
    fn virt_to_phys(&self, address: NonNull<u8>) -> PhysAddr {
        let shown = self.phys_to_virt(PhysAddr::new(SOME)).addr().get() as u64;
        PhysAddr::new((address.addr().get() as u64).wrapping_sub(shown.wrapping_sub(SOME)))
    }

    /// Keeps the calling context on its CPU until the matching [`Platform::enable_migration`];
    /// calls nest. The guard of [`Platform::pin`] keeps the returned value for that call.
    ///
    /// A kernel with preempted threads has two ways. Either the kernel changes a count of the CPU by a single
    /// instruction, and the preempting handler looks at the count; interrupts stay on. Or the kernel masks
    /// interrupts, and returns the former interrupt flag.
    fn disable_migration(&self) -> Saved {
        Saved::default()
    }

    /// Ends the effect of the context's last [`Platform::disable_migration`], with `saved` as returned there.
    fn enable_migration(&self, saved: Saved) {
        let _ = saved;
    }

    /// Runs one turn of a spin loop; every lock and wait of topomem spins through here.
    ///
    /// A kernel polls the shootdown queue here: a CPU spinning with interrupts masked still answers
    /// the awaited CPU. Callers may hold locks of topomem. The method must therefore not wait for
    /// anything.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Pins the calling context to the CPU until the guard is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Platform;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let pin = Host.pin();
    /// assert_eq!(pin.cpu(), Host.current_cpu());
    /// ```
    fn pin(&self) -> PinGuard<'_, Self> {
        let saved = self.disable_migration();
        // SAFETY: migration was just disabled, until the guard enables migration again.
        let pin = unsafe { CpuPin::new(self.current_cpu()) };
        PinGuard { platform: self, saved, pin }
    }
}

// SAFETY: every method is a method of the referenced platform.
unsafe impl<P: Platform + ?Sized> Platform for &P {
    fn current_cpu(&self) -> CpuId {
        (**self).current_cpu()
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        (**self).phys_to_virt(addr)
    }

    fn disable_migration(&self) -> Saved {
        (**self).disable_migration()
    }

    fn enable_migration(&self, saved: Saved) {
        (**self).enable_migration(saved);
    }

    fn virt_to_phys(&self, address: NonNull<u8>) -> PhysAddr {
        (**self).virt_to_phys(address)
    }

    fn relax(&self) {
        (**self).relax();
    }
}

/// Proof of a disabled migration: every borrower runs on [`CpuPin::cpu`].
///
/// Not `Send`. The proof says nothing about interrupts: a handler on the same CPU can nest.
#[derive(Debug)]
pub struct CpuPin {
    cpu: CpuId,
    not_send: PhantomData<*const ()>,
}

impl CpuPin {
    /// Creates the proof.
    ///
    /// # Safety
    ///
    /// The caller runs on `cpu`, and stays on `cpu` for as long as the value lives.
    #[must_use]
    pub const unsafe fn new(cpu: CpuId) -> CpuPin {
        CpuPin { cpu, not_send: PhantomData }
    }

    /// Returns the holder's CPU.
    #[must_use]
    pub const fn cpu(&self) -> CpuId {
        self.cpu
    }
}

/// The guard of [`Platform::pin`]; a [`CpuPin`] by `Deref`. Dropping the guard enables migration again.
#[derive(Debug)]
pub struct PinGuard<'p, P: Platform + ?Sized> {
    platform: &'p P,
    saved: Saved,
    pin: CpuPin,
}

impl<P: Platform + ?Sized> Deref for PinGuard<'_, P> {
    type Target = CpuPin;

    fn deref(&self) -> &CpuPin {
        &self.pin
    }
}

impl<P: Platform + ?Sized> Drop for PinGuard<'_, P> {
    fn drop(&mut self) {
        self.platform.enable_migration(self.saved);
    }
}
