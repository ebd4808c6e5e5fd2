//! What the service counted during a run, by node and by CPU.

use core::sync::atomic::Ordering;

use topomem::CpuId;

use super::record::{CpuSummary, NodeSummary};
use crate::{Rig, Run};

/// Each node's frames.
pub(crate) fn nodes<R: Rig>(run: &Run<R>, mut each: impl FnMut(NodeSummary)) {
    for node in run.truth.nodes() {
        let Some(stats) = run.rig.service().frames().stats(node) else { continue };
        each(NodeSummary {
            node,
            local: stats.local,
            remote: stats.remote,
            free: stats.all_free(),
            total: stats.managed(),
        });
    }
}

/// What each CPU did.
pub(crate) fn cpus<R: Rig>(run: &Run<R>, mut each: impl FnMut(CpuSummary)) {
    for cpu in (0..run.rig.cpus()).filter_map(CpuId::new) {
        let stats = run.rig.service().cpu_stats(cpu);
        let magazine = stats.magazine.unwrap_or_default();
        each(CpuSummary {
            cpu,
            node: stats.node,
            allocated_local: magazine.local,
            allocated_remote: magazine.remote,
            magazine_hits: magazine.hits,
            magazine_misses: magazine.misses,
            // Relaxed: counts order nothing.
            absences: run.counters(cpu).absences.load(Ordering::Relaxed),
            shootdowns: stats.shootdown.requests,
            ipis_sent: stats.shootdown.ipis_sent,
            ipis_received: stats.shootdown.ipis_received,
            pages_flushed: stats.shootdown.pages_flushed,
            full_flushes: stats.shootdown.full_flushes,
        });
    }
}
