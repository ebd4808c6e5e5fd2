//! Nodes of memory.

use topomem::frames::NodeSet;
use topomem::region::{MoveError, PageMove};
use topomem::{NodeId, Policy, VirtAddr};

use crate::arch::user::USER_END;
use crate::memory::service::SERVICE;
use crate::process::Task;
use crate::syscall::{Answer, Errno};

// Modes of policies, by Linux's names.
const MPOL_DEFAULT: u32 = 0;
const MPOL_PREFERRED: u32 = 1;
const MPOL_BIND: u32 = 2;
const MPOL_INTERLEAVE: u32 = 3;
const MPOL_LOCAL: u32 = 4;
const MPOL_WEIGHTED_INTERLEAVE: u32 = 6;
/// With a mode: what nodes a process may use does not change which are meant. It never changes here.
const MPOL_F_STATIC_NODES: u32 = 1 << 15;
// What `get_mempolicy` asks for.
const MPOL_F_NODE: u32 = 1 << 0;
const MPOL_F_ADDR: u32 = 1 << 1;
const MPOL_F_MEMS_ALLOWED: u32 = 1 << 2;
// What is done with pages that are mapped by now.
const MPOL_MF_STRICT: u32 = 1 << 0;
const MPOL_MF_MOVE: u32 = 1 << 1;
const MPOL_MF_MOVE_ALL: u32 = 1 << 2;

/// How many pages of a list are moved at once.
const AT_ONCE: usize = 16;
/// The most bits of a mask of nodes: a page's.
const MOST_BITS: u64 = 4096 * 8;
/// How many words a set of nodes has.
const WORDS: usize = NodeSet::EMPTY.words().len();

/// The nodes that have memory.
fn nodes_with_memory() -> NodeSet {
    let nodes = SERVICE.topology().into_iter().flat_map(topomem::Topology::nodes);
    nodes.filter(|&node| SERVICE.frames().stats(node).is_some_and(|stats| stats.managed() > 0)).collect()
}

/// Reads the mask at `from`, of one bit less than `bits`.
async fn read_nodes(task: &Task, from: u64, bits: u64) -> Result<NodeSet, Errno> {
    let bits = bits.saturating_sub(1);
    if from == 0 || bits == 0 {
        return Ok(NodeSet::EMPTY);
    }
    if bits > MOST_BITS {
        return Err(Errno::INVALID);
    }
    let mut nodes = [0; WORDS];
    for at in (0..bits).step_by(64) {
        let [word]: [u64; 1] = task.memory().read_words(from.wrapping_add(at / 8)).await?;
        let word = if bits - at < 64 { word & ((1 << (bits - at)) - 1) } else { word };
        match nodes.get_mut(at as usize / 64) {
            Some(nodes) => *nodes = word,
            // There are no such nodes.
            None if word != 0 => return Err(Errno::INVALID),
            None => {}
        }
    }
    NodeSet::from_words(&nodes).ok_or(Errno::INVALID)
}

/// Writes a mask of one bit less than `bits` to `to`.
async fn write_nodes(task: &Task, to: u64, bits: u64, nodes: NodeSet) -> Result<(), Errno> {
    let bits = bits.saturating_sub(1);
    let needed = nodes_with_memory().iter().last().map_or(0, |last| last.index() as u64 + 1);
    if bits > MOST_BITS || bits < needed {
        return Err(Errno::INVALID);
    }
    for at in (0..bits).step_by(64) {
        let word = nodes.words().get(at as usize / 64).copied().unwrap_or(0);
        task.memory().write_words(to.wrapping_add(at / 8), [word]).await?;
    }
    Ok(())
}

/// The policy that `mode` names with `nodes`; `None` for the default.
fn policy(mode: u64, nodes: NodeSet) -> Result<Option<Policy>, Errno> {
    let mode = mode as u32 & !MPOL_F_STATIC_NODES;
    let usable = nodes.intersection(&nodes_with_memory());
    let policy = match mode {
        MPOL_DEFAULT | MPOL_LOCAL if !nodes.is_empty() => return Err(Errno::INVALID),
        MPOL_DEFAULT => return Ok(None),
        MPOL_LOCAL => Policy::Local,
        MPOL_PREFERRED if nodes.is_empty() => Policy::Local,
        MPOL_PREFERRED => Policy::Preferred(usable.iter().next().ok_or(Errno::INVALID)?),
        MPOL_BIND | MPOL_INTERLEAVE | MPOL_WEIGHTED_INTERLEAVE if usable.is_empty() => {
            return Err(Errno::INVALID);
        }
        MPOL_BIND => Policy::Bind(usable),
        MPOL_INTERLEAVE => Policy::Interleave(usable),
        MPOL_WEIGHTED_INTERLEAVE => Policy::WeightedInterleave(usable),
        _ => return Err(Errno::INVALID),
    };
    Ok(Some(policy))
}

/// How Linux calls a policy: the mode and the nodes.
fn mode_and_nodes(policy: Option<Policy>) -> (u32, NodeSet) {
    match policy {
        None => (MPOL_DEFAULT, NodeSet::EMPTY),
        Some(Policy::Local) => (MPOL_LOCAL, NodeSet::EMPTY),
        Some(Policy::Preferred(node)) => (MPOL_PREFERRED, NodeSet::of(node)),
        Some(Policy::Bind(nodes)) => (MPOL_BIND, nodes),
        Some(Policy::Interleave(nodes)) => (MPOL_INTERLEAVE, nodes),
        Some(Policy::WeightedInterleave(nodes)) => (MPOL_WEIGHTED_INTERLEAVE, nodes),
    }
}

