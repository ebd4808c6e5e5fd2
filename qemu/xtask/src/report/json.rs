//! The machine-readable report. Its form is the same for runs and for benches, and stays.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::collect::Finished;
use super::spread::over_cpus;
use crate::error::Error;
use crate::run::record::{Failure, Measurement};

/// `{"run": {…}, "results": […], "failures": […]}`.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    run: Map<String, Value>,
    results: Vec<Measurement>,
    failures: Vec<Failure>,
}

impl Document {
    /// The report on one run of `scenario`; `description` says what was run and where.
    pub(crate) fn new(
        mut description: Map<String, Value>,
        scenario: &str,
        run: &Finished,
    ) -> Result<Self, Error> {
        let mut insert = |key: &str, value: Result<Value, serde_json::Error>| {
            description.insert(key.to_owned(), value.map_err(Error::Json)?);
            Ok::<_, Error>(())
        };
        insert("topology", serde_json::to_value(&run.topology))?;
        insert("nodes", serde_json::to_value(&run.nodes))?;
        insert("cpus", serde_json::to_value(&run.cpus))?;
        insert("backtraces", serde_json::to_value(&run.backtraces))?;
        insert("qemu_command", Ok(run.command.clone().into()))?;
        insert("duration_seconds", Ok(run.duration.as_secs_f64().into()))?;
        insert("exit", Ok(i32::from(!run.succeeded()).into()))?;
        let mut results = run.results.clone();
        results.extend(over_cpus(scenario, &run.cpus));
        Ok(Self { run: description, results, failures: run.failures.clone() })
    }

    /// The report on measurements that are no run of a scenario.
    pub(crate) fn of_results(
        mut description: Map<String, Value>,
        results: Vec<Measurement>,
        failures: Vec<Failure>,
    ) -> Self {
        description.insert("exit".to_owned(), i32::from(!failures.is_empty()).into());
        Self { run: description, results, failures }
    }

    /// One report on several runs: their results and failures in a row, each run under `runs`.
    pub(crate) fn of_runs(mut description: Map<String, Value>, runs: Vec<(String, Self)>) -> Self {
        let (mut results, mut failures) = (Vec::new(), Vec::new());
        let mut described = Vec::new();
        for (name, document) in runs {
            results.extend(document.results);
            let place = |failure: Failure| Failure::new(failure.what, format!("{name}: {}", failure.place));
            failures.extend(document.failures.into_iter().map(place));
            described.push(Value::Object(document.run));
        }
        description.insert("exit".to_owned(), i32::from(!failures.is_empty()).into());
        description.insert("runs".to_owned(), described.into());
        Self { run: description, results, failures }
    }
}

/// Writes the report to `path`.
pub(crate) fn write(path: &Path, document: &Document) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(document).map_err(Error::Json)?;
    text.push('\n');
    std::fs::write(path, text).map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn has_the_fixed_form() {
        let result = Measurement {
            suite: "frames".to_owned(),
            case: "pair_burst32".to_owned(),
            subject: "topomem".to_owned(),
            cpus: 2,
            unit: "ns".to_owned(),
            median: 10.0,
            low: 9.0,
            high: 12.5,
            n: 100,
        };
        let run = Finished {
            topology: None,
            nodes: Vec::new(),
            cpus: Vec::new(),
            results: vec![result],
            distributions: Vec::new(),
            absent: Vec::new(),
            failures: vec![Failure::new("stale translation", "CPU 1")],
            backtraces: Vec::new(),
            tables: Vec::new(),
            left_out: Vec::new(),
            command: None,
            duration: Duration::from_millis(1500),
        };
        let value = serde_json::to_value(Document::new(Map::new(), "stress", &run).unwrap()).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["failures", "results", "run"]);
        let result: Vec<_> = value["results"][0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(result, ["case", "cpus", "high", "low", "median", "n", "subject", "suite", "unit"]);
        assert_eq!(value["failures"][0], serde_json::json!({"what": "stale translation", "where": "CPU 1"}));
        assert_eq!(value["run"]["exit"], 1);
    }
}
