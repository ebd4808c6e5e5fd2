//! Threads.

use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_PARENT, CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND,
    CLONE_THREAD, CLONE_VFORK, CLONE_VM,
};
use topomem::{CpuId, CpuSet};

use super::{Answer, Errno};
use crate::executor::{reserve, yield_now};
use crate::per_cpu::{self, MAX_CPUS};
use crate::process::{Birth, ChildMemory, Parent, Shared, Task, TaskId, Thread, boxed, fork, run};
use crate::smp::ipi;

/// `ARCH_SET_GS`, `ARCH_SET_FS`, `ARCH_GET_FS`, `ARCH_GET_GS`.
const SET_GS: u64 = 0x1001;
const SET_FS: u64 = 0x1002;
const GET_FS: u64 = 0x1003;
const GET_GS: u64 = 0x1004;
/// Bytes of a robust list's head. Nothing is done with it: a thread that dies takes its process with it.
const ROBUST_LIST_BYTES: u64 = 24;
/// Bytes of a set of all CPUs.
const CPU_SET_BYTES: usize = MAX_CPUS.div_ceil(64) * 8;

/// `clone`: a thread of the same process, or a copy of the process.
pub(super) async fn clone(task: &mut Task, [flags, stack, parent_id, child_id, base]: [u64; 5]) -> Answer {
    let flags = flags as u32;
    let has = |flag: u32| flags & flag != 0;
    if !has(CLONE_THREAD) {
        if has(CLONE_VM) && !has(CLONE_VFORK) {
            return Err(Errno::NO_SYSTEM_CALL);
        }
        let birth = Birth {
            memory: if has(CLONE_VM) { ChildMemory::Borrowed } else { ChildMemory::Copied },
            parent: if has(CLONE_PARENT) { Parent::MakersParent } else { Parent::Maker },
            stack: (stack != 0).then_some(stack),
            fs_base: has(CLONE_SETTLS).then_some(base),
            id_at: has(CLONE_CHILD_SETTID).then_some(child_id),
            cleared_at_end: if has(CLONE_CHILD_CLEARTID) { child_id } else { 0 },
        };
        let id = fork(task, birth).await?;
        if has(CLONE_PARENT_SETTID) {
            task.memory().write(parent_id, &id.0.to_le_bytes()).await?;
        }
        return Ok(u64::from(id.0));
    }
    if !has(CLONE_VM) || !has(CLONE_SIGHAND) {
        return Err(Errno::INVALID);
    }
    let id = TaskId::next();
    let process = &task.thread.process;
    let cpu = per_cpu::current().cpu;
    let mut state = boxed(task.state.copy())?;
    state.frame.rax = 0;
    if stack != 0 {
        state.frame.rsp = stack;
    }
    if has(CLONE_SETTLS) && !state.set_fs_base(base) {
        return Err(Errno::NOT_PERMITTED);
    }
    for (flag, at) in [(CLONE_PARENT_SETTID, parent_id), (CLONE_CHILD_SETTID, child_id)] {
        if has(flag) {
            task.memory().write(at, &id.0.to_le_bytes()).await?;
        }
    }
    let place = reserve(cpu).map_err(|_| Errno::AGAIN)?;
    let thread = Thread::new(id, process.clone(), task.thread.memory.clone(), cpu, task.thread.blocked());
    let thread = Shared::new(thread)?;
    process.add(thread.clone())?;
    let mut child = Task::new(thread, state);
    if has(CLONE_CHILD_CLEARTID) {
        child.cleared_at_end = child_id;
    }
    place.spawn(move || run(child)).detach();
    Ok(u64::from(id.0))
}

pub(super) async fn fork_plainly(task: &mut Task) -> Answer {
    Ok(u64::from(fork(task, Birth::default()).await?.0))
}

/// `vfork`: the child has the parent's memory until it ends, or has a program of its own.
pub(super) async fn fork_borrowing(task: &mut Task) -> Answer {
    let birth = Birth { memory: ChildMemory::Borrowed, ..Birth::default() };
    Ok(u64::from(fork(task, birth).await?.0))
}

pub(super) fn set_cleared_at_end(task: &mut Task, address: u64) -> Answer {
    task.cleared_at_end = address;
    Ok(u64::from(task.thread.id.0))
}

pub(super) fn set_robust_list(bytes: u64) -> Answer {
    if bytes == ROBUST_LIST_BYTES { Ok(0) } else { Err(Errno::INVALID) }
}

/// `arch_prctl`.
pub(super) async fn set_base(task: &mut Task, code: u64, value: u64) -> Answer {
    let is_set = match code {
        SET_FS => task.state.set_fs_base(value),
        SET_GS => task.state.set_gs_base(value),
        GET_FS | GET_GS => {
            let base = if code == GET_FS { task.state.fs_base() } else { task.state.gs_base() };
            task.memory().write_words(value, [base]).await?;
            true
        }
        _ => return Err(Errno::INVALID),
    };
    if is_set { Ok(0) } else { Err(Errno::NOT_PERMITTED) }
}

pub(super) async fn let_others_run() -> Answer {
    yield_now().await;
    Ok(0)
}

/// The thread of number `id`, or 0 for the caller: it must be of this process.
fn check(task: &Task, id: u64) -> Result<(), Errno> {
    let found = id == 0 || task.thread.process.with_thread(TaskId(id as u32), |_| ()).is_some();
    if found { Ok(()) } else { Err(Errno::NO_PROCESS) }
}

/// A thread may run on every CPU; it runs where it began or was moved to.
pub(super) async fn affinity(task: &Task, id: u64, bytes: u64, to: u64) -> Answer {
    check(task, id)?;
    let running = ipi::running();
    let mut set = [0_u8; CPU_SET_BYTES];
    for cpu in running.iter() {
        set[cpu.index() / 8] |= 1 << (cpu.index() % 8);
    }
    let needed = running.iter().map(|cpu| cpu.index() / 64 * 8 + 8).max().unwrap_or(8);
    if !bytes.is_multiple_of(8) || (bytes as usize) < needed {
        return Err(Errno::INVALID);
    }
    let written = CPU_SET_BYTES.min(bytes as usize);
    task.memory().write(to, &set[..written]).await?;
    Ok(written as u64)
}

/// Returns the CPU that the calling thread is to go on on: the executing one if it may, else the first.
pub(super) async fn set_affinity(task: &Task, id: u64, bytes: u64, from: u64) -> Result<CpuId, Errno> {
    check(task, id)?;
    if id != 0 && id != u64::from(task.thread.id.0) {
        return Err(Errno::NOT_PERMITTED);
    }
    let mut set = [0_u8; CPU_SET_BYTES];
    let read = CPU_SET_BYTES.min(bytes as usize);
    task.memory().read(from, &mut set[..read]).await?;
    let running = ipi::running();
    let allowed: CpuSet =
        running.iter().filter(|cpu| set[cpu.index() / 8] >> (cpu.index() % 8) & 1 == 1).collect();
    let own = per_cpu::current().cpu;
    if allowed.contains(own) { Ok(own) } else { allowed.iter().next().ok_or(Errno::INVALID) }
}

pub(super) async fn cpu(task: &Task, cpu: u64, node: u64) -> Answer {
    let own = per_cpu::current().cpu;
    if cpu != 0 {
        task.memory().write(cpu, &(own.index() as u32).to_le_bytes()).await?;
    }
    if node != 0 {
        let own_node = crate::memory::service::SERVICE.node_of_cpu(own);
        task.memory().write(node, &(own_node.index() as u32).to_le_bytes()).await?;
    }
    Ok(0)
}
