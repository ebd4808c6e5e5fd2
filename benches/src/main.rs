//! Prints one JSON line per case and subject; `cargo xtask bench frames` renders them.

use topomem_benches::suite::{Effort, run};

fn main() {
    let effort = if std::env::args().any(|arg| arg == "--quick") { Effort::Quick } else { Effort::Full };
    for summary in run(effort).summaries() {
        if let Ok(line) = serde_json::to_string(&summary) {
            println!("{line}");
        }
    }
}
