//! Runs the cases over all subjects, interleaved, each sample in a process of its own.

use std::error::Error;
use std::process::{Command, Stdio};

use super::cases::{CASES, Case, Peers};
use super::held;
use super::locked::{Buddy, LinkedList, Over, Talc, Tlsf};
#[cfg(topomem_peers)]
use super::peers::Mapped;
use super::subject::Subject;
use super::topomem::Topomem;
use crate::sample::{Key, Summary};
use crate::suite::{Effort, Samples};

type Failure = Box<dyn Error + Send + Sync>;

/// What a subject does with memory, which says which cases it takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Takes it from frames or the system, and gives it back.
    Mapping,
    /// Has an arena.
    Arena,
    /// Has an arena, and walks a list of its free blocks.
    List,
}

/// Somebody to measure.
#[derive(Debug)]
struct Candidate {
    name: &'static str,
    kind: Kind,
    sample: fn(Case, usize, Effort) -> Vec<f64>,
    count: fn(Case, usize),
}

impl Candidate {
    const fn of<A: Subject>(kind: Kind) -> Candidate {
        Candidate { name: A::NAME, kind, sample: Case::sample::<A>, count: Case::count::<A> }
    }

    fn takes_part(&self, case: &Case) -> bool {
        match case.peers {
            Peers::All => true,
            Peers::NoLists => self.kind != Kind::List,
            Peers::Mapping => self.kind == Kind::Mapping,
        }
    }
}

/// All that this program was built with.
const CANDIDATES: &[Candidate] = &[
    Candidate::of::<Topomem>(Kind::Mapping),
    #[cfg(topomem_peers)]
    Candidate::of::<Mapped<mimalloc::MiMalloc>>(Kind::Mapping),
    #[cfg(topomem_peers)]
    Candidate::of::<Mapped<snmalloc_rs::SnMalloc>>(Kind::Mapping),
    #[cfg(topomem_peers)]
    Candidate::of::<Mapped<tikv_jemallocator::Jemalloc>>(Kind::Mapping),
    Candidate::of::<Talc>(Kind::Arena),
    Candidate::of::<Over<Tlsf>>(Kind::Arena),
    Candidate::of::<Buddy>(Kind::List),
    Candidate::of::<LinkedList>(Kind::List),
];

fn chosen(subject: &str, case: &str) -> Result<(&'static Candidate, Case), Failure> {
    let candidate = CANDIDATES.iter().find(|candidate| candidate.name == subject);
    let candidate = candidate.ok_or_else(|| format!("{subject} is not in this build"))?;
    Ok((candidate, Case::named(case).ok_or_else(|| format!("no case {case}"))?))
}

/// Takes one sample in this process, and prints its figures, a line each.
///
/// # Errors
///
/// If subject or case are not known.
pub fn run_sample(subject: &str, case: &str, cpus: usize, effort: Effort) -> Result<(), Failure> {
    let (candidate, case) = chosen(subject, case)?;
    (candidate.sample)(case, cpus, effort).iter().for_each(|figure| println!("{figure}"));
    Ok(())
}

/// Does so many operations of a case for callgrind, which counts inside the functions of `counted`.
///
/// # Errors
///
/// If subject or case are not known.
pub fn run_counted(subject: &str, case: &str, operations: usize) -> Result<(), Failure> {
    let (candidate, case) = chosen(subject, case)?;
    (candidate.count)(case, operations);
    Ok(())
}

/// Takes a sample of what topomem holds, on each number of CPUs.
///
/// # Errors
///
/// If a process that takes a sample cannot be started, or fails.
pub fn run_held() -> Result<Vec<Summary>, Failure> {
    let (candidate, case) = chosen(Topomem::NAME, "held")?;
    let mut summaries = Vec::new();
    for &cpus in case.cpus {
        let figures = sample_apart(candidate, case, cpus, Effort::Full)?;
        summaries.extend(figures.into_iter().zip(case.rows()).map(|(figure, (name, unit))| {
            Key { suite: "heap", case: name, subject: candidate.name, cpus, unit }.summary(&[figure])
        }));
    }
    Ok(summaries)
}

/// Measures every subject on every case: in each round, case by case, one subject after the other, a
/// different one first each time.
///
/// # Errors
///
/// If a process that takes a sample cannot be started, or fails.
pub fn run(effort: Effort) -> Result<Vec<Summary>, Failure> {
    let rounds = if effort == Effort::Quick { 3 } else { 11 };
    let mut samples = Samples::default();
    for round in 0..rounds {
        for (row, case) in CASES.iter().enumerate() {
            let first = round % CANDIDATES.len();
            let (later, sooner) = CANDIDATES.split_at(first);
            for &cpus in case.cpus {
                for candidate in sooner.iter().chain(later).filter(|candidate| candidate.takes_part(case)) {
                    let figures = sample_apart(candidate, *case, cpus, effort)?;
                    for (place, (figure, (name, unit))) in figures.into_iter().zip(case.rows()).enumerate() {
                        let key = Key { suite: "heap", case: name, subject: candidate.name, cpus, unit };
                        samples.add(row * held::ROWS.len() + place, key, figure);
                    }
                }
            }
        }
    }
    Ok(samples.summaries())
}

/// Takes one sample in a process of its own.
fn sample_apart(candidate: &Candidate, case: Case, cpus: usize, effort: Effort) -> Result<Vec<f64>, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["heap-sample", "--subject", candidate.name, "--case", case.name]);
    command.args(["--cpus", &cpus.to_string()]);
    if effort == Effort::Quick {
        command.arg("--quick");
    }
    // Large pages for jemalloc, too. mimalloc asks for them by itself.
    command.env("_RJEM_MALLOC_CONF", "thp:always");
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} of {}: {}", case.name, candidate.name, output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::parse).collect::<Result<Vec<f64>, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every subject does every case that it takes part in, on as many threads.
    #[test]
    fn every_subject_does_the_work() {
        for candidate in CANDIDATES {
            for case in CASES.iter().filter(|case| candidate.takes_part(case)) {
                let case = Case { operations: 8 * case.operations.min(2000), ..*case };
                for &cpus in case.cpus {
                    let figures = (candidate.sample)(case, cpus, Effort::Quick);
                    assert_eq!(figures.len(), case.rows().len(), "{} {}", candidate.name, case.name);
                    assert!(figures.iter().all(|&figure| figure > 0.0), "{} {}", candidate.name, case.name);
                }
            }
        }
    }

    #[test]
    fn what_topomem_holds_is_what_its_callers_hold_and_a_little_more() {
        let figures = (CANDIDATES[0].sample)(CASES[CASES.len() - 1], 1, Effort::Quick);
        let [churned, sparse, at_once, reclaimed] = figures[..] else { panic!("{figures:?}") };
        assert!(1.0 < churned && churned < 1.2, "{churned}");
        assert!(1.0 < sparse && sparse < 12.0, "{sparse}");
        assert!(0.0 < at_once && at_once <= reclaimed && 99.0 < reclaimed && reclaimed < 100.0);
    }
}
