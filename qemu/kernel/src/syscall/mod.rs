//! System calls, by Linux's numbers for x86-64. One that is not here answers `ENOSYS`, and is reported in the log.

mod errno;
mod files;
mod futexes;
mod memory;
mod processes;
mod signals;
mod system;
mod threads;
mod time;
mod unknown;

pub(crate) use errno::Errno;

use linux_raw_sys::general as linux;
use topomem::{CpuId, Unmapping};

use crate::arch::interrupt::trap::TrapFrame;
use crate::memory::platform::Kernel;
use crate::process::{Task, Thread};

/// What a thread does after a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It goes on.
    Continue,
    /// It ends, with this code.
    End(u8),
    /// It goes on on another CPU.
    Move(CpuId),
}

/// What a system call returns to the program.
type Answer = Result<u64, Errno>;

/// What a system call has come to before its first wait.
#[derive(Debug)]
pub(crate) enum Begun<'m> {
    /// It returns this to the program.
    Done(u64),
    /// It returns 0 when this is complete.
    Unmapping(Unmapping<'m, Kernel>),
    /// It has not begun: [`call`] does it.
    Waits,
}

/// Does what `thread`, with the registers in `frame`, asks for, if that mostly needs no wait. Apart from
/// [`call`], since a future keeps in memory what it might have to wait with.
#[inline(never)]
pub(crate) fn begin<'m>(thread: &'m Thread, frame: &TrapFrame) -> Begun<'m> {
    let [a, b, c] = [frame.rdi, frame.rsi, frame.rdx];
    let memory = &thread.memory;
    let change = match frame.rax as u32 {
        linux::__NR_munmap => memory::unmap(memory, a, b),
        linux::__NR_mprotect => memory::protect(memory, a, b, c),
        linux::__NR_madvise if c as u32 == linux::MADV_COLLAPSE => {
            return Begun::Done(memory::collapse(memory, a, b).unwrap_or_else(Errno::value));
        }
        linux::__NR_madvise if memory::may_wait(c) => return Begun::Waits,
        linux::__NR_madvise => memory::advise(memory, a, b, c),
        linux::__NR_getpid => return Begun::Done(u64::from(thread.process.id.0)),
        linux::__NR_getppid => return Begun::Done(u64::from(thread.process.parent.0)),
        linux::__NR_gettid => return Begun::Done(u64::from(thread.id.0)),
        _ => return Begun::Waits,
    };
    match change {
        Ok(None) => Begun::Done(0),
        Ok(Some(unmapping)) => Begun::Unmapping(unmapping),
        Err(error) => Begun::Done(error.value()),
    }
}

