//! Checks what a program relies on without thinking of it: registers, the red zone, signals, bad pointers, other
//! CPUs. The argument says what; the exit code is 0 if all is right, else the number of the check that failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod checks {
    use std::arch::asm;
    use std::ffi::{c_int, c_void};
    use std::ptr;
    use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use topomem_programs::{Check, PAGE, ensure, in_child};

    pub(super) fn by_name(name: &str) -> Option<Check> {
        let check: Check = match name {
            "registers" => registers,
            "vectors" => vectors,
            "flags" => flags,
            "red-zone" => red_zone,
            "faults" => faults,
            "alternate-stack" => alternate_stack,
            "bad-pointers" => bad_pointers,
            "every-cpu" => every_cpu,
            "endless" => endless,
            "memory" => memory,
            "fork" => fork,
            "restart" => restart,
            "locks" => locks,
            _ => return None,
        };
        Some(check)
    }

    /// A system call, as the kernel answers it.
    fn system_call(number: i64, arguments: [u64; 6]) -> i64 {
        let [a, b, c, d, e, f] = arguments;
        let answer;
        // SAFETY: the kernel changes what the arguments name, which callers vouch for, and these registers.
        unsafe {
            asm!(
                "syscall",
                inout("rax") number => answer,
                in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
                out("rcx") _, out("r11") _,
                options(nostack),
            );
        }
        answer
    }

    /// Registers keep their values, whatever interrupts, and over system calls.
    fn registers() -> Result<(), u8> {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(60) {
            for call in [0_u64, 39, 24] {
                let wrong: u64;
                // SAFETY: all registers that it changes are named or restored.
                unsafe {
                    asm!(
                        "push rbx", "push rbp",
                        "mov r9d, 20000",
                        "mov rbx, 0x1111111111111111", "mov rdx, 0x2222222222222222",
                        "mov rsi, 0x3333333333333333", "mov rdi, 0x4444444444444444",
                        "mov rbp, 0x5555555555555555", "mov r8, 0x6666666666666666",
                        "mov r10, 0x7777777777777777", "mov r12, 0x0888888888888888",
                        "mov r13, 0x0999999999999999", "mov r14, 0x0aaaaaaaaaaaaaaa",
                        "mov r15, rsp",
                        "2:",
                        "test {call:e}, {call:e}", "jz 3f",
                        "mov eax, {call:e}", "syscall", "sub r9d, 199",
                        "3:",
                        "mov rax, 0x1111111111111111", "cmp rax, rbx", "jne 4f",
                        "mov rax, 0x2222222222222222", "cmp rax, rdx", "jne 4f",
                        "mov rax, 0x3333333333333333", "cmp rax, rsi", "jne 4f",
                        "mov rax, 0x4444444444444444", "cmp rax, rdi", "jne 4f",
                        "mov rax, 0x5555555555555555", "cmp rax, rbp", "jne 4f",
                        "mov rax, 0x6666666666666666", "cmp rax, r8", "jne 4f",
                        "mov rax, 0x7777777777777777", "cmp rax, r10", "jne 4f",
                        "mov rax, 0x0888888888888888", "cmp rax, r12", "jne 4f",
                        "mov rax, 0x0999999999999999", "cmp rax, r13", "jne 4f",
                        "mov rax, 0x0aaaaaaaaaaaaaaa", "cmp rax, r14", "jne 4f",
                        "cmp r15, rsp", "jne 4f",
                        "dec r9d", "jg 2b",
                        "xor eax, eax", "jmp 5f",
                        "4:", "mov eax, 1",
                        "5:", "pop rbp", "pop rbx",
                        call = in(reg) call,
                        out("rax") wrong,
                        out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
                        out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                    );
                }
                ensure(wrong == 0, 1)?;
            }
        }
        Ok(())
    }

    /// So do the vector registers, the rounding mode among them, with several threads on a CPU.
    fn vectors() -> Result<(), u8> {
        let threads: Vec<_> = (1..=3_u64)
            .map(|number| {
                thread::spawn(move || {
                    let start = Instant::now();
                    let mode = 0x1f80 | (number as u32 & 3) << 13;
                    while start.elapsed() < Duration::from_millis(60) {
                        let (low, high, found): (u64, u64, u32);
                        let mut kept = mode;
                        // SAFETY: it changes registers that are named, and the rounding mode, which it restores.
                        unsafe {
                            asm!(
                                "ldmxcsr [{mode}]",
                                "movq xmm3, {number}", "movq xmm15, {number}",
                                "mov ecx, 30000", "2:", "dec ecx", "jnz 2b",
                                "mov eax, 24", "syscall",
                                "movq {low}, xmm3", "movq {high}, xmm15",
                                "stmxcsr [{mode}]", "mov {found:e}, [{mode}]",
                                "mov dword ptr [{mode}], 0x1f80", "ldmxcsr [{mode}]",
                                mode = in(reg) &raw mut kept,
                                number = in(reg) number,
                                low = out(reg) low, high = out(reg) high, found = out(reg) found,
                                out("xmm3") _, out("xmm15") _, out("rax") _, out("rcx") _, out("r11") _,
                            );
                        }
                        if (low, high, found) != (number, number, mode) {
                            return false;
                        }
                    }
                    true
                })
            })
            .collect();
        let right =
            threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|&right| right).count();
        ensure(right == 3, 1)
    }

    /// Flags that a program sets before a system call or a fault do the kernel no harm, and come back.
    fn flags() -> Result<(), u8> {
        // Direction, alignment check, nested task, identification.
        for flags in [1_u64 << 10, 1 << 18, 1 << 14, 1 << 21] {
            for _ in 0..1000 {
                let found: u64;
                // SAFETY: the flags are restored.
                unsafe {
                    asm!(
                        "pushfq", "pushfq", "or [rsp], {flags}", "popfq",
                        "mov eax, 39", "syscall",
                        "pushfq", "pop {found}", "popfq",
                        flags = in(reg) flags, found = out(reg) found,
                        out("rax") _, out("rcx") _, out("r11") _,
                    );
                }
                // Nobody needs the flag of nested tasks.
                ensure(flags == 1 << 14 || found & flags != 0, 1)?;
            }
        }
        Ok(())
    }

    extern "C" fn trample(_: c_int) {
        let mut room = [0xcc_u8; 2048];
        std::hint::black_box(&mut room);
    }

    fn handle(signal: c_int, handler: *const (), flags: c_int) {
        // SAFETY: all zeros are a valid value; the handler is one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = flags;
            libc::sigaction(signal, &action, ptr::null_mut());
        }
    }

    /// A handler leaves alone what lies below the stack pointer.
    fn red_zone() -> Result<(), u8> {
        handle(libc::SIGUSR1, trample as *const (), 0);
        let (process, thread) = (std::process::id(), system_call(libc::SYS_gettid, [0; 6]));
        for number in 0..100_u64 {
            let (first, last): (u64, u64);
            // SAFETY: it writes no further below its stack pointer than a function without calls may.
            unsafe {
                asm!(
                    "mov [rsp - 8], {number}", "mov [rsp - 128], {number}",
                    "mov eax, 234", "syscall",
                    "mov {first}, [rsp - 8]", "mov {last}, [rsp - 128]",
                    number = in(reg) number, first = out(reg) first, last = out(reg) last,
                    in("rdi") u64::from(process), in("rsi") thread, in("rdx") u64::from(libc::SIGUSR1 as u32),
                    out("rax") _, out("rcx") _, out("r11") _,
                );
            }
            ensure(first == number && last == number, 1)?;
        }
        Ok(())
    }

    static FAULTS: AtomicUsize = AtomicUsize::new(0);
    static ADDRESS: AtomicUsize = AtomicUsize::new(0);
    static CODE: AtomicU32 = AtomicU32::new(0);

    extern "C" fn mend(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel hands both to the handler.
        unsafe {
            let address = (*info).si_addr() as usize;
            ADDRESS.store(address, Ordering::Relaxed);
            CODE.store((*info).si_code as u32, Ordering::Relaxed);
            FAULTS.fetch_add(1, Ordering::Relaxed);
            if signal == libc::SIGILL {
                // Beyond `ud2`.
                (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
                return;
            }
            let page = (address & !(PAGE - 1)) as *mut c_void;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            if libc::mprotect(page, PAGE, protection) != 0 {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                libc::mmap(page, PAGE, protection, flags, -1, 0);
            }
        }
    }

    fn pages(count: usize, protection: c_int) -> *mut u8 {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping concerns nobody.
        unsafe { libc::mmap(ptr::null_mut(), count * PAGE, protection, flags, -1, 0).cast() }
    }

    /// A handler learns where the fault was and why, mends it, and the program goes on.
    fn faults() -> Result<(), u8> {
        handle(libc::SIGSEGV, mend as *const (), libc::SA_SIGINFO);
        handle(libc::SIGILL, mend as *const (), libc::SA_SIGINFO);
        let place = pages(3, libc::PROT_READ);
        // SAFETY: the pages are the check's own.
        unsafe {
            libc::munmap(place.add(PAGE).cast(), PAGE);
            for (number, at, code) in [(1, place.add(8), 2), (2, place.add(PAGE + 16), 1)] {
                at.write_volatile(number);
                ensure(at.read_volatile() == number, 10 + number)?;
                ensure(ADDRESS.load(Ordering::Relaxed) == at.addr(), 20 + number)?;
                ensure(CODE.load(Ordering::Relaxed) == code, 30 + number)?;
                ensure(FAULTS.load(Ordering::Relaxed) == usize::from(number), 40 + number)?;
            }
            asm!("ud2");
        }
        ensure(FAULTS.load(Ordering::Relaxed) == 3, 50)
    }

    static HANDLED_AT: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn note_stack(_: c_int) {
        let here = 0_u8;
        HANDLED_AT.store((&raw const here).addr(), Ordering::Relaxed);
    }

    /// A handler runs on the stack that was given for it, and the program goes on on its own.
    fn alternate_stack() -> Result<(), u8> {
        let stack = pages(16, libc::PROT_READ | libc::PROT_WRITE);
        let given = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: 16 * PAGE };
        // SAFETY: the stack is this check's own.
        let (set, raised) = unsafe {
            let set = libc::sigaltstack(&given, ptr::null_mut());
            handle(libc::SIGUSR2, note_stack as *const (), libc::SA_ONSTACK);
            (set, libc::raise(libc::SIGUSR2))
        };
        ensure(set == 0 && raised == 0, 1)?;
        let at = HANDLED_AT.load(Ordering::Relaxed);
        ensure((stack.addr()..stack.addr() + 16 * PAGE).contains(&at), 2)
    }

    /// System calls refuse addresses that are not the program's.
    fn bad_pointers() -> Result<(), u8> {
        let unmapped = pages(2, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the pages are this check's own.
        unsafe { libc::munmap(unmapped.cast(), PAGE) };
        let (unmapped, last) = (unmapped as u64, 0x7fff_ffff_f000_u64);
        let kernel = 0xffff_8000_0010_0000;
        for (number, at) in
            (0_u8..).zip([unmapped, kernel, 0xffff_ffff_8020_0000, last - 8, last, 1 << 47, u64::MAX - 7, 8])
        {
            let fault = -i64::from(libc::EFAULT);
            let calls = [
                (libc::SYS_write, [1, at, 4096, 0, 0, 0]),
                (libc::SYS_writev, [1, at, 1, 0, 0, 0]),
                (libc::SYS_open, [at, 0, 0, 0, 0, 0]),
                (libc::SYS_fstat, [1, at, 0, 0, 0, 0]),
                (libc::SYS_uname, [at, 0, 0, 0, 0, 0]),
                (libc::SYS_sysinfo, [at, 0, 0, 0, 0, 0]),
                (libc::SYS_clock_gettime, [1, at, 0, 0, 0, 0]),
                (libc::SYS_nanosleep, [at, 0, 0, 0, 0, 0]),
                (libc::SYS_getrandom, [at, 64, 0, 0, 0, 0]),
                (libc::SYS_rt_sigaction, [10, at, 0, 8, 0, 0]),
                (libc::SYS_rt_sigaction, [10, 0, at, 8, 0, 0]),
                (libc::SYS_rt_sigprocmask, [0, at, 0, 8, 0, 0]),
                (libc::SYS_sigaltstack, [at, 0, 0, 0, 0, 0]),
                (libc::SYS_sched_getaffinity, [0, 128, at, 0, 0, 0]),
                (libc::SYS_sched_setaffinity, [0, 128, at, 0, 0, 0]),
                (libc::SYS_prlimit64, [0, 3, 0, at, 0, 0]),
                (libc::SYS_getcpu, [at, 0, 0, 0, 0, 0]),
                (libc::SYS_poll, [at, 1, 0, 0, 0, 0]),
                (libc::SYS_futex, [at & !3, 0, 0, 0, 0, 0]),
            ];
            for (call, arguments) in calls {
                if system_call(call, arguments) != fault {
                    println!("system call {call} with {at:#x}");
                    return Err(10 + number);
                }
            }
            if at >= last {
                let refused = -i64::from(libc::EPERM);
                for code in [0x1001, 0x1002] {
                    let set = system_call(libc::SYS_arch_prctl, [code, at, 0, 0, 0, 0]);
                    ensure(set == refused, 30 + number)?;
                }
            }
        }
        ensure(system_call(libc::SYS_mmap, [kernel, 4096, 3, 0x32, u64::MAX, 0]) < 0, 50)?;
        ensure(system_call(libc::SYS_munmap, [kernel, 4096, 0, 0, 0, 0]) < 0, 51)?;
        ensure(system_call(libc::SYS_mprotect, [kernel, 4096, 7, 0, 0, 0]) < 0, 52)?;
        ensure(system_call(libc::SYS_mremap, [kernel, 4096, 8192, 1, 0, 0]) < 0, 53)?;
        ensure(system_call(libc::SYS_madvise, [kernel, 4096, 4, 0, 0, 0]) < 0, 54)?;
        ensure(system_call(9999, [0; 6]) == -i64::from(libc::ENOSYS), 55)
    }

    static MOVING: AtomicBool = AtomicBool::new(true);

    /// A thread runs on each CPU in turn, with its memory, its registers and its locks.
    fn every_cpu() -> Result<(), u8> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let shared = std::sync::Arc::new(std::sync::Mutex::new(0_u64));
        let threads: Vec<_> = (0..4_usize)
            .map(|number| {
                let shared = std::sync::Arc::clone(&shared);
                thread::spawn(move || {
                    for round in 0..count + 4 {
                        let cpu = (number + round) % count;
                        // SAFETY: all zeros are a valid set.
                        let set = unsafe {
                            let mut set: libc::cpu_set_t = std::mem::zeroed();
                            libc::CPU_SET(cpu, &mut set);
                            libc::sched_setaffinity(0, size_of_val(&set), &set)
                        };
                        // SAFETY: it has no requirements.
                        if set != 0 || unsafe { libc::sched_getcpu() } != cpu as c_int {
                            return false;
                        }
                        *shared.lock().unwrap_or_else(|error| error.into_inner()) += 1;
                        let fresh = vec![round as u8; 3 * PAGE];
                        if fresh.iter().any(|&byte| byte != round as u8) {
                            return false;
                        }
                    }
                    true
                })
            })
            .collect();
        let right =
            threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|&right| right).count();
        ensure(right == 4, 1)?;
        let total = *shared.lock().unwrap_or_else(|error| error.into_inner());
        ensure(total == 4 * (count as u64 + 4), 2)
    }

    /// Threads that never stop hold up neither their CPU's others nor the end of the process.
    fn endless() -> Result<(), u8> {
        for _ in 0..2 {
            thread::spawn(|| {
                while MOVING.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        thread::sleep(Duration::from_millis(30));
        Ok(())
    }

    /// A child has its parent's memory, and neither sees what the other writes afterwards.
    fn fork() -> Result<(), u8> {
        const PAGES: usize = 16;
        let place = pages(PAGES, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the pages are this check's own, each touched by one process of its own copy.
        let (set, all) = unsafe {
            (
                |value: u8| (0..PAGES).for_each(|page| place.add(page * PAGE).write_volatile(value)),
                |value: u8| (0..PAGES).all(|page| place.add(page * PAGE).read_volatile() == value),
            )
        };
        for round in 1..=4 {
            set(round);
            let status = in_child(|| {
                let before = all(round);
                set(100 + round);
                let after = all(100 + round);
                // A child of the child's.
                let status = in_child(|| u8::from(!all(100 + round)));
                if before && after && status == 0 { 10 + round } else { 1 }
            });
            ensure(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == c_int::from(10 + round), round)?;
            ensure(all(round), 20 + round)?;
        }
        // SAFETY: address 8 is nobody's.
        let status = in_child(|| unsafe { ptr::without_provenance::<u8>(8).read_volatile() });
        ensure(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, 40)?;
        // SAFETY: it waits for a child that there is none of.
        ensure(unsafe { libc::waitpid(-1, ptr::null_mut(), 0) } == -1, 41)?;
        fork_beside_threads()
    }

    /// Copies are made while other threads write: each child finds what was written before, in order.
    fn fork_beside_threads() -> Result<(), u8> {
        let place = pages(2, libc::PROT_READ | libc::PROT_WRITE) as usize;
        // SAFETY: the words are aligned, in pages that stay, and atomic.
        let word =
            move |page: usize| unsafe { &*ptr::with_exposed_provenance::<AtomicU32>(place + page * PAGE) };
        let writer = thread::spawn(move || {
            let mut number = 0;
            while MOVING.load(Ordering::Relaxed) {
                number += 1;
                word(0).store(number, Ordering::Release);
                word(1).store(number, Ordering::Release);
            }
        });
        for _ in 0..20 {
            let status = in_child(|| {
                // The second is written after the first, and so never ahead of it.
                let (second, first) = (word(1).load(Ordering::Acquire), word(0).load(Ordering::Acquire));
                u8::from(!(second == first || second + 1 == first))
            });
            ensure(status == 0, 50)?;
            thread::sleep(Duration::from_millis(1));
        }
        MOVING.store(false, Ordering::Relaxed);
        writer.join().map_err(|_| 51)
    }

    /// A wait that a signal interrupts goes on after the handler if the action says so, and else ends.
    fn restart() -> Result<(), u8> {
        for (number, flags) in [(1, libc::SA_RESTART), (2, 0)] {
            handle(libc::SIGUSR1, trample as *const (), flags);
            let parent = std::process::id() as libc::pid_t;
            // SAFETY: the child uses nothing that another thread could have left in the middle of a change.
            let child = unsafe { libc::fork() };
            if child == 0 {
                thread::sleep(Duration::from_millis(20));
                // SAFETY: it sends a signal, and ends the process.
                unsafe {
                    libc::kill(parent, libc::SIGUSR1);
                    thread::sleep(Duration::from_millis(20));
                    libc::_exit(7);
                }
            }
            let mut status = -1;
            // SAFETY: the status is this function's own.
            let mut wait = || unsafe { libc::waitpid(child, &mut status, 0) };
            let first = wait();
            let is_interrupted = std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
            match flags {
                0 => ensure(first == -1 && is_interrupted && wait() == child, number)?,
                _ => ensure(first == child, number)?,
            }
            ensure(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, 10 + number)?;
        }
        Ok(())
    }

    /// Locked memory is there before it is used; holes and what may not be used cannot be locked.
    fn locks() -> Result<(), u8> {
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let place = pages(16, write);
        let resident = |place: *mut u8| {
            let mut found = [0_u8; 16];
            // SAFETY: the kernel writes a byte for each page.
            let asked = unsafe { libc::mincore(place.cast(), 16 * PAGE, found.as_mut_ptr()) };
            (asked == 0).then(|| found.iter().filter(|&&byte| byte & 1 == 1).count())
        };
        let fails = |answer: c_int, with: c_int| {
            answer == -1 && std::io::Error::last_os_error().raw_os_error() == Some(with)
        };
        // SAFETY: the pages are this check's own.
        unsafe {
            ensure(resident(place) == Some(0), 1)?;
            // From the middle of a page to that of another.
            ensure(libc::mlock(place.add(PAGE + 100).cast(), 3 * PAGE) == 0, 2)?;
            ensure(resident(place) == Some(4), 3)?;
            ensure(libc::syscall(libc::SYS_mlock2, place, 16 * PAGE, 1) == 0, 4)?;
            ensure(resident(place) == Some(4), 5)?;
            ensure(fails(libc::syscall(libc::SYS_mlock2, place, PAGE, 2) as c_int, libc::EINVAL), 6)?;
            ensure(libc::munlock(place.cast(), 16 * PAGE) == 0, 7)?;
            libc::munmap(place.add(8 * PAGE).cast(), PAGE);
            ensure(fails(libc::mlock(place.cast(), 16 * PAGE), libc::ENOMEM), 8)?;
            ensure(fails(libc::munlock(place.add(8 * PAGE).cast(), 1), libc::ENOMEM), 9)?;
            ensure(fails(libc::mlock(place.cast(), 1 << 46), libc::ENOMEM), 10)?;
            let none = pages(1, libc::PROT_NONE);
            ensure(fails(libc::mlock(none.cast(), PAGE), libc::ENOMEM), 11)?;
            ensure(libc::mlock(none.cast(), 0) == 0, 12)?;

            let before = pages(16, write);
            ensure(fails(libc::mlockall(0), libc::EINVAL) && fails(libc::mlockall(4), libc::EINVAL), 13)?;
            ensure(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) == 0, 14)?;
            ensure(resident(before) == Some(16) && resident(pages(16, write)) == Some(16), 15)?;
            ensure(libc::munlockall() == 0 && resident(pages(16, write)) == Some(0), 16)
        }
    }

    /// Memory keeps what is in it, and loses it when it should.
    fn memory() -> Result<(), u8> {
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let place = pages(8, write);
        // SAFETY: the pages are this check's own.
        unsafe {
            for page in 0..8 {
                place.add(page * PAGE).write_volatile(page as u8 + 1);
            }
            ensure(libc::mprotect(place.cast(), 2 * PAGE, libc::PROT_NONE) == 0, 1)?;
            ensure(libc::mprotect(place.cast(), 2 * PAGE, write) == 0, 2)?;
            ensure(place.add(PAGE).read_volatile() == 2, 3)?;
            ensure(libc::madvise(place.add(2 * PAGE).cast(), PAGE, libc::MADV_DONTNEED) == 0, 4)?;
            ensure(place.add(2 * PAGE).read_volatile() == 0, 5)?;
            let moved = libc::mremap(place.cast(), 8 * PAGE, 64 * PAGE, libc::MREMAP_MAYMOVE).cast::<u8>();
            ensure(moved.addr() != usize::MAX, 6)?;
            ensure(moved.add(7 * PAGE).read_volatile() == 8, 7)?;
            ensure(moved.add(63 * PAGE).read_volatile() == 0, 8)?;
            ensure(libc::munmap(moved.cast(), 64 * PAGE) == 0, 9)?;
            let large = pages(1 << 18, libc::PROT_READ | libc::PROT_WRITE);
            ensure(large.addr() != usize::MAX, 10)?;
            large.add(PAGE * (1 << 17)).write_volatile(1);
            ensure(libc::munmap(large.cast(), PAGE << 18) == 0, 11)?;
            let left = pages(2, write);
            left.write_volatile(1);
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
            let anywhere = ptr::null_mut::<c_void>();
            let taken = libc::mremap(left.cast(), 2 * PAGE, 2 * PAGE, flags, anywhere).cast::<u8>();
            ensure(taken.addr() != usize::MAX, 12)?;
            ensure(taken.read_volatile() == 1 && left.read_volatile() == 0, 13)?;
            left.write_volatile(2);
            ensure(taken.read_volatile() == 1, 14)?;
            ensure(libc::munmap(taken.cast(), 2 * PAGE) == 0 && left.read_volatile() == 2, 15)
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> ExitCode {
    topomem_programs::run(checks::by_name)
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> ExitCode {
    ExitCode::from(255)
}
