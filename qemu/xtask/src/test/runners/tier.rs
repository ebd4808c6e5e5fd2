//! A step that boots the second kernel.

use crate::error::Error;
use crate::test::Outcome;
use crate::test::tally::Tally;
use crate::tiers::{self, Tier};

/// How much of its boot stack the kernel may use with a tier, in bytes: what most kernels have is 16 KiB, and interrupts
/// may come on top.
const fn boot_stack(tier: Tier) -> usize {
    match tier {
        Tier::None | Tier::Heap | Tier::Shootdown => 4 * 1024,
        Tier::Frames | Tier::FramesHeap => 10 * 1024,
        Tier::Everything => 14 * 1024,
    }
}

/// What the kernel writes behind the number of bytes.
const OF_BOOT_STACK: &str = " bytes of the boot stack were used";

/// It passes if the kernel ends with success, and has used no more of its boot stack than it may.
pub(in crate::test) fn run(tier: Tier) -> Result<Outcome, Error> {
    let (mut output, objection) = tiers::run(tier)?;
    Ok(match objection.or_else(|| stack_objection(boot_stack(tier), &output)) {
        None => {
            let told = |line: &&String| ["preemptions", "boot stack"].iter().any(|word| line.contains(word));
            output.iter().filter(told).for_each(|line| println!("    {line}"));
            Outcome { tally: Tally::PASSED, output }
        }
        Some(objection) => {
            output.push(objection);
            Outcome { tally: Tally::FAILED, output }
        }
    })
}

/// Says what is wrong with what the kernel wrote of its boot stack, if anything is.
fn stack_objection(allowed: usize, output: &[String]) -> Option<String> {
    let used = output.iter().find_map(|line| line.strip_suffix(OF_BOOT_STACK)?.parse::<usize>().ok());
    match used {
        None => Some("it does not say how much of the boot stack was used".to_owned()),
        Some(used) if used > allowed => {
            Some(format!("it used {used} bytes of the boot stack, and {allowed} are allowed"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_boot_stack_is_found() {
        let said = |used: &str| stack_objection(10_240, &["ok".to_owned(), format!("{used}{OF_BOOT_STACK}")]);
        assert_eq!(said("10240"), None);
        assert!(said("10241").is_some_and(|objection| objection.contains("10241 bytes")));
        assert!(stack_objection(10_240, &["ok".to_owned()]).is_some());
    }
}