/// Does what the thread of `task` asks for, if [`begin`] does not.
pub(crate) async fn call(task: &mut Task) -> Flow {
    let frame = &task.state.frame;
    let arguments = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
    let [a, b, c, d, e, f] = arguments;
    // A program's upper half of the number is not looked at, as Linux has it.
    let number = frame.rax as u32;
    let answer = match number {
        linux::__NR_read => files::read(task, a, b, c, None).await,
        linux::__NR_write => files::write(task, a, b, c, None).await,
        linux::__NR_open => files::paths::open(task, a, b).await,
        linux::__NR_close => files::close(task, a),
        linux::__NR_fstat => files::status(task, a, b).await,
        linux::__NR_poll => files::pipes::poll(task, a, b, c).await,
        linux::__NR_lseek => files::seek(task, a, b, c),
        linux::__NR_ioctl => files::control(task, a, b, c).await,
        linux::__NR_pread64 => files::read(task, a, b, c, Some(d)).await,
        linux::__NR_pwrite64 => files::write(task, a, b, c, Some(d)).await,
        linux::__NR_writev => files::write_pieces(task, a, b, c).await,
        linux::__NR_readv => files::read_pieces(task, a, b, c).await,
        linux::__NR_dup => files::duplicate(task, a),
        linux::__NR_dup2 => files::duplicate_to(task, a, b),
        linux::__NR_dup3 => files::duplicate_elsewhere(task, a, b, c),
        linux::__NR_pipe => files::pipes::pipe(task, a, 0).await,
        linux::__NR_pipe2 => files::pipes::pipe(task, a, b).await,
        linux::__NR_fcntl => files::settings(task, a, b, c),
        linux::__NR_ftruncate => files::resize(task, a, b),
        linux::__NR_fsync | linux::__NR_fdatasync => memory::residence::sync_file(task, a).await,
        linux::__NR_fadvise64 => memory::residence::advise_file(task, a, b, c, d),
        linux::__NR_openat => files::paths::open(task, b, c).await,
        linux::__NR_readlink => files::paths::read_link(task, a, b, c).await,
        linux::__NR_readlinkat => files::paths::read_link(task, b, c, d).await,
        linux::__NR_unlink => files::paths::remove(task, a).await,
        linux::__NR_unlinkat => files::paths::remove(task, b).await,
        linux::__NR_memfd_create => files::paths::create_in_memory(task, a, b).await,
        linux::__NR_stat | linux::__NR_lstat => files::paths::status(task, a, b).await,
        linux::__NR_newfstatat => files::paths::status_at(task, a, b, c, d).await,
        linux::__NR_access => files::paths::check(task, a, b).await,
        linux::__NR_faccessat => files::paths::check(task, b, c).await,
        linux::__NR_getcwd => files::paths::current_folder(task, a, b).await,

        linux::__NR_mmap => memory::map::map(task, [a, b, c, d, e, f]),
        linux::__NR_brk => Ok(task.memory().set_break(a)),
        linux::__NR_mremap => memory::relocate(task, [a, b, c, d, e]),
        linux::__NR_prctl => memory::settings(task, a, b),
        linux::__NR_madvise => memory::advise_and_wait(task, a, b, c).await,
        linux::__NR_msync => memory::residence::sync_memory(task, a, b, c).await,
        linux::__NR_mlock => memory::locks::lock(task, a, b, 0).await,
        linux::__NR_mlock2 => memory::locks::lock(task, a, b, c).await,
        linux::__NR_munlock => memory::locks::unlock(task, a, b).await,
        linux::__NR_mlockall => memory::locks::lock_all(task, a).await,
        linux::__NR_munlockall => memory::locks::unlock_all(task),
        linux::__NR_mincore => memory::residence::in_core(task, a, b, c).await,

        linux::__NR_set_mempolicy => memory::placement::set_policy(task, a, b, c).await,
        linux::__NR_get_mempolicy => memory::placement::policy_at(task, [a, b, c, d, e]).await,
        linux::__NR_mbind => memory::placement::bind(task, arguments).await,
        linux::__NR_move_pages => memory::placement::move_pages(task, arguments).await,
        linux::__NR_migrate_pages => memory::placement::move_between(task, a, b, c, d).await,

        linux::__NR_rt_sigaction => signals::action(task, a, b, c, d).await,
        linux::__NR_rt_sigprocmask => signals::mask(task, a, b, c, d).await,
        linux::__NR_rt_sigpending => signals::pending(task, a, b).await,
        linux::__NR_rt_sigsuspend => signals::suspend(task, a, b).await,
        linux::__NR_rt_sigreturn => return signals::return_from_handler(task).await,
        linux::__NR_sigaltstack => signals::alternate_stack(task, a, b).await,
        linux::__NR_pause => signals::pause(task).await,
        linux::__NR_kill => signals::kill(task, a, b),
        linux::__NR_tkill => signals::kill_thread(task, None, a, b),
        linux::__NR_tgkill => signals::kill_thread(task, Some(a), b, c),

        linux::__NR_clone => threads::clone(task, [a, b, c, d, e]).await,
        linux::__NR_fork => threads::fork_plainly(task).await,
        linux::__NR_vfork => threads::fork_borrowing(task).await,
        linux::__NR_execve => match processes::exec(task, a, b, c).await {
            // Its registers are those of another program.
            Ok(()) => return Flow::Continue,
            Err(error) => Err(error),
        },
        linux::__NR_exit => return Flow::End(a as u8),
        linux::__NR_exit_group => return processes::exit(task, a),
        linux::__NR_wait4 => processes::wait(task, a, b, c, d).await,
        linux::__NR_getuid | linux::__NR_geteuid | linux::__NR_getgid | linux::__NR_getegid => Ok(0),
        linux::__NR_set_tid_address => threads::set_cleared_at_end(task, a),
        linux::__NR_set_robust_list => threads::set_robust_list(b),
        linux::__NR_arch_prctl => threads::set_base(task, a, b).await,
        linux::__NR_sched_yield => threads::let_others_run().await,
        linux::__NR_sched_getaffinity => threads::affinity(task, a, b, c).await,
        linux::__NR_sched_setaffinity => match threads::set_affinity(task, a, b, c).await {
            Ok(cpu) => {
                task.state.frame.rax = 0;
                return Flow::Move(cpu);
            }
            Err(error) => Err(error),
        },
        linux::__NR_getcpu => threads::cpu(task, a, b).await,
        linux::__NR_futex => futexes::futex(task, [a, b, c, d, e, f]).await,

        linux::__NR_clock_gettime => time::now(task, a, b).await,
        linux::__NR_nanosleep => time::sleep(task, a, b).await,
        linux::__NR_clock_nanosleep => time::sleep_by_clock(task, [a, b, c, d]).await,
        linux::__NR_uname => system::name(task, a).await,
        linux::__NR_sysinfo => system::information(task, a).await,
        linux::__NR_prlimit64 => system::limit(task, a, b, c, d).await,
        linux::__NR_getrusage => processes::usage(task, a, b).await,
        linux::__NR_getrandom => system::random(task, a, b).await,
        _ => {
            unknown::report(number);
            Err(Errno::NO_SYSTEM_CALL)
        }
    };
    if answer == Err(Errno::INTERRUPTED) && restarts(number, d) {
        task.interrupted_call = Some(number);
    }
    task.state.frame.rax = answer.unwrap_or_else(Errno::value);
    Flow::Continue
}

/// Tells whether a system call that a signal has interrupted is made again, if the signal's action says so:
/// one that waits, but not for a time, nor for a signal. `limit` is its fourth argument.
fn restarts(number: u32, limit: u64) -> bool {
    match number {
        linux::__NR_wait4 | linux::__NR_read | linux::__NR_write | linux::__NR_readv | linux::__NR_writev => {
            true
        }
        linux::__NR_futex => limit == 0,
        _ => false,
    }
}
