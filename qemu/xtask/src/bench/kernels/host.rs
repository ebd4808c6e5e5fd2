//! Is the host free? Guests whose CPUs wait for each other measure its scheduler where it is not.

use std::time::Duration;

/// How long to look.
const LOOK: Duration = Duration::from_millis(300);
/// The share of its processors' time that others may use.
const FREE: f64 = 0.1;

/// Do other programs use more than a tenth of the host's processors? `false` where it doesn't tell.
pub(super) fn is_busy() -> bool {
    let before = times();
    std::thread::sleep(LOOK);
    match (before, times()) {
        (Some(before), Some(after)) => share(before, after) > FREE,
        _ => false,
    }
}

/// What the processors' time has gone into since the host was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    idle: u64,
    total: u64,
}

fn times() -> Option<Times> {
    parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// The first line of `/proc/stat`: `cpu user nice system idle iowait irq softirq steal …`.
fn parse(text: &str) -> Option<Times> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).take(8).collect();
    let idle = times.get(3)? + times.get(4)?;
    Some(Times { idle, total: times.iter().sum() })
}

fn share(before: Times, after: Times) -> f64 {
    let [idle, total] = [after.idle - before.idle, after.total - before.total].map(|ticks| ticks as f64);
    if total > 0.0 { 1.0 - idle / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_used_time_from_idle_time() {
        let before = parse("cpu  100 0 50 800 50 0 0 0 9 9\ncpu0 1 1\n").unwrap();
        assert_eq!(before, Times { idle: 850, total: 1000 });
        let after = Times { idle: 900, total: 1200 };
        assert_eq!(share(before, after), 0.75);
        assert_eq!(share(before, before), 0.0);
        assert_eq!((parse(""), parse("cpu 1 2"), parse("cpu0 1 2 3 4 5")), (None, None, None));
    }
}
