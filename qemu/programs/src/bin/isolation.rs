//! Attacks what keeps programs apart: looks for what others had in memory, after `fork`, after `execve`, and after
//! the end of a process; and measures how far addresses are spread. The argument says what; the exit code is 0 if
//! nothing was found, else the number of the attack that succeeded.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod attacks {
    use std::ffi::{c_int, c_void};
    use std::hint::black_box;
    use std::io::{self, Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::ptr;
    use std::slice;
    use std::thread;
    use std::time::Duration;

    use topomem_programs::{Check, PAGE, ensure, in_child, wait};

    const LARGE: usize = 2 << 20;
    const WRITABLE: c_int = libc::PROT_READ | libc::PROT_WRITE;
    /// What no other program writes.
    const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec3;
    /// Pages of each kind that hold secrets.
    const PAGES: usize = 256;
    /// Bytes of the stack that hold secrets.
    const STACK: usize = 512 << 10;

    pub(super) fn by_name(name: &str) -> Option<Check> {
        let attack: Check = match name {
            "fork" => fork,
            "exec" => exec,
            "exit" => exit,
            "spread" => spread,
            // What the attacks run.
            "search" => search,
            "addresses" => addresses,
            _ => return None,
        };
        Some(attack)
    }

    /// Words of memory that stay mapped until the program ends.
    type Words = &'static mut [u64];

    /// Maps `bytes`, with `flags` beside the usual ones.
    fn map(bytes: usize, flags: c_int, descriptor: c_int) -> Option<Words> {
        let kind = if flags & libc::MAP_SHARED != 0 { 0 } else { libc::MAP_PRIVATE };
        let anonymous = if descriptor < 0 { libc::MAP_ANONYMOUS } else { 0 };
        // SAFETY: a new mapping concerns nobody, and nobody unmaps it; all bits are valid words.
        unsafe {
            let at = libc::mmap(ptr::null_mut(), bytes, WRITABLE, flags | kind | anonymous, descriptor, 0);
            (at != libc::MAP_FAILED).then(|| slice::from_raw_parts_mut(at.cast(), bytes / 8))
        }
    }

    fn anonymous() -> Option<Words> {
        map(PAGES * PAGE, 0, -1)
    }

    fn shared() -> Option<Words> {
        map(PAGES * PAGE, libc::MAP_SHARED, -1)
    }

    fn populated() -> Option<Words> {
        map(PAGES * PAGE, libc::MAP_POPULATE, -1)
    }

    fn large() -> Option<Words> {
        map(LARGE, libc::MAP_HUGETLB, -1)
    }

    /// A file in memory, with a hole that its mapping fills.
    fn file() -> Option<Words> {
        let bytes = PAGES * PAGE;
        // SAFETY: the file is new.
        let descriptor = unsafe {
            let descriptor = libc::memfd_create(c"holes".as_ptr(), 0);
            if libc::ftruncate(descriptor, bytes as libc::off_t) != 0 {
                return None;
            }
            descriptor
        };
        let words = map(bytes, libc::MAP_SHARED, descriptor);
        // SAFETY: the mapping keeps the file.
        unsafe { libc::close(descriptor) };
        words
    }

    fn heap() -> Option<Words> {
        let bytes = PAGES * PAGE;
        // SAFETY: what the break moves over is this program's alone: the allocator uses no break of its own that
        // it would miss.
        unsafe {
            let at = libc::syscall(libc::SYS_brk, 0) as usize;
            let at = at.next_multiple_of(PAGE);
            let end = libc::syscall(libc::SYS_brk, at + bytes) as usize;
            let at = ptr::with_exposed_provenance_mut::<u64>(at);
            (end >= at.addr() + bytes).then(|| slice::from_raw_parts_mut(at, bytes / 8))
        }
    }

    /// Ways to get memory. The third may find none that is free.
    const WAYS: [fn() -> Option<Words>; 6] = [anonymous, shared, large, populated, file, heap];
    const LARGE_WAY: usize = 2;

    /// Room on the stack, below all that is used: written with secrets, or looked through.
    #[inline(never)]
    fn with_stack<R>(with: impl FnOnce(&mut [u64]) -> R) -> R {
        let mut room = std::mem::MaybeUninit::<[u64; STACK / 8]>::uninit();
        // SAFETY: what the stack holds is looked at on purpose: in this program all bits are valid words, and the
        // compiler is told that something has written them.
        let room = unsafe {
            black_box(&mut room);
            slice::from_raw_parts_mut(black_box(room.as_mut_ptr().cast::<u64>()), STACK / 8)
        };
        with(room)
    }

    /// Has secrets in memory of all kinds. Returns where, by its first word.
    fn hold_secrets() -> Vec<usize> {
        with_stack(|words| words.fill(SECRET));
        let held = WAYS.iter().filter_map(|way| way());
        held.map(|words| {
            // Read first: so the pages may be those of a frame that all programs have.
            black_box(words.iter().fold(0, |sum, word| sum ^ word));
            words.fill(SECRET);
            words.as_ptr().addr()
        })
        .collect()
    }

    /// Takes memory of all kinds: all of it must be zero.
    fn search() -> Result<(), u8> {
        // The system's own words are above: arguments, and what was called already.
        let is_clean = with_stack(|words| !black_box(words).contains(&SECRET));
        ensure(is_clean, 20)?;
        for (number, (way, take)) in (21..).zip(WAYS.iter().enumerate()) {
            match take() {
                Some(words) => ensure(words.iter().all(|&word| word == 0), number)?,
                None => ensure(way == LARGE_WAY, 40 + number)?,
            }
        }
        Ok(())
    }

    /// What a process wrote before it ended is in no memory that another gets, whichever way it ended.
    fn exit() -> Result<(), u8> {
        for round in 0..3 {
            let status = in_child(|| {
                let held = hold_secrets();
                match round {
                    0 => u8::from(held.len() < WAYS.len() - 1),
                    1 => {
                        // Parts go before the rest.
                        for &at in &held {
                            let at = ptr::with_exposed_provenance_mut::<c_void>(at);
                            // SAFETY: nothing uses the pages any more.
                            unsafe {
                                libc::madvise(at, 16 * PAGE, libc::MADV_DONTNEED);
                                libc::munmap(at.wrapping_byte_add(32 * PAGE), 16 * PAGE);
                            }
                        }
                        0
                    }
                    // SAFETY: it ends the process in the middle.
                    _ => unsafe {
                        libc::kill(libc::getpid(), libc::SIGKILL);
                        1
                    },
                }
            });
            let expected = if round == 2 { libc::SIGKILL } else { 0 };
            ensure(status == expected, 1)?;
            // Idle CPUs zero frames that are free.
            thread::sleep(Duration::from_millis(5));
            let status = in_child(|| search().err().unwrap_or(0));
            ensure(libc::WIFEXITED(status), 2)?;
            ensure(libc::WEXITSTATUS(status) == 0, libc::WEXITSTATUS(status) as u8)?;
        }
        Ok(())
    }

    /// What a program had is neither where it was nor in fresh memory once another program has taken its place.
    fn exec() -> Result<(), u8> {
        for _ in 0..3 {
            let status = in_child(|| {
                let held = hold_secrets();
                let on_stack = with_stack(|words| {
                    words.fill(SECRET);
                    words.as_ptr().addr()
                });
                let places = held.into_iter().chain([on_stack]).map(|at| at.to_string());
                let error = Command::new("/isolation").arg("search").args(places).exec();
                error.raw_os_error().unwrap_or(3) as u8
            });
            ensure(libc::WIFEXITED(status), 1)?;
            ensure(libc::WEXITSTATUS(status) == 0, libc::WEXITSTATUS(status) as u8)?;
        }
        Ok(())
    }

    /// Reads where the former program had its secrets. A page may be mapped there, by chance, but not with them.
    pub(super) fn read_places(places: impl Iterator<Item = usize>) -> Result<(), u8> {
        let mut faults = 0;
        let mut count = 0;
        for at in places {
            count += 1;
            let status = in_child(|| {
                // SAFETY: mostly there is nothing, and the copy ends by a signal.
                let word = unsafe { ptr::with_exposed_provenance::<u64>(at).read_volatile() };
                u8::from(word == SECRET)
            });
            if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV {
                faults += 1;
            } else {
                ensure(status == 0, 10)?;
            }
        }
        ensure(faults + 1 >= count, 11)
    }

    /// Parent and child see nothing of what the other writes after the fork, whoever ends first.
    fn fork() -> Result<(), u8> {
        let mut held: Vec<Words> =
            [anonymous, populated, large, heap].iter().filter_map(|way| way()).collect();
        let set = |held: &mut [Words], value: u64| held.iter_mut().for_each(|words| words.fill(value));
        let all =
            |held: &[Words], value: u64| held.iter().all(|words| words.iter().all(|&word| word == value));
        for round in 1..=2 {
            set(&mut held, round);
            let (mut from_child, to_parent) = io::pipe().map_err(|_| 1)?;
            let (from_parent, mut to_child) = io::pipe().map_err(|_| 2)?;
            // SAFETY: there are no other threads.
            let child = unsafe { libc::fork() };
            if child == 0 {
                drop((from_child, to_child));
                let found = child_of_fork(&mut held, round, to_parent, from_parent);
                // SAFETY: it ends the copy.
                unsafe { libc::_exit(c_int::from(found)) };
            }
            drop((to_parent, from_parent));
            let mut said = [0];
            // The child has written its own.
            ensure(from_child.read_exact(&mut said).is_ok() && said == [1], 3)?;
            ensure(all(&held, round), 4)?;
            set(&mut held, SECRET);
            ensure(to_child.write_all(&[1]).is_ok(), 5)?;
            // The child has ended; its child has not, which still has what its parent wrote.
            ensure(wait(child) == 0, 6)?;
            ensure(all(&held, SECRET), 7)?;
            let fresh = in_child(|| search().err().unwrap_or(0));
            ensure(fresh == 0, 8)?;
            ensure(to_child.write_all(&[1]).is_ok(), 9)?;
            ensure(from_child.read_exact(&mut said).is_ok() && said == [2], 10)?;
        }
        Ok(())
    }

    /// What the child of [`fork`] does: 0 if it found nothing of its parent's.
    fn child_of_fork(
        held: &mut [Words],
        round: u64,
        mut to_parent: io::PipeWriter,
        mut from_parent: io::PipeReader,
    ) -> u8 {
        let own = 100 + round;
        let is =
            |held: &[Words], value: u64| held.iter().all(|words| words.iter().all(|&word| word == value));
        let inherits = is(held, round);
        held.iter_mut().for_each(|words| words.fill(own));
        let mut said = [0];
        // The parent has written its own.
        if to_parent.write_all(&[1]).is_err() || from_parent.read_exact(&mut said).is_err() {
            return 1;
        }
        let keeps = is(held, own);
        // SAFETY: there are no other threads.
        if unsafe { libc::fork() } == 0 {
            let told = from_parent.read_exact(&mut said).is_ok();
            let keeps = is(held, own);
            drop(to_parent.write_all(&[if told && keeps { 2 } else { 3 }]));
            return 0;
        }
        // What the parent writes last is not what its child has.
        held.iter_mut().for_each(|words| words.fill(SECRET));
        u8::from(!inherits || !keeps)
    }

    /// Writes where this program's parts are.
    fn addresses() -> Result<(), u8> {
        let local = 0_u8;
        let program = (addresses as *const ()).addr();
        // SAFETY: nothing is moved.
        let break_at = unsafe { libc::syscall(libc::SYS_brk, 0) } as usize;
        let mapping = anonymous().ok_or(1)?;
        println!("{program} {break_at} {} {}", (&raw const local).addr(), mapping.as_ptr().addr());
        Ok(())
    }

    /// How many bits of the number of a page are said to be random: of a program's place, of its break's beyond
    /// that, of the stack's, and of mappings'.
    const RANDOM: [(&str, u32); 4] = [("program", 28), ("break", 13), ("stack", 22), ("mappings", 28)];
    /// Programs that are asked.
    const ASKED: usize = 64;

    /// Starts programs, and looks how many of the bits that are to be random differ among them.
    fn spread() -> Result<(), u8> {
        let mut varying = [0_usize; 4];
        let mut first = None;
        for _ in 0..ASKED {
            let said = Command::new("/isolation").arg("addresses").output().map_err(|_| 1)?;
            let said = String::from_utf8(said.stdout).map_err(|_| 2)?;
            let found: Vec<usize> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [program, break_at, stack, mapping] = found[..] else { return Err(3) };
            let places = [program, break_at.wrapping_sub(program), stack, mapping].map(|at| at / PAGE);
            let first = *first.get_or_insert(places);
            for (varying, (place, first)) in varying.iter_mut().zip(places.iter().zip(first)) {
                *varying |= place ^ first;
            }
        }
        print!("{ASKED} programs, random bits:");
        for ((name, bits), varying) in RANDOM.iter().zip(varying) {
            print!(" {name} {}", (varying & ((1 << bits) - 1)).count_ones());
        }
        println!();
        Ok(())
    }
}

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if let Some(attack) = std::env::args().nth(1).and_then(|name| attacks::by_name(&name)) {
        let places = std::env::args().skip(2).filter_map(|place| place.parse().ok());
        return match attacks::read_places(places).and_then(|()| attack()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(number) => ExitCode::from(number),
        };
    }
    eprintln!("no such attack");
    ExitCode::from(2)
}