/// `set_mempolicy`: of the process, not of the thread alone.
pub(in crate::syscall) async fn set_policy(task: &Task, mode: u64, nodes: u64, bits: u64) -> Answer {
    let nodes = read_nodes(task, nodes, bits).await?;
    task.memory().set_policy(policy(mode, nodes)?);
    Ok(0)
}

/// `get_mempolicy`.
pub(in crate::syscall) async fn policy_at(task: &Task, [mode, nodes, bits, at, flags]: [u64; 5]) -> Answer {
    let flags = u32::try_from(flags).map_err(|_| Errno::INVALID)?;
    let memory = task.memory();
    let (found, set) = match flags {
        MPOL_F_MEMS_ALLOWED => (MPOL_DEFAULT, nodes_with_memory()),
        0 if at != 0 => return Err(Errno::INVALID),
        0 => mode_and_nodes(memory.policy()),
        MPOL_F_ADDR => mode_and_nodes(memory.policy_of(at)?.or(memory.policy())),
        _ if flags == MPOL_F_NODE | MPOL_F_ADDR => {
            (memory.node_of_used(at).await?.index() as u32, NodeSet::EMPTY)
        }
        _ => return Err(Errno::INVALID),
    };
    if mode != 0 {
        memory.write(mode, &found.to_le_bytes()).await?;
    }
    if nodes != 0 {
        write_nodes(task, nodes, bits, set).await?;
    }
    Ok(0)
}

/// `mbind`.
pub(in crate::syscall) async fn bind(task: &Task, [at, bytes, mode, nodes, bits, flags]: [u64; 6]) -> Answer {
    let flags = u32::try_from(flags).map_err(|_| Errno::INVALID)?;
    if flags & !(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL) != 0 {
        return Err(Errno::INVALID);
    }
    let policy = policy(mode, read_nodes(task, nodes, bits).await?)?;
    task.memory().set_policy_of(at, bytes, policy)?;
    let (Some(policy), true) = (policy, flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL) != 0) else { return Ok(0) };
    let moved = task.memory().move_to(at, bytes, policy)?;
    if moved.stayed > 0 && flags & MPOL_MF_STRICT != 0 { Err(Errno::INPUT_OUTPUT) } else { Ok(0) }
}

fn check_process(task: &Task, process: u64) -> Result<(), Errno> {
    let is_own = process == 0 || process as u32 == task.thread.process.id.0;
    if is_own { Ok(()) } else { Err(Errno::NO_PROCESS) }
}

/// What a program is told of a page.
fn status(outcome: Result<NodeId, MoveError>) -> [u8; 4] {
    let number = match outcome {
        Ok(node) => node.index() as u32,
        Err(error) => Errno::from(error).value() as u32,
    };
    number.to_le_bytes()
}

/// `move_pages`: of the own process. Returns how many pages did not move. With `MPOL_MF_MOVE_ALL`, as without, pages
/// that other processes have, too, stay where they are, and their status is EACCES.
pub(in crate::syscall) async fn move_pages(
    task: &Task,
    [process, count, pages, nodes, statuses, flags]: [u64; 6],
) -> Answer {
    check_process(task, process)?;
    if u32::try_from(flags).map_err(|_| Errno::INVALID)? & !(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL) != 0 {
        return Err(Errno::INVALID);
    }
    let memory = task.memory();
    let at = |list: u64, index: u64, bytes: u64| list.wrapping_add(index.wrapping_mul(bytes));
    let with_memory = nodes_with_memory();
    let mut stayed = 0;
    for first in (0..count).step_by(AT_ONCE) {
        let round = (count - first).min(AT_ONCE as u64);
        let mut moves = [PageMove::new(VirtAddr::new_truncate(0), NodeId::ZERO); AT_ONCE];
        let mut outcomes = [Err(MoveError::NotMovable); AT_ONCE];
        for index in 0..round {
            let [page]: [u64; 1] = memory.read_words(at(pages, first + index, 8)).await?;
            if nodes == 0 {
                outcomes[index as usize] = memory.node_of(page);
                continue;
            }
            let mut node = [0; 4];
            memory.read(at(nodes, first + index, 4), &mut node).await?;
            let node = NodeId::new(u32::from_le_bytes(node) as usize);
            let node = node.filter(|&node| with_memory.contains(node)).ok_or(Errno::NO_DEVICE)?;
            // No page is at 0.
            let page = if page < USER_END { page } else { 0 };
            moves[index as usize] = PageMove::new(VirtAddr::new_truncate(page), node);
        }
        if nodes != 0 {
            let moves = &mut moves[..round as usize];
            memory.move_pages(moves);
            for (outcome, page) in outcomes.iter_mut().zip(moves) {
                *outcome = page.outcome().unwrap_or(Err(MoveError::Busy));
                stayed += u64::from(matches!(outcome, Err(MoveError::Busy | MoveError::OutOfFrames(_))));
            }
        }
        for (index, outcome) in (0..round).zip(outcomes) {
            memory.write(at(statuses, first + index, 4), &status(outcome)).await?;
        }
    }
    Ok(stayed)
}

/// `migrate_pages`: of the own process. Returns how many pages did not move.
pub(in crate::syscall) async fn move_between(
    task: &Task,
    process: u64,
    bits: u64,
    from: u64,
    to: u64,
) -> Answer {
    check_process(task, process)?;
    let from = read_nodes(task, from, bits).await?;
    let to = read_nodes(task, to, bits).await?.intersection(&nodes_with_memory());
    if to.is_empty() {
        return Err(Errno::INVALID);
    }
    Ok(task.memory().move_between(from, to).stayed)
}
