//! A scenario's counters as results: each over the CPUs, so that runs can be compared.

use crate::run::record::{CpuCounters, Measurement};

type Counter = fn(&CpuCounters) -> u64;

const COUNTERS: [(&str, &str, Counter); 10] = [
    ("alloc_local", "frames", |cpu| cpu.alloc_local),
    ("alloc_remote", "frames", |cpu| cpu.alloc_remote),
    ("magazine_hits", "frames", |cpu| cpu.magazine_hits),
    ("magazine_misses", "frames", |cpu| cpu.magazine_misses),
    ("absences", "absences", |cpu| cpu.absences),
    ("shootdowns", "requests", |cpu| cpu.shootdowns),
    ("ipis_sent", "IPIs", |cpu| cpu.ipis_sent),
    ("ipis_received", "IPIs", |cpu| cpu.ipis_received),
    ("flush_page", "pages", |cpu| cpu.flush_page),
    ("flush_full", "flushes", |cpu| cpu.flush_full),
];

/// The median, lowest and highest tenth over the CPUs, of each counter.
pub(super) fn over_cpus(scenario: &str, cpus: &[CpuCounters]) -> Vec<Measurement> {
    if cpus.is_empty() {
        return Vec::new();
    }
    let measure = |&(case, unit, counter): &(&str, &str, Counter)| {
        let mut values: Vec<u64> = cpus.iter().map(counter).collect();
        values.sort_unstable();
        let at = |tenths: usize| values[(values.len() - 1) * tenths / 10] as f64;
        Measurement {
            suite: scenario.to_owned(),
            case: case.to_owned(),
            subject: "topomem".to_owned(),
            cpus: cpus.len() as u32,
            unit: format!("{unit} per CPU"),
            median: at(5),
            low: at(1),
            high: at(9),
            n: cpus.len() as u64,
        }
    };
    COUNTERS.iter().map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_over_the_cpus() {
        let cpus: Vec<_> = (0..11)
            .map(|cpu| CpuCounters { cpu, ipis_sent: 10 * u64::from(cpu), ..Default::default() })
            .collect();
        let results = over_cpus("stress", &cpus);
        let sent = results.iter().find(|result| result.case == "ipis_sent").unwrap();
        assert_eq!((sent.median, sent.low, sent.high, sent.n, sent.cpus), (50.0, 10.0, 90.0, 11, 11));
        assert!(over_cpus("stress", &[]).is_empty());
    }
}
