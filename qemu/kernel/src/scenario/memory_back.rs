//! What all CPUs do together at a scenario's end: they meet, return what they cache, and compare the account of
//! memory with that of the start.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use topomem::{CpuId, PendingWork, Topology};
use topomem_stress::{Account, Failure, Record, drain, inconsistencies};

use crate::executor::sleep;
use crate::memory::platform::pin;
use crate::memory::service::SERVICE;
use crate::smp::ipi;
use crate::{log, record};

/// CPUs that have come to a meeting, over all meetings.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);
/// Is all memory back?
static IS_BACK: AtomicBool = AtomicBool::new(false);
/// How often to look whether all memory is back, and how long to wait between.
const LOOKS: usize = 50;
pub(super) const REST: Duration = Duration::from_millis(5);

/// Waits until all CPUs are here. Nothing is allocated for it, so that it changes no account.
pub(super) async fn meet() {
    let all = ipi::running().len();
    let target = (ARRIVED.fetch_add(1, Ordering::SeqCst) / all + 1) * all;
    while ARRIVED.load(Ordering::SeqCst) < target {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Takes the account of memory, with all CPUs' caches returned. Each CPU calls it; `give_up` returns what else
/// the CPU holds.
pub(super) async fn account(topology: &Topology, give_up: impl Fn()) -> Account {
    // Twice: what one CPU returns gives another's memory home.
    for _ in 0..2 {
        meet().await;
        settle(&give_up).await;
    }
    meet().await;
    let account = Account::of(&SERVICE, topology.nodes());
    meet().await;
    account
}

/// Is all memory back that there was `before`, do the service's counts agree, and is `also` true? What is wrong is
/// reported once it stays so. Each CPU calls it; the boot CPU looks, and tells `also` at the last look.
pub(super) async fn is_back(
    cpu: CpuId,
    before: &Account,
    topology: &Topology,
    give_up: impl Fn(),
    also: impl Fn(Look) -> bool,
) -> bool {
    meet().await;
    for look in 1..=LOOKS {
        settle(&give_up).await;
        meet().await;
        if cpu == CpuId::BOOT {
            let look = if look == LOOKS { Look::Last } else { Look::Early };
            let is_right = also(look) & is_all_back(before, topology, look);
            IS_BACK.store(is_right, Ordering::Relaxed);
        }
        // The barrier orders the store before the loads.
        meet().await;
        if IS_BACK.load(Ordering::Relaxed) {
            return true;
        }
    }
    false
}

/// A look at what is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// There will be another one if something is wrong.
    Early,
    /// What is wrong is to be reported.
    Last,
}

/// Has the executing CPU return what it caches, until nothing has retired.
async fn settle(give_up: &impl Fn()) {
    give_up();
    for _ in 0..LOOKS {
        drain(&SERVICE, &pin());
        if SERVICE.run_pending_work(&pin()) == PendingWork::Done {
            break;
        }
        sleep(REST).await;
    }
    drain(&SERVICE, &pin());
}

fn is_all_back(before: &Account, topology: &Topology, look: Look) -> bool {
    let mut is_right = true;
    let mut found = |failure: Failure| {
        is_right = false;
        if look == Look::Last {
            record!("{}", Record::Failure(&failure));
        }
    };
    inconsistencies(&SERVICE, &mut found);
    before.differences(&Account::of(&SERVICE, topology.nodes()), topology.nodes(), found);
    if is_right {
        log!("all frames and objects are back");
    }
    is_right
}
