//! Running the second kernel under QEMU.

use std::time::Duration;

use super::Tier;
use crate::error::Error;
use crate::machines::matrix::PLAIN_EMULATION;
use crate::qemu;
use crate::run::session::{self, Ended, Limits};
use crate::topology;
use crate::workspace;

/// The machine: four CPUs on two nodes.
const MACHINE: &str = "two-nodes";
/// It takes seconds; the rest is for a busy host.
const LIMITS: Limits = Limits { silence: Duration::from_secs(60), total: Duration::from_secs(120) };
/// QEMU's status if the kernel found nothing wrong, and the last line that it then writes.
const SUCCESS: (i32, &str) = (33, "ok");

/// Boots the kernel with `tier`. Returns what it wrote, and how it ended if that is not with success.
pub(crate) fn run(tier: Tier) -> Result<(Vec<String>, Option<String>), Error> {
    let image = tier.build()?;
    let spec = topology::load(workspace::root(), MACHINE.as_ref())?;
    let mut command = qemu::machine_command(&spec, PLAIN_EMULATION, 1)?;
    command.arg("-kernel").arg(image);
    let mut lines = Vec::new();
    let end = session::run(command, Some(LIMITS), &mut |line| lines.push(line.to_owned()), &mut || {})?;
    let objection = match end.ended {
        Ended::Exited(status) => {
            let is_success = (status.code(), end.last_line.as_deref()) == (Some(SUCCESS.0), Some(SUCCESS.1));
            (!is_success).then(|| format!("it ended with {status}"))
        }
        Ended::Silent(time) => Some(format!("nothing was said for {} s", time.as_secs())),
        Ended::Overran(time) => Some(format!("it did not end within {} s", time.as_secs())),
    };
    lines.extend(end.complaints);
    Ok((lines, objection))
}
