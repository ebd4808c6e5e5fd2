//! Checks on which nodes memory is, whatever the machine has: policies of the process and of mappings, pages that
//! move, and pages that move while other threads write to them. The argument says what; the exit code is 0 if all is
//! right, else the number of the check that failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod placement {
    use std::ptr;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use topomem_programs::{Check, PAGE, ensure};

    const DEFAULT: i64 = 0;
    const PREFERRED: i64 = 1;
    const BIND: i64 = 2;
    const INTERLEAVE: i64 = 3;
    const WEIGHTED_INTERLEAVE: i64 = 6;
    const MOVE: i64 = 1 << 1;

    pub(super) fn by_name(name: &str) -> Option<Check> {
        let check: Check = match name {
            "policies" => policies,
            "moves" => moves,
            "in-use" => in_use,
            _ => return None,
        };
        Some(check)
    }

    /// Memory of the program's own.
    struct Place(*mut u8);

    // SAFETY: it is memory, which threads use by atomics.
    unsafe impl Sync for Place {}

    impl Place {
        fn new(pages: usize) -> Result<Place, u8> {
            let (access, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: new memory harms none.
            let at = unsafe { libc::mmap(ptr::null_mut(), pages * PAGE, access, flags, -1, 0) };
            ensure(at != libc::MAP_FAILED, 100)?;
            Ok(Place(at.cast()))
        }

        fn page(&self, page: usize) -> *mut u8 {
            self.0.wrapping_add(page * PAGE)
        }

        /// Writes all pages, the last first.
        fn fill(&self, pages: usize) {
            for page in (0..pages).rev() {
                // SAFETY: it has so many pages.
                unsafe { self.page(page).write_volatile(page as u8 + 1) };
            }
        }

        fn word(&self, page: usize, word: usize) -> &AtomicU64 {
            // SAFETY: it has so many pages, and is used as words only meanwhile.
            unsafe { &*self.page(page).cast::<AtomicU64>().wrapping_add(word) }
        }
    }

    /// The nodes that the program may use, as bits.
    fn allowed() -> Result<u64, u8> {
        let (mut mode, mut nodes) = (0_i32, 0_u64);
        // SAFETY: it writes to what it is given.
        let answer = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, &raw mut nodes, 65_i64, 0_i64, 4_i64)
        };
        ensure(answer == 0 && nodes != 0, 101)?;
        Ok(nodes)
    }

    /// The node of each page.
    fn nodes_of(place: &Place, pages: usize) -> Vec<i32> {
        let list: Vec<*mut u8> = (0..pages).map(|page| place.page(page)).collect();
        let mut nodes = vec![-1_i32; pages];
        let none = ptr::null::<i32>();
        // SAFETY: it writes a number for each page.
        unsafe {
            libc::syscall(libc::SYS_move_pages, 0_i64, pages, list.as_ptr(), none, nodes.as_mut_ptr(), 0_i64)
        };
        nodes
    }

    /// Moves all pages to `node`; what is said of each.
    fn move_to(place: &Place, pages: usize, node: i32) -> Result<Vec<i32>, u8> {
        let list: Vec<*mut u8> = (0..pages).map(|page| place.page(page)).collect();
        let (nodes, mut statuses) = (vec![node; pages], vec![-1000_i32; pages]);
        // SAFETY: it reads and writes a number for each page.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0_i64,
                pages,
                list.as_ptr(),
                nodes.as_ptr(),
                statuses.as_mut_ptr(),
                MOVE,
            )
        };
        ensure(answer >= 0, 102)?;
        Ok(statuses)
    }

    fn set_policy(mode: i64, nodes: u64) -> i64 {
        // SAFETY: it reads what it is given.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, &raw const nodes, 65_i64) }
    }

    fn bind(place: &Place, first: usize, pages: usize, mode: i64, nodes: u64, flags: i64) -> i64 {
        // SAFETY: it reads what it is given.
        unsafe {
            libc::syscall(
                libc::SYS_mbind,
                place.page(first),
                pages * PAGE,
                mode,
                &raw const nodes,
                65_i64,
                flags,
            )
        }
    }

    fn each(nodes: u64) -> Vec<i32> {
        (0..64).filter(|node| nodes >> node & 1 == 1).collect()
    }

    /// How many of the pages are on each of `nodes`.
    fn spread(found: &[i32], nodes: &[i32]) -> Vec<usize> {
        nodes.iter().map(|node| found.iter().filter(|&found| found == node).count()).collect()
    }

    /// Memory comes to be where the process, or the mapping, says.
    fn policies() -> Result<(), u8> {
        let all = allowed()?;
        let nodes = each(all);
        let last = 1_u64 << nodes[nodes.len() - 1];
        let pages = 12 * nodes.len();

        ensure(set_policy(BIND, last) == 0, 1)?;
        let place = Place::new(pages)?;
        place.fill(pages);
        ensure(nodes_of(&place, pages).iter().all(|&node| 1 << node == last), 2)?;
        let (mut mode, mut mask) = (0_i32, 0_u64);
        // SAFETY: it writes to what it is given.
        let asked = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, &raw mut mask, 65_i64, 0_i64, 0_i64)
        };
        ensure(asked == 0 && i64::from(mode) == BIND && mask == last, 3)?;

        for mode in [INTERLEAVE, WEIGHTED_INTERLEAVE] {
            ensure(set_policy(mode, all) == 0, 4)?;
            let place = Place::new(pages)?;
            place.fill(pages);
            let counts = spread(&nodes_of(&place, pages), &nodes);
            // Weights are the machine's affair.
            let is_right = match mode {
                INTERLEAVE => counts.iter().all(|&count| count == 12),
                _ => counts.iter().sum::<usize>() == pages,
            };
            ensure(is_right, 5)?;
        }

        // The mapping's policy goes first.
        let place = Place::new(pages)?;
        ensure(bind(&place, 4, 4, PREFERRED, last, 0) == 0, 6)?;
        place.fill(pages);
        ensure(nodes_of(&place, pages)[4..8].iter().all(|&node| 1 << node == last), 7)?;
        // SAFETY: it writes to what it is given.
        let asked = unsafe {
            let at = place.page(5);
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, &raw mut mask, 65_i64, at, 2_i64)
        };
        ensure(asked == 0 && i64::from(mode) == PREFERRED && mask == last, 8)?;
        // SAFETY: it writes to what it is given.
        let asked = unsafe {
            let (at, none) = (place.page(5), ptr::null_mut::<u64>());
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, none, 0_i64, at, 3_i64)
        };
        ensure(asked == 0 && 1_u64 << mode == last, 9)?;

        // What is there moves if the program asks for it.
        ensure(bind(&place, 0, pages, BIND, 1 << nodes[0], MOVE) == 0, 10)?;
        ensure(nodes_of(&place, pages).iter().all(|&node| node == nodes[0]), 11)?;
        // SAFETY: the pages are there.
        ensure((0..pages).all(|page| unsafe { place.page(page).read_volatile() } == page as u8 + 1), 12)?;

        ensure(set_policy(DEFAULT, 0) == 0, 13)?;
        ensure(set_policy(DEFAULT, all) == -1, 14)?;
        ensure(set_policy(BIND, 0) == -1, 15)?;
        ensure(set_policy(BIND, !all) == -1, 16)?;
        ensure(set_policy(77, all) == -1, 17)?;
        ensure(bind(&place, 0, 1, BIND, all, 64) == -1, 18)
    }

    /// Pages move with what is in them; those that cannot say why.
    fn moves() -> Result<(), u8> {
        let nodes = each(allowed()?);
        let place = Place::new(40)?;
        place.fill(37);
        // SAFETY: the page is there.
        ensure(unsafe { place.page(38).read_volatile() } == 0, 1)?;
        for &node in nodes.iter().chain(nodes.iter().rev()) {
            let statuses = move_to(&place, 40, node)?;
            ensure(statuses[..37].iter().all(|&status| status == node), 2)?;
            ensure(statuses[37] == -libc::ENOENT && statuses[38] == -libc::EFAULT, 3)?;
            ensure(nodes_of(&place, 37).iter().all(|&found| found == node), 4)?;
            // SAFETY: the pages are there.
            ensure((0..37).all(|page| unsafe { place.page(page).read_volatile() } == page as u8 + 1), 5)?;
        }
        // All that is on the first node to the last.
        let (from, to) = (1_u64 << nodes[0], 1_u64 << nodes[nodes.len() - 1]);
        move_to(&place, 37, nodes[0])?;
        // SAFETY: it reads what it is given.
        let stayed =
            unsafe { libc::syscall(libc::SYS_migrate_pages, 0_i64, 65_i64, &raw const from, &raw const to) };
        ensure(stayed >= 0, 6)?;
        ensure(nodes_of(&place, 37).iter().all(|&node| 1_u64 << node == to), 7)?;
        ensure(move_to(&place, 1, 63).is_err(), 8)
    }

    /// Has the calling thread go on on a CPU of its own, if there are enough.
    fn spread_out(thread: usize) {
        // SAFETY: it writes to what it is given, which may be zero, and reads it.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
            let cpus: Vec<usize> = (0..64).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect();
            let mut own: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpus[thread % cpus.len()], &mut own);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const own);
        }
    }

    /// Threads count in words of their own while the pages move back and forth: no number is lost.
    fn in_use() -> Result<(), u8> {
        const PAGES: usize = 6;
        const THREADS: usize = 3;
        const NUMBERS: u64 = 400;
        let nodes = each(allowed()?);
        let place = Place::new(PAGES)?;
        place.fill(PAGES);
        (0..PAGES).for_each(|page| place.word(page, 0).store(0, Ordering::Relaxed));
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let (place, is_done) = (&place, &is_done);
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        spread_out(thread + 1);
                        for number in 0..NUMBERS {
                            for page in 0..PAGES {
                                let word = place.word(page, thread);
                                if word.load(Ordering::Relaxed) != number {
                                    return false;
                                }
                                word.store(number + 1, Ordering::Relaxed);
                            }
                            if number % 16 == 0 {
                                thread::yield_now();
                            }
                        }
                        true
                    })
                })
                .collect();
            let mover = scope.spawn(move || {
                while !is_done.load(Ordering::Acquire) {
                    for &node in &nodes {
                        move_to(place, PAGES, node)?;
                        thread::yield_now();
                    }
                }
                Ok(())
            });
            let is_right = writers.into_iter().all(|writer| writer.join().unwrap_or(false));
            is_done.store(true, Ordering::Release);
            ensure(is_right, 1)?;
            mover.join().unwrap_or(Err(2))
        })
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> ExitCode {
    topomem_programs::run(placement::by_name)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> ExitCode {
    ExitCode::from(255)
}
