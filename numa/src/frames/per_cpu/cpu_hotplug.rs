//! CPUs coming online and going offline, and draining.

use topomem_percpu::{CpuId, CpuPin, Platform};

use crate::frames::Frames;
use crate::frames::magazine::Magazine;
use crate::frames::types::OnlineError;

impl<P: Platform> Frames<P> {
    /// Gives the pinned CPU its magazine. Until then the CPU allocates on the shared path.
    ///
    /// # Errors
    ///
    /// Returns [`OnlineError::NotReady`] if [`Frames::init`] has not run, and
    /// [`OnlineError::UnknownCpu`] if the topology passed to it does not name this CPU.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// assert!(frames.cpu_stats(pin.cpu()).is_some()); // the boot CPU is online
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), OnlineError> {
        let state = self.state().ok_or(OnlineError::NotReady)?;
        let magazine = state.magazine(pin.cpu()).ok_or(OnlineError::UnknownCpu(pin.cpu()))?;
        self.magazines.install(magazine, state.checked, state.zeroing);
        Ok(())
    }

    /// Drains the pinned CPU's magazine, and takes the magazine away. The CPU continues on the
    /// shared path, and may come online again.
    ///
    /// Handlers that run meanwhile take the shared path, so nothing is left in the magazine. If
    /// called by a handler that interrupted a use of the magazine, the function leaves the magazine
    /// in place, requests a drain, and returns [`Drained::Later`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::frames::Drained;
    ///
    /// assert_eq!(frames.cpu_offline(pin), Drained::Everything); // the CPU allocates on the shared path now
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn cpu_offline(&self, pin: &CpuPin) -> Drained {
        let (Some(ready), Some(magazine)) = (self.ready(), self.magazines.get(pin.cpu())) else {
            return Drained::Everything;
        };
        let Some(guard) = magazine.enter() else {
            magazine.request_drain();
            return Drained::Later;
        };
        ready.flush_all(&guard);
        self.magazines.remove(pin.cpu());
        // Never opened again, except by `cpu_online`.
        guard.close();
        Drained::Everything
    }

    /// Drains the pinned CPU's magazine.
    ///
    /// Bound: 148 words of up to 64 frames, and 9 blocks.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// use topomem_numa::NodeId;
    /// use topomem_numa::frames::{Drained, FrameRequest};
    ///
    /// drop(frames.alloc_owned(&FrameRequest::frame())?); // the magazine has a word now
    /// assert_eq!(frames.drain(pin), Drained::Everything);
    /// assert_eq!(frames.stats(NodeId::ZERO).unwrap().in_magazines, 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn drain(&self, pin: &CpuPin) -> Drained {
        let (Some(ready), Some(magazine)) = (self.ready(), self.magazines.get(pin.cpu())) else {
            return Drained::Everything;
        };
        match magazine.enter() {
            Some(guard) => {
                ready.flush_all(&guard);
                Drained::Everything
            }
            None => {
                magazine.request_drain();
                Drained::Later
            }
        }
    }

    /// Halves the pinned CPU's magazine on every 64th call if the CPU took few frames from it since
    /// the last review, and frees the frames without room. Also frees the held whole words if the
    /// CPU took no run of whole words. For each round of a service task or idle loop: magazines
    /// grow by themselves.
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// frames.trim(pin); // in every round of a service task
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn trim(&self, pin: &CpuPin) {
        if let (Some(ready), Some(magazine)) = (self.ready(), self.magazines.get(pin.cpu()))
            && let Some(guard) = magazine.enter()
        {
            guard.trim(|entry| ready.flush(&guard, entry), |place| ready.flush_words(&guard, place));
        }
    }

    /// Asks `cpu` to drain its magazine at its next use, of any order, that is no quick hit, or at
    /// its next [`Frames::service`].
    ///
    /// ```
    /// # mod machine { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/machine.rs")); }
    /// # machine::run(|frames, pin| {
    /// frames.request_drain(pin.cpu());
    /// frames.service(pin); // the CPU answers
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn request_drain(&self, cpu: CpuId) {
        if let Some(magazine) = self.magazines.get(cpu) {
            magazine.request_drain();
        }
    }

    /// Asks every CPU to drain.
    pub(in crate::frames) fn drain_all(&self) {
        self.magazines.iter().for_each(Magazine::request_drain);
    }

    /// Does the work requested by other CPUs: two loads if there is none. For service tasks, idle
    /// loops and interrupt handlers.
    pub fn service(&self, pin: &CpuPin) {
        if self.magazines.get(pin.cpu()).is_some_and(|magazine| magazine.wants_attention()) {
            self.drain(pin);
        }
    }
}

/// The result of [`Frames::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The magazine is empty.
    Everything,
    /// The caller is nested in a context that uses the magazine. The magazine is drained at its
    /// next use that is no quick hit.
    Later,
}
