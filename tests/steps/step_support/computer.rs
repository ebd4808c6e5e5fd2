//! A machine that one thread plays: RAM, page walkers, a TLB for each CPU, and interrupts. Nothing
//! in it waits for anything, so an operation may be stopped anywhere while another CPU is played.

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use topomem::sim::Sim;
use topomem::{
    BootAllocator, CpuId, CpuPin, CpuSet, FramesConfig, KernelHeap, KernelLayout, Machine, MemoryService,
    PageRange, PageSize, PerFrameTable, PhysAddr, PhysFrame, Platform, SwitchFlushed, Ticks, Tlb, VirtAddr,
    X64,
};
use topomem_stepper::masked;

pub(crate) const CPUS: usize = 3;

/// The pages that the CPUs use. Each has a place in the TLBs.
pub(crate) const PLACES: usize = 17;

/// Place `PLACES - 1` is in the kernel's half.
pub(crate) const KERNEL: usize = PLACES - 1;

/// Bits of entries, and of translations in the TLBs, which are 0 where there is none.
pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

pub(crate) type Service = MemoryService<&'static Computer>;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Runs `act` as CPU `index`, and goes back to the CPU that was played before.
pub(crate) fn on<R>(index: usize, act: impl FnOnce(&CpuPin) -> R) -> R {
    let before = CPU.replace(index);
    // SAFETY: one thread plays all CPUs, each call inside the last.
    let result = act(&unsafe { CpuPin::new(CpuId::new(index).unwrap()) });
    CPU.set(before);
    result
}

/// One CPU's parts.
#[derive(Default)]
struct Cpu {
    root: AtomicU64,
    cached: [AtomicU64; PLACES],
    interrupted: AtomicBool,
}

pub(crate) struct Computer {
    /// Only its RAM and its firmware tables are used.
    ram: &'static Sim,
    places: [VirtAddr; PLACES],
    cpus: [Cpu; CPUS],
    clock: AtomicU64,
    /// How often the clock has been read since an interrupt was sent.
    looks: AtomicU64,
    service: OnceLock<&'static Service>,
}

impl fmt::Debug for Computer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computer").finish_non_exhaustive()
    }
}

impl Computer {
    /// Boots a service on a new machine, whose CPUs use `places`.
    pub(crate) fn boot(places: [VirtAddr; PLACES]) -> &'static Computer {
        let ram = Sim::builder().nodes(2).cpus(CPUS).memory(24 << 20).build().unwrap();
        let cpus = Default::default();
        let service = OnceLock::new();
        let computer: &'static Computer = Box::leak(Box::new(Computer {
            ram,
            places,
            cpus,
            clock: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            service,
        }));
        let build = move || {
            let service: &'static Service = Box::leak(Box::new(MemoryService::new(computer)));
            let heap: &'static KernelHeap<_> = Box::leak(Box::new(KernelHeap::new(computer, service)));
            (service, heap)
        };
        let builder = std::thread::Builder::new().stack_size(64 << 20);
        let (service, heap) = builder.spawn(build).unwrap().join().unwrap();
        assert!(computer.service.set(service).is_ok());
        on(0, |pin| {
            let discovered = service.boot().unwrap();
            let discovered = discovered.discover(&ram.tables().as_firmware(), Sim::BOOT_APIC, &mut |_| {});
            let config = FramesConfig { table: PerFrameTable::Present, ..FramesConfig::without_reserve() };
            let mut map = ram.memory_map().unwrap();
            let mut boot_memory = BootAllocator::new(&mut map, discovered.topology());
            let frames = discovered.frames(pin, &mut boot_memory, &config).unwrap();
            let window = PageRange::new(Sim::WINDOW, 512, PageSize::Size1GiB).unwrap();
            let layout = KernelLayout { window, inherit: None };
            // SAFETY: nothing is inherited, and the window is the service's alone.
            _ = unsafe { frames.heap(pin, heap).unwrap().kernel_space(pin, &layout) }.unwrap();
        });
        for cpu in 1..CPUS {
            // SAFETY: the CPU takes interrupts, and is brought up once.
            on(cpu, |pin| unsafe { service.cpu_online(pin) }).unwrap();
        }
        computer
    }

    pub(crate) fn service(&self) -> &'static Service {
        self.service.get().unwrap()
    }

    fn cpu(&self) -> &Cpu {
        &self.cpus[CPU.get()]
    }

    /// What `cpu` has cached of `place`: its address, and whether it may be written.
    pub(crate) fn cached(&self, cpu: usize, place: usize) -> u64 {
        self.cpus[cpu].cached[place].load(Relaxed) & (ADDRESS | WRITABLE | PRESENT)
    }

    /// What `cpu` finds in the page tables for `place`, in the form of [`Computer::cached`].
    pub(crate) fn walk(&self, cpu: usize, place: usize) -> u64 {
        self.walk_for(cpu, place, false) & (ADDRESS | WRITABLE | PRESENT)
    }

    /// Walks as the hardware does: marks what it meets accessed, and a page that is written dirty.
    fn walk_for(&self, cpu: usize, place: usize, writes: bool) -> u64 {
        let address = self.places[place].as_u64();
        let mut table = self.cpus[cpu].root.load(Relaxed);
        let mut permits = WRITABLE;
        for shift in [39, 30, 21, 12] {
            let entry = self.word(table + (address >> shift & 511) * 8);
            let found = entry.load(SeqCst);
            if found & PRESENT == 0 {
                return 0;
            }
            permits &= found;
            let is_leaf = shift == 12 || found & LARGE != 0;
            let dirties = is_leaf && writes && permits & WRITABLE != 0;
            let marks = if dirties { ACCESSED | DIRTY } else { ACCESSED };
            entry.fetch_or(marks, SeqCst);
            if is_leaf {
                let offset = address & ((1 << shift) - 1) & ADDRESS;
                let first = found & ADDRESS & !((1 << shift) - 1);
                return first | offset | permits | (found | marks) & DIRTY | PRESENT;
            }
            table = found & ADDRESS;
        }
        0
    }

    /// Reads or writes `place` as `cpu`. Returns the address that it has reached; `None` is a page
    /// fault.
    pub(crate) fn access(&self, cpu: usize, place: usize, writes: bool) -> Option<PhysAddr> {
        let cached = &self.cpus[cpu].cached[place];
        let mut translation = cached.load(Relaxed);
        let needed = if writes { PRESENT | WRITABLE | DIRTY } else { PRESENT };
        if translation & needed != needed {
            // A fault removes the translation that it comes of.
            let refused = translation & PRESENT != 0 && writes && translation & WRITABLE == 0;
            translation = if refused { 0 } else { self.walk_for(cpu, place, writes) };
            cached.store(translation, Relaxed);
        }
        if translation & needed != needed {
            return None;
        }
        let address = translation & ADDRESS;
        let word = self.word(address + 8 * (1 + cpu as u64));
        if writes {
            word.store(address, SeqCst);
        } else {
            word.load(SeqCst);
        }
        Some(PhysAddr::new(address))
    }

    /// The word of RAM at `address`.
    pub(crate) fn word(&self, address: u64) -> &AtomicU64 {
        let word = self.ram.phys_to_virt(PhysAddr::new(address)).cast::<AtomicU64>();
        // SAFETY: RAM lives as long as the machine, and all that uses it here is atomic.
        unsafe { word.as_ref() }
    }

    /// `cpu` takes its interrupt, if there is one.
    pub(crate) fn deliver(&self, cpu: usize) {
        if self.cpus[cpu].interrupted.swap(false, Relaxed) {
            on(cpu, |pin| _ = self.service().on_shootdown_ipi(pin));
        }
    }

    /// The CPUs that are not played take their interrupts.
    pub(crate) fn deliver_others(&self) {
        let played = CPU.get();
        masked(|| (0..CPUS).filter(|&cpu| cpu != played).for_each(|cpu| self.deliver(cpu)));
    }
}

