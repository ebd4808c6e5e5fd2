//! Linux by its system calls: the host's own, or those that the reference kernel answers to programs in ring 3.
//!
//! Each log runs in a forked process with one thread, which makes raw system calls. Its window lies where
//! nothing else is mapped. The heap is the part of its `brk` area above what is in use. Processes that the
//! log forks are its siblings (`CLONE_PARENT`), so that the runner sees each of them end. Steps are
//! done in order: a step of another process is waited for. The processes allocate nothing. On the reference
//! kernel a process goes to another CPU every few steps, so that CPUs meet translations that they cached some
//! steps ago.

mod files;
mod maps;
mod probe;
mod process;
mod shared;

use std::{fs, io};

use crate::compare::rules::{Rules, Support};
use crate::compare::scope::Scope;
use crate::compare::system::{Broken, System, Trace, execute};
use crate::log::operation::{Operation, PAGE, ProcessId};
use crate::log::slots::{Layout, WINDOW_PAGES};
use crate::log::{Log, Step};
use crate::model::STACK_PAGES;
use files::Files;
use process::LinuxProcess;
use shared::{Mapping, Shared, Turn};

/// Where the window is: far from programs, heaps, stacks and what the kernel places by itself.
const WINDOW: u64 = 0x1000_0000_0000;
/// After this time a process of the host's Linux is ended.
const SECONDS: u32 = 20;
/// What a log may lock, in bytes: its window and its heap.
const LOCKED: u64 = 2 * WINDOW_PAGES * PAGE;
/// The status of a process that could not fork.
const NO_FORK: i32 = 98;

/// Whose system calls they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// The host's Linux.
    Host,
    /// The reference kernel, which runs this program in ring 3.
    Reference,
}

/// A kernel with Linux's system calls.
#[derive(Debug, Clone)]
pub struct Linux {
    kernel: Kernel,
    release: String,
    rules: Rules,
}

impl Linux {
    /// Asks the host which Linux it is.
    ///
    /// # Errors
    ///
    /// If `/proc` does not tell, the version is older than [`Rules::OLDEST_LINUX`], or the process may not
    /// lock as much memory as a log does.
    pub fn of_host() -> io::Result<Linux> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < Rules::OLDEST_LINUX {
            return Err(io::Error::other(format!("Linux {release} is too old to compare with")));
        }
        // SAFETY: plain system calls about this process.
        let may_lock = unsafe { libc::geteuid() == 0 || limit(libc::RLIMIT_MEMLOCK).rlim_max >= LOCKED };
        if !may_lock {
            return Err(io::Error::other(format!("the limit of locked memory is less than {LOCKED} bytes")));
        }
        let support = |is_there: bool| if is_there { Support::Present } else { Support::Absent };
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let rules = Rules {
            huge_advice: support(fs::exists("/sys/kernel/mm/transparent_hugepage")?),
            execute_only: support(cpu.split_whitespace().any(|flag| flag == "ospke")),
            ..Rules::of_linux(version)
        };
        Ok(Linux { kernel: Kernel::Host, release, rules })
    }

    /// Returns the system calls of the reference kernel, for a program that it runs.
    pub fn of_reference_kernel() -> Linux {
        Linux { kernel: Kernel::Reference, release: "as topomem has it".to_owned(), rules: Rules::TOPOMEM }
    }
}

impl Linux {
    /// Tells whether the kernel has all operations of `log`.
    pub fn has(&self, log: &Log) -> bool {
        match self.kernel {
            Kernel::Host => true,
            Kernel::Reference => {
                [Scope::WITHOUT_OBJECTS, Scope::WITHOUT_EXECUTION].iter().any(|scope| scope.has(log))
            }
        }
    }
}

impl System for Linux {
    fn name(&self) -> String {
        format!("Linux {}", self.release)
    }

    fn rules(&self) -> Rules {
        self.rules
    }

    fn adapt(&self, log: &Log) -> Log {
        match self.kernel {
            Kernel::Host => log.clone(),
            // No program has pages that are writable in one mapping and executable in another, so that a log
            // has either mappings of objects or executable ones.
            Kernel::Reference if log.steps.len().is_multiple_of(3) => Scope::WITHOUT_OBJECTS.adapt(log),
            Kernel::Reference => Scope::WITHOUT_EXECUTION.adapt(log),
        }
    }

    fn run(&mut self, log: &Log) -> Result<Trace, Broken> {
        let failed = |error: io::Error| Broken { step: 0, reason: error.to_string() };
        let files = Files::create().map_err(failed)?;
        // SAFETY: asks for the break, without changing it. A process that is forked later has its break
        // there or above; the heap begins a little higher, so that all runs of this program agree.
        let end = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
        let layout = Layout { window: WINDOW, heap: (end + (64 << 20)).next_multiple_of(PAGE) };
        let shared = Mapping::create(layout).map_err(failed)?;
        // SAFETY: the child calls nothing but system calls, and ends by `_exit`.
        match unsafe { libc::fork() } {
            -1 => return Err(failed(io::Error::last_os_error())),
            0 => {
                prepare(self.kernel, layout);
                live(self.kernel, log, &files, &shared)
            }
            _ => {}
        }
        let ended = reap(&shared);
        let broken = |reason: String| Broken { step: shared.due(), reason };
        ended.map_err(broken)?;
        if shared.due() != log.steps.len() {
            return Err(broken("no process was left to go on".to_owned()));
        }
        Ok(Trace { layout, answers: shared.answers() })
    }
}

