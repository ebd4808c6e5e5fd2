//! What the columns of the tables mean.

use crate::bench::comparison::rounded;
use crate::bench::kernels::Row;
use crate::bench::metric::Metric;

/// What the columns mean.
pub(super) fn of(metric: Metric, rows: &[Row], empty_call: Option<f64>) -> Vec<String> {
    let has = |cell: fn(&Row) -> bool| rows.iter().any(cell);
    let mut lines = match metric {
        Metric::Instructions => vec!["instructions: of all CPUs; N: samples, of which the median".to_owned()],
        Metric::Time => vec![
            "us: the lowest tenth (with several boots the best boot's, up to the worst's), then the median; \
             N: boots x samples"
                .to_owned(),
            "counts: means per change, those of burst16_wait per burst; elided: interrupts not sent as one was on \
             its way, or the CPU idle; idle_alone: the other CPU offline"
                .to_owned(),
        ],
    };
    if has(|row| row.bare.is_some()) {
        lines.push("bare: one interrupt to all other CPUs, counted by each".to_owned());
    }
    if has(|row| row.linux.is_some()) {
        let empty =
            empty_call.map_or_else(String::new, |empty| format!("; an empty one is {}", rounded(empty)));
        lines.push(format!("linux: with the system call, as programs have no other way{empty}"));
        if metric == Metric::Time {
            lines.push(
                "linux unmap_issue is its protect_wait: it has no change that is not waited for; \
                 -: what Linux doesn't count"
                    .to_owned(),
            );
        }
        lines.push("ratio: topomem's figure over Linux's".to_owned());
    }
    lines
}
