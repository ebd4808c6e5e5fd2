//! Reading and writing an object's bytes, for the kernel.

use topomem_percpu::sync::atomic::{AtomicU8, Ordering};
use topomem_percpu::{CpuPin, PhysFrame};

use super::present::UsedPage;
use crate::Machine;
use crate::object::ObjectError;
use crate::object::core::{MemoryObject, ObjectCore};
use crate::page_table::TableMemory;
use crate::service::MemoryService;

/// Returns `length` bytes of a frame from `offset` on. Programs may read and write them meanwhile:
/// their memory has no types.
fn bytes_of<P: Machine>(
    service: &MemoryService<P>,
    frame: PhysFrame,
    offset: usize,
    length: usize,
) -> &[AtomicU8] {
    debug_assert!(offset + length <= 4096);
    let start = service.frames().direct_map(frame);
    // SAFETY: the direct map of an allocated frame is valid, and the bytes are only accessed as
    // atomics; the callers keep the frame as long as the reference.
    unsafe { core::slice::from_raw_parts(start.add(offset).cast().as_ptr(), length) }
}

/// Zeroes `length` bytes of `frame` from `offset` on.
pub(in crate::object) fn fill<P: Machine>(
    service: &MemoryService<P>,
    frame: PhysFrame,
    offset: usize,
    length: usize,
) {
    // Relaxed, here and below: the order of programs' and files' bytes is up to them.
    bytes_of(service, frame, offset, length).iter().for_each(|byte| byte.store(0, Ordering::Relaxed));
}

impl<P: Machine> ObjectCore<P> {
    /// Returns the page `page`, in use, if it is in memory.
    pub(in crate::object) fn used(&self, page: u64) -> Option<UsedPage<'_>> {
        self.use_page(self.index.get(self.service, page)?)
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Calls `copy` for each page of the `length` bytes from `offset` on, with the page's frame,
    /// the offset within the page, and the part of the bytes. Stops at the object's end, or at a
    /// page to be waited for. Returns the number of bytes.
    fn for_each_part(
        &self,
        pin: &CpuPin,
        offset: u64,
        length: usize,
        mut copy: impl FnMut(&UsedPage<'_>, usize, core::ops::Range<usize>),
    ) -> Result<usize, ObjectError> {
        let core = self.core();
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let (page, within) = (at >> 12, (at & 4095) as usize);
            let part = core.bytes_of(page).saturating_sub(within).min(length - done);
            if part == 0 {
                break;
            }
            match core.used(page) {
                Some(used) => copy(&used, within, done..done + part),
                None => {
                    match self.make_present(pin, page) {
                        Ok(()) => {}
                        Err(ObjectError::BeyondEnd) => break,
                        Err(_) if done > 0 => break,
                        Err(error) => return Err(error),
                    }
                    continue;
                }
            }
            done += part;
        }
        Ok(done)
    }

    /// Copies the object's bytes from `offset` on to `to`, as far as they are in memory. Returns
    /// the number of bytes copied, 0 at the object's end.
    ///
    /// # Errors
    ///
    /// The errors concern the first page:
    ///
    /// - [`ObjectError::Waits`] if the page has to be read in.
    /// - [`ObjectError::Pager`] if the pager failed.
    /// - [`ObjectError::OutOfFrames`] if no frame for the page is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// let mut bytes = [1; 16];
    /// assert_eq!(object.try_read(pin, 100, &mut bytes), Ok(16));
    /// assert_eq!(bytes, [0; 16]);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn try_read(&self, pin: &CpuPin, offset: u64, to: &mut [u8]) -> Result<usize, ObjectError> {
        let service = self.core().service;
        self.for_each_part(pin, offset, to.len(), |used, within, part| {
            let from = bytes_of(service, used.frame(), within, part.len());
            for (to, from) in to[part].iter_mut().zip(from) {
                *to = from.load(Ordering::Relaxed);
            }
        })
    }

    /// Copies `from` to the object's bytes from `offset` on, as far as their pages are in memory.
    /// Returns the number of bytes copied, 0 at the object's end. The end stays in place.
    ///
    /// # Errors
    ///
    /// As for [`MemoryObject::try_read`].
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 4096)?;
    /// assert_eq!(object.try_write(pin, 4090, b"message"), Ok(6));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn try_write(&self, pin: &CpuPin, offset: u64, from: &[u8]) -> Result<usize, ObjectError> {
        let service = self.core().service;
        self.for_each_part(pin, offset, from.len(), |used, within, part| {
            let to = bytes_of(service, used.frame(), within, part.len());
            for (to, from) in to.iter().zip(&from[part]) {
                to.store(*from, Ordering::Relaxed);
            }
            // After the copy: a writeback with a copy of the page made in between has missed the
            // bytes.
            used.make_dirty();
        })
    }

    /// Reads like [`MemoryObject::try_read`] up to the object's end, and waits for the pager.
    ///
    /// # Errors
    ///
    /// Some bytes may have been copied on an error:
    ///
    /// - [`ObjectError::Pager`] if the pager failed.
    /// - [`ObjectError::OutOfFrames`] if no frame for a page is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// let mut bytes = [1; 16];
    /// let read = pin!(object.read(0, &mut bytes)).poll(&mut Context::from_waker(Waker::noop()));
    /// assert_eq!(read, Poll::Ready(Ok(16))); // no pager is asked
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, ObjectError> {
        let mut done = 0;
        while done < to.len() {
            let step = self.try_read(&self.pin(), offset + done as u64, &mut to[done..]);
            match awaited(step).await? {
                Some(0) => break,
                Some(more) => done += more,
                None => {}
            }
        }
        Ok(done)
    }

    /// Writes like [`MemoryObject::try_write`] up to the object's end, and waits for the pager.
    ///
    /// # Errors
    ///
    /// As for [`MemoryObject::read`]; some bytes may have been written.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Poll, Waker};
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// let written = pin!(object.write(0, b"bytes")).poll(&mut Context::from_waker(Waker::noop()));
    /// assert_eq!(written, Poll::Ready(Ok(5)));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub async fn write(&self, offset: u64, from: &[u8]) -> Result<usize, ObjectError> {
        let mut done = 0;
        while done < from.len() {
            let step = self.try_write(&self.pin(), offset + done as u64, &from[done..]);
            match awaited(step).await? {
                Some(0) => break,
                Some(more) => done += more,
                None => {}
            }
        }
        Ok(done)
    }

    pub(in crate::object) fn pin(&self) -> impl core::ops::Deref<Target = CpuPin> + use<'_, P> {
        self.core().service.platform().pin()
    }
}

/// Waits if `step` asks for a wait. Returns `None` then: the step is to be repeated.
async fn awaited(step: Result<usize, ObjectError>) -> Result<Option<usize>, ObjectError> {
    match step {
        Ok(done) => Ok(Some(done)),
        Err(ObjectError::Waits(wait)) => wait.await.map(|()| None).map_err(ObjectError::Pager),
        Err(error) => Err(error),
    }
}