/// Makes the calling process what a log expects.
fn prepare(kernel: Kernel, layout: Layout) {
    limit_time(kernel);
    // SAFETY: plain system calls about this process.
    unsafe {
        // Huge pages would make more memory resident than the log touches.
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        let stack = libc::rlimit { rlim_cur: STACK_PAGES * PAGE, ..limit(libc::RLIMIT_STACK) };
        libc::setrlimit(libc::RLIMIT_STACK, &stack);
        if kernel == Kernel::Host {
            let locked = limit(libc::RLIMIT_MEMLOCK);
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &libc::rlimit { rlim_cur: locked.rlim_max, ..locked });
            let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &core);
        }
        // The heap below the log's own part is taken away again, so that nothing joins with it.
        let old = libc::syscall(libc::SYS_brk, 0) as u64;
        libc::syscall(libc::SYS_brk, layout.heap);
        let start = old.next_multiple_of(PAGE);
        libc::munmap(start as *mut libc::c_void, (layout.heap - start) as usize);
    }
    probe::install();
}

/// Has the calling process end with the runner, or after [`SECONDS`].
fn limit_time(kernel: Kernel) {
    if kernel == Kernel::Host {
        // SAFETY: plain system calls about this process.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::alarm(SECONDS);
        }
    }
}

/// The type of a resource's name.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
/// The type of a resource's name.
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn limit(resource: Resource) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the limits of this process to the own variable.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit
}

/// Does the steps of process 0, and in the processes that are forked the steps of these.
fn live(kernel: Kernel, log: &Log, files: &Files, shared: &Shared) -> ! {
    let mut own = ProcessId::FIRST;
    let mut process = LinuxProcess { files };
    for (index, Step(by, operation)) in log.steps.iter().enumerate() {
        if *by != own {
            continue;
        }
        if kernel == Kernel::Reference {
            go_to_cpu(index);
        }
        if shared.wait_for(index) == Turn::GivenUp {
            break;
        }
        let mut is_child = false;
        if let Operation::Fork(child) = operation {
            match fork_sibling() {
                -1 => exit(NO_FORK),
                0 => {
                    limit_time(kernel);
                    own = *child;
                    is_child = true;
                }
                _ => {}
            }
        }
        if !is_child {
            // SAFETY: it is this process's turn until `done`.
            unsafe {
                execute(&mut process, operation, shared.slots(), &mut |answer| shared.push(index, answer));
            }
            shared.done();
        }
        if *operation == Operation::Exit {
            break;
        }
    }
    exit(0)
}

/// Forks a process whose parent is this one's parent.
fn fork_sibling() -> i64 {
    let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
    // SAFETY: without a stack and CLONE_VM this is a fork; both processes go on with one thread, and
    // neither uses what the C library keeps of processes.
    unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) }
}

/// Steps for which a process stays on a CPU: all programs take turns there.
const STAY: usize = 4;

/// Moves the calling thread to the CPU that does a step.
fn go_to_cpu(step: usize) {
    let mut cpus = [0_u64; 16];
    // SAFETY: the kernel writes and reads as many bytes as the set has.
    unsafe {
        let bytes = size_of_val(&cpus);
        libc::syscall(libc::SYS_sched_getaffinity, 0, bytes, cpus.as_mut_ptr());
        let count = cpus.iter().map(|word| word.count_ones() as usize).sum::<usize>().max(1);
        let wanted = ((step / STAY).wrapping_mul(0x9e37_79b9) >> 8) % count;
        let mut members = (0..bytes * 8).filter(|&cpu| cpus[cpu / 64] >> (cpu % 64) & 1 != 0);
        if let Some(cpu) = members.nth(wanted) {
            let mut set = [0_u64; 16];
            set[cpu / 64] = 1 << (cpu % 64);
            libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, set.as_ptr());
        }
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process, without running what the runner's threads left undone.
    unsafe { libc::_exit(status) }
}

/// Waits until all processes of the run have ended: the calling thread has no other children.
fn reap(shared: &Shared) -> Result<(), String> {
    let mut result = Ok(());
    loop {
        let mut status = 0;
        // SAFETY: waits for children of this thread, which the kernel tells apart from those of others.
        match unsafe { libc::waitpid(-1, &mut status, libc::__WNOTHREAD) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            -1 => return result,
            _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 => continue,
            _ => {}
        }
        if result.is_ok() {
            result = Err(match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
                (true, probe::CRASHED) => "a process faulted outside of the log's accesses".to_owned(),
                (true, NO_FORK) => "a fork failed".to_owned(),
                _ => format!("a process ended with status {status:#x}"),
            });
            // The others wait for its steps.
            shared.give_up();
        }
    }
}