// SAFETY: the ids are those that the thread plays; the RAM is a simulated machine's.
unsafe impl Platform for Computer {
    fn current_cpu(&self) -> CpuId {
        CpuId::new(CPU.get()).unwrap()
    }

    fn phys_to_virt(&self, address: PhysAddr) -> NonNull<u8> {
        self.ram.phys_to_virt(address)
    }

    fn virt_to_phys(&self, address: NonNull<u8>) -> PhysAddr {
        self.ram.virt_to_phys(address)
    }

    /// Meanwhile the other CPUs take their interrupts; the CPU that waits takes its own.
    fn relax(&self) {
        self.deliver_others();
        self.deliver(CPU.get());
    }
}

// SAFETY: the TLB holds one translation for each place, and a flush removes those that it names. A
// walk begins at the root, so there is nothing else to flush.
unsafe impl Tlb for Computer {
    fn flush_page(&self, page: VirtAddr, size: PageSize) {
        let flushed = PageRange::page(page, size);
        let cached = self.places.iter().zip(&self.cpu().cached);
        cached
            .filter(|(place, _)| flushed.contains(**place))
            .for_each(|(_, cached)| cached.store(0, Relaxed));
    }

    fn flush_non_global(&self) {
        // Pages of the kernel's half are global.
        let users = self.places.iter().zip(&self.cpu().cached).filter(|(place, _)| place.as_u64() >> 63 == 0);
        users.for_each(|(_, cached)| cached.store(0, Relaxed));
    }

    fn flush_all(&self) {
        self.cpu().cached.iter().for_each(|cached| cached.store(0, Relaxed));
    }

    fn send_ipi(&self, to: &CpuSet) {
        self.looks.store(0, Relaxed);
        to.iter().for_each(|target| self.cpus[target.index()].interrupted.store(true, Relaxed));
    }

    /// Whoever reads the clock again and again is waiting: the interrupts arrive.
    fn now(&self) -> Ticks {
        if self.looks.fetch_add(1, Relaxed) > 0 {
            self.relax();
        }
        Ticks(self.clock.fetch_add(1, Relaxed))
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(1_000_000)
    }
}

// SAFETY: walks are of four-level x86-64 tables, from the root loaded here; the load flushes what is
// not global.
unsafe impl Machine for &'static Computer {
    type Format = X64;

    fn load_root(&self, root: PhysFrame) -> SwitchFlushed {
        self.cpu().root.store(root.start_address().as_u64(), Relaxed);
        self.flush_non_global();
        SwitchFlushed::Yes
    }
}
