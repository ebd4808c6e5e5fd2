//! The operations of allocators that check or zero each free.

use topomem_numa::frames::{DoubleFrees, FramesConfig, Zeroing};

use super::{ALLOCATIONS, CONTEXTS, FREES, explore};
use crate::step_support::Scene;

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn paranoid() {
    let paranoid = || {
        Scene::new(&FramesConfig {
            double_frees: DoubleFrees::FoundAtOnce,
            ..FramesConfig::without_reserve()
        })
    };
    let few = &[CONTEXTS[1], CONTEXTS[4]];
    explore("frames: paranoid allocations", paranoid, ALLOCATIONS, few);
    explore("frames: paranoid frees", paranoid, FREES, few);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "stepped in release builds")]
fn zeroing_on_free() {
    let clearing =
        || Scene::new(&FramesConfig { zeroing: Zeroing::OnFree, ..FramesConfig::without_reserve() });
    let few = &[CONTEXTS[1], CONTEXTS[4]];
    explore("frames: allocations, cleared on free", clearing, &ALLOCATIONS[..6], few);
    explore("frames: frees, cleared on free", clearing, &FREES[..6], few);
}
