//! `--break leak-frame` and `leak-object`: a worker forgets what it holds.

use core::alloc::Layout;

use topomem::FrameRequest;

use crate::Rig;
use crate::breakage::Break;
use crate::worker::Worker;

impl<R: Rig> Worker<'_, R> {
    /// Takes something and forgets it, if the run is to have that fault.
    pub(crate) fn leak(&mut self) {
        let service = self.run.rig.service();
        match self.run.fault() {
            Some(Break::LeakFrame) => {
                let _ = service.frames().alloc(&self.pin, &FrameRequest::frame());
            }
            Some(Break::LeakObject) => {
                let _ = service.heap().map(|heap| heap.heap().try_alloc(Layout::new::<[u64; 8]>()));
            }
            _ => {}
        }
    }
}
