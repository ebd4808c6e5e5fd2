//! Checks how programs start others: by `fork` and `execve`, by the standard library, with pipes between them. The
//! argument says what; the exit code is 0 if all is right, else the number of the check that failed.

use std::process::ExitCode;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod checks {
    use std::arch::asm;
    use std::ffi::{c_char, c_int, c_void};
    use std::fs;
    use std::io::{self, Read, Write};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};
    use std::ptr;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use topomem_programs::{Check, ensure, wait};

    pub(super) fn by_name(name: &str) -> Option<Check> {
        let check: Check = match name {
            "commands" => commands,
            "descriptors" => descriptors,
            "handlers" => handlers,
            "threads" => threads,
            "failures" => failures,
            "borrowed" => borrowed,
            "pipes" => pipes,
            "polls" => polls,
            "own-maps" => own_maps,
            "machine" => machine,
            // What the checks above run.
            "echo" => echo,
            "copy" => copy,
            "pause" => pause,
            "raise" => raise,
            "open-files" => open_files,
            _ => return None,
        };
        Some(check)
    }

    /// This program, to do something else.
    fn own(what: &str) -> Command {
        let mut command = Command::new("/children");
        command.arg(what).stdin(Stdio::null());
        command
    }

    fn echo() -> Result<(), u8> {
        let words: Vec<String> = std::env::args().skip(2).collect();
        let variable = std::env::var("VARIABLE").unwrap_or_default();
        println!("{}|{variable}|{}", words.join(","), std::process::id());
        Ok(())
    }

    fn copy() -> Result<(), u8> {
        let copied = io::copy(&mut io::stdin(), &mut io::stdout());
        ensure(copied.is_ok(), 1)
    }

    fn pause() -> Result<(), u8> {
        thread::sleep(Duration::from_secs(60));
        Ok(())
    }

    /// Sends itself both user-defined signals.
    fn raise() -> Result<(), u8> {
        // SAFETY: what comes of it is what is checked.
        unsafe {
            libc::raise(libc::SIGUSR1);
            libc::raise(libc::SIGUSR2);
        }
        Ok(())
    }

    /// Writes which descriptors beyond the standard ones are open.
    fn open_files() -> Result<(), u8> {
        // SAFETY: it asks for a setting.
        let open = (3..64).filter(|&descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFD) } >= 0);
        println!("{:?}", open.collect::<Vec<_>>());
        Ok(())
    }

    /// The standard library's way: arguments, environment, output, exit codes, signals, input through pipes.
    fn commands() -> Result<(), u8> {
        let spoken = own("echo").args(["one", "two words", ""]).env_clear().env("VARIABLE", "value").output();
        let spoken = spoken.map_err(|_| 1)?;
        ensure(spoken.status.success() && spoken.stderr.is_empty(), 2)?;
        ensure(spoken.stdout.starts_with(b"one,two words,|value|"), 3)?;
        let status = own("no such thing").stderr(Stdio::null()).status().map_err(|_| 4)?;
        ensure(status.code() == Some(255), 5)?;

        let mut copying = own("copy").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|_| 6)?;
        let (Some(mut to), Some(mut from)) = (copying.stdin.take(), copying.stdout.take()) else {
            return Err(7);
        };
        // More than both pipes hold.
        let sent: Vec<u8> = (0..400_000_u32).map(|number| (number / 3) as u8).collect();
        let expected = sent.clone();
        let writer = thread::spawn(move || to.write_all(&sent));
        let mut read = Vec::new();
        ensure(from.read_to_end(&mut read).is_ok() && read == expected, 8)?;
        ensure(matches!(writer.join(), Ok(Ok(()))), 9)?;
        ensure(copying.wait().is_ok_and(|status| status.success()), 10)?;

        let mut pausing = own("pause").spawn().map_err(|_| 11)?;
        ensure(pausing.kill().is_ok(), 12)?;
        ensure(pausing.wait().is_ok_and(|status| status.signal() == Some(libc::SIGKILL)), 13)
    }

    /// Files stay open, unless it was said that another program does not get them.
    fn descriptors() -> Result<(), u8> {
        // SAFETY: new descriptors concern nobody.
        unsafe {
            ensure(libc::dup2(1, 20) == 20 && libc::dup2(1, 21) == 21, 1)?;
            ensure(libc::dup3(1, 22, libc::O_CLOEXEC) == 22 && libc::dup3(1, 22, 0) == 22, 2)?;
            ensure(libc::dup3(1, 23, libc::O_CLOEXEC) == 23, 3)?;
            ensure(libc::fcntl(21, libc::F_SETFD, libc::FD_CLOEXEC) == 0, 4)?;
            ensure(libc::fcntl(21, libc::F_GETFD) == libc::FD_CLOEXEC, 5)?;
            ensure(libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 30) == 30, 6)?;
            ensure(libc::dup3(1, 1, 0) == -1 && libc::dup2(1, 1) == 1 && libc::dup2(40, 40) == -1, 7)?;
        }
        let open = own("open-files").output().map_err(|_| 8)?;
        ensure(open.stdout == b"[20, 22]\n", 9)
    }

    static HANDLED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn note(_: c_int) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }

    /// A handler is not the new program's; what is ignored is ignored on.
    fn handlers() -> Result<(), u8> {
        // SAFETY: the handler adds to a number.
        unsafe {
            libc::signal(libc::SIGUSR1, libc::SIG_IGN);
            libc::signal(libc::SIGUSR2, note as *const () as libc::sighandler_t);
            libc::raise(libc::SIGUSR2);
        }
        ensure(HANDLED.load(Ordering::Relaxed) == 1, 1)?;
        let status = own("raise").status().map_err(|_| 2)?;
        ensure(status.signal() == Some(libc::SIGUSR2), 3)
    }

    /// The program of a process is replaced while other threads run, by one that is not the first. The process keeps
    /// its number, and its parent waits for the new program.
    fn threads() -> Result<(), u8> {
        for _ in 0..4 {
            let (mut reader, writer) = io::pipe().map_err(|_| 1)?;
            // SAFETY: the child has one thread and uses nothing that another could have left in a change.
            let child = unsafe { libc::fork() };
            if child == 0 {
                for _ in 0..3 {
                    thread::spawn(|| {
                        let start = Instant::now();
                        while start.elapsed() < Duration::from_secs(60) {
                            std::hint::spin_loop();
                        }
                    });
                    thread::spawn(|| thread::sleep(Duration::from_secs(60)));
                }
                let replacing = thread::spawn(|| own("echo").arg("replaced").stdout(writer).exec());
                // It never ends: the thread's program is replaced.
                drop(replacing.join());
                std::process::exit(1);
            }
            drop(writer);
            let mut said = String::new();
            ensure(child > 0 && reader.read_to_string(&mut said).is_ok(), 2)?;
            ensure(said == format!("replaced||{child}\n"), 3)?;
            ensure(wait(child) == 0, 4)?;
        }
        Ok(())
    }

    /// Returns the error number of an `execve` that comes back.
    fn error_of_exec(path: &[u8], arguments: *const *const c_char) -> i32 {
        // SAFETY: what is wrong with the arguments is the kernel's to find.
        unsafe { libc::execve(path.as_ptr().cast(), arguments, ptr::null()) };
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }

    /// A program that is not started leaves the process as it was.
    fn failures() -> Result<(), u8> {
        let none = ptr::null();
        ensure(error_of_exec(b"/no such program\0", none) == libc::ENOENT, 1)?;
        ensure(error_of_exec(b"/numbers\0", none) == libc::ENOEXEC, 2)?;
        ensure(error_of_exec(b"/plain\0", ptr::without_provenance(8)) == libc::EFAULT, 3)?;
        let long = vec![b'x'; 4000];
        let long = [&long[..], b"\0"].concat();
        let mut many: Vec<*const c_char> = vec![long.as_ptr().cast(); 40];
        many.push(ptr::null());
        ensure(error_of_exec(b"/plain\0", many.as_ptr()) == libc::E2BIG, 4)?;
        let absent = Command::new("/no such program").spawn();
        ensure(absent.is_err_and(|error| error.kind() == io::ErrorKind::NotFound), 5)
    }

    /// A child of `vfork` has its parent's memory itself, and the parent waits for the child's end.
    fn borrowed() -> Result<(), u8> {
        let mut word = 1_u64;
        let child: u64;
        // SAFETY: the child changes the word and ends; it uses no stack.
        unsafe {
            asm!(
                "syscall", "test rax, rax", "jnz 2f",
                // The parent would read the word earlier if it did not wait.
                "mov ecx, 3000000", "3: dec ecx", "jnz 3b",
                "mov qword ptr [r12], 42", "xor edi, edi", "mov eax, 231", "syscall",
                "2:",
                in("r12") &raw mut word,
                inout("rax") libc::SYS_vfork => child,
                out("rcx") _, out("rdi") _, out("r11") _,
            );
        }
        // SAFETY: as the child has written it.
        ensure(unsafe { (&raw const word).read_volatile() } == 42, 1)?;
        ensure(wait(child as c_int) == 0, 2)
    }

    /// Bytes come out as they went in; ends that are gone are noticed.
    fn pipes() -> Result<(), u8> {
        let (mut reader, mut writer) = io::pipe().map_err(|_| 1)?;
        ensure(writer.write_all(b"some bytes").is_ok(), 2)?;
        let mut read = [0; 20];
        ensure(matches!(reader.read(&mut read), Ok(10)) && read.starts_with(b"some bytes"), 3)?;
        drop(writer);
        ensure(matches!(reader.read(&mut read), Ok(0)), 4)?;

        // The standard library ignores SIGPIPE.
        let (reader, mut writer) = io::pipe().map_err(|_| 5)?;
        drop(reader);
        ensure(writer.write_all(b"x").is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe), 6)?;
        // SAFETY: the child ends by the signal.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                drop(writer.write_all(b"x"));
                libc::_exit(0);
            }
            let mut status = 0;
            ensure(libc::waitpid(child, &mut status, 0) == child, 7)?;
            ensure(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGPIPE, 8)?;

            let mut ends = [0; 2];
            ensure(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) == 0, 9)?;
            let [from, to] = ends;
            let mut page = [0_u8; 4096];
            ensure(libc::read(from, page.as_mut_ptr().cast(), 1) == -1, 10)?;
            ensure(io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock, 11)?;
            // Until it is full.
            let written: isize = (0..100)
                .map(|_| libc::write(to, page.as_ptr().cast::<c_void>(), page.len()))
                .take_while(|&written| written > 0)
                .sum();
            ensure(written == 65536, 12)?;
            ensure(libc::lseek(from, 0, libc::SEEK_SET) == -1, 13)
        }
    }

    /// `poll` tells which end is ready, waits for it, and not for longer than it is told.
    fn polls() -> Result<(), u8> {
        let (mut reader, mut writer) = io::pipe().map_err(|_| 1)?;
        let poll = |descriptor: &dyn std::os::fd::AsRawFd, events, limit| {
            let mut polled = libc::pollfd { fd: descriptor.as_raw_fd(), events, revents: 0 };
            // SAFETY: it is one.
            (unsafe { libc::poll(&mut polled, 1, limit) }, polled.revents)
        };
        let start = Instant::now();
        ensure(poll(&reader, libc::POLLIN, 20) == (0, 0), 2)?;
        ensure(start.elapsed() >= Duration::from_millis(20), 3)?;
        ensure(poll(&writer, libc::POLLOUT, -1) == (1, libc::POLLOUT), 4)?;
        let writing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            writer.write_all(b"x").map(|()| writer)
        });
        ensure(poll(&reader, libc::POLLIN, -1) == (1, libc::POLLIN), 5)?;
        let Ok(Ok(writer)) = writing.join() else { return Err(6) };
        drop(writer);
        ensure(poll(&reader, libc::POLLIN, -1) == (1, libc::POLLIN | libc::POLLHUP), 7)?;
        let mut rest = Vec::new();
        ensure(reader.read_to_end(&mut rest).is_ok() && rest == b"x", 8)
    }

    /// One region of `/proc/self/maps`.
    struct Line {
        start: usize,
        end: usize,
        access: String,
        name: String,
    }

    fn lines(text: &str) -> Vec<Line> {
        let parse = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            let (start, end) = (address(start)?, address(end)?);
            Some(Line { start, end, access: words.next()?.into(), name: words.nth(3).unwrap_or("").into() })
        };
        text.lines().filter_map(parse).collect()
    }

    /// The figure of `name` in the lines that follow, in KiB.
    fn figure(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    /// A program finds its mappings, with their rights, where they are, and what they hold.
    fn own_maps() -> Result<(), u8> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping concerns nobody.
        let place = unsafe { libc::mmap(ptr::null_mut(), 64 << 12, libc::PROT_NONE, flags, -1, 0) };
        let place = place.cast::<u8>();
        // SAFETY: the pages are this check's own.
        unsafe {
            libc::mprotect(place.add(8 << 12).cast(), 16 << 12, libc::PROT_READ | libc::PROT_WRITE);
            libc::mprotect(place.add(24 << 12).cast(), 8 << 12, libc::PROT_READ);
            for page in 8..13 {
                place.add(page << 12).write_volatile(1);
            }
        }
        let maps = fs::read_to_string("/proc/self/maps").map_err(|_| 1)?;
        let regions = lines(&maps);
        ensure(regions.len() == maps.lines().count(), 2)?;
        ensure(regions.windows(2).all(|pair| pair[0].end <= pair[1].start), 3)?;
        let at = |address: usize| regions.iter().find(|line| (line.start..line.end).contains(&address));
        for (from, to, access, number) in
            [(0, 8, "---p", 4), (8, 24, "rw-p", 5), (24, 32, "r--p", 6), (32, 64, "---p", 7)]
        {
            let line = at(place.addr() + (from << 12)).ok_or(number)?;
            ensure(line.access == access && line.end >= place.addr() + (to << 12), number)?;
        }
        let code = at((own_maps as *const ()).addr()).ok_or(8)?;
        ensure(code.access == "r-xp", 9)?;
        let local = 0_u8;
        let stack = at((&raw const local).addr()).ok_or(10)?;
        ensure(stack.access == "rw-p" && stack.name == "[stack]", 11)?;

        let smaps = fs::read_to_string("/proc/self/smaps").map_err(|_| 12)?;
        let own = format!("{:08x}-{:08x} ", place.addr() + (8 << 12), place.addr() + (24 << 12));
        let (_, own) = smaps.split_once(&own).ok_or(13)?;
        ensure(figure(own, "Size") == Some(64) && figure(own, "Rss") == Some(20), 14)?;

        let status = fs::read_to_string("/proc/self/status").map_err(|_| 15)?;
        ensure(status.starts_with("Name:\tchildren\n"), 16)?;
        ensure(status.contains(&format!("\nPid:\t{}\n", std::process::id())), 17)?;
        let total: usize = regions.iter().map(|line| line.end - line.start).sum();
        let (size, resident) = (figure(&status, "VmSize").ok_or(18)?, figure(&status, "VmRSS").ok_or(19)?);
        // The text that was read meanwhile has taken memory.
        ensure(size.abs_diff(total as u64 >> 10) <= 1024 && resident > 20 && resident < size, 20)?;
        let program = std::env::current_exe().map_err(|_| 21)?;
        ensure(program == std::path::Path::new("/children"), 22)
    }

    /// The machine's memory is what the kernel says of it elsewhere.
    fn machine() -> Result<(), u8> {
        let text = fs::read_to_string("/proc/meminfo").map_err(|_| 1)?;
        let (total, free) = (figure(&text, "MemTotal").ok_or(2)?, figure(&text, "MemFree").ok_or(3)?);
        // SAFETY: all zeros are valid, and the kernel fills it.
        let information = unsafe {
            let mut information: libc::sysinfo = std::mem::zeroed();
            ensure(libc::sysinfo(&mut information) == 0, 4)?;
            information
        };
        ensure(total == (information.totalram * u64::from(information.mem_unit)) >> 10, 5)?;
        ensure(free > 0 && free < total, 6)
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
