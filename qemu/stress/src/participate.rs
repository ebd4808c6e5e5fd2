//! A run from its beginning to its verdict, as each CPU lives through it.

use topomem::{CpuId, CpuPin};

use crate::Text;
use crate::outcome::account::{self, Account};
use crate::worker::Worker;
use crate::{Course, Failure, Rig, Run, Share};

/// One CPU's part of `run`: to be driven on every CPU of the rig. When all are ready, the run is
/// over: [`Run::conclude`] reports it.
///
/// # Safety
///
/// The future is polled on `cpu` only, which is online in the service and on the kernel's page
/// tables, outside of interrupt handlers; no other context of `cpu` switches address spaces
/// until it is ready.
pub async unsafe fn participate<R: Rig>(run: &Run<R>, cpu: CpuId) {
    // SAFETY: the caller's promise.
    let pin = unsafe { CpuPin::new(cpu) };
    let Some(mut worker) = Worker::new(run, pin) else {
        run.fail(Failure::Refused {
            cpu,
            operation: "allocating a worker's lists",
            error: Text::display(&"out of memory"),
        });
        // The others would wait for this CPU.
        for _ in 0..BARRIERS {
            run.barrier.wait(&run.rig).await;
        }
        return;
    };
    worker.warm_heap();
    run.barrier.wait(&run.rig).await;
    settle(run, &worker).await;
    run.barrier.wait(&run.rig).await;
    if cpu == CpuId::BOOT {
        let account = Account::take(run).await;
        *run.baseline.lock() = Some(account);
        run.start();
    }
    run.barrier.wait(&run.rig).await;
    if cpu == CpuId::BOOT && run.options.scenario.share == Share::Excess {
        worker.check_reserve().await;
    }
    run.barrier.wait(&run.rig).await;
    worker.prelude();
    if cpu == CpuId::BOOT {
        worker.make_file();
    }
    run.barrier.wait(&run.rig).await;

    match run.options.scenario.course {
        Course::OneIsUnresponsive => worker.work_beside_an_unresponsive_cpu().await,
        Course::Stay | Course::ComeAndGo => worker.work().await,
    }

    #[cfg(feature = "fault-injection")]
    if cpu == CpuId::BOOT {
        worker.leak();
    }
    run.barrier.wait(&run.rig).await;
    // After a failure memory may be anybody's: touch no more of it than the report needs.
    if !run.has_failed() {
        worker.give_back();
        if cpu == CpuId::BOOT {
            worker.clear_slots().await;
            worker.drop_file();
        }
    }
    run.barrier.wait(&run.rig).await;
    if !run.has_failed() {
        worker.receive_transfers();
        worker.give_back();
        settle(run, &worker).await;
    }
    run.barrier.wait(&run.rig).await;
    if !run.has_failed() {
        // Once more: draining one CPU gives another's frames and objects home.
        settle(run, &worker).await;
    }
    run.barrier.wait(&run.rig).await;
    if cpu == CpuId::BOOT && !run.has_failed() {
        account::check(run).await;
    }
    run.barrier.wait(&run.rig).await;
}

/// How many barriers a participant passes.
const BARRIERS: usize = 10;

/// Returns what this CPU caches, and lets what has retired go.
async fn settle<R: Rig>(run: &Run<R>, worker: &Worker<'_, R>) {
    const TIMEOUT: u32 = 1000;
    let service = run.rig.service();
    for _ in 0..TIMEOUT {
        account::drain(service, &worker.pin);
        if service.run_pending_work(&worker.pin) == topomem::PendingWork::Done {
            break;
        }
        run.rig.rest(1).await;
    }
    account::drain(service, &worker.pin);
}
