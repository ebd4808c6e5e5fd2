//! The files of a log: the first one lives in memory alone, the second one behind a pager.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use topomem::CpuPin;
use topomem::object::{MemoryObject, ObjectError, ObjectId, Pager, PagerError, PagerQueue};
use topomem::sim::{Sim, SimService};

use crate::compare::answer::{Errno, Shows};
use crate::log::operation::{Descriptor, PAGE};

/// What `pread` answers at the end of a file.
const END: u64 = 256;

/// The pages of the second file that were written back.
#[derive(Debug, Default)]
struct Disk(Mutex<HashMap<u64, Vec<u8>>>);

impl Pager for Disk {
    async fn read_in(&self, _: u64, offset: u64, page: &mut [u8]) -> Result<(), PagerError> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = pages.get(&(offset / PAGE)) {
            for (byte, kept) in page.iter_mut().zip(kept) {
                *byte = *kept;
            }
        }
        Ok(())
    }

    async fn write_back(&self, _: u64, offset: u64, page: &[u8]) -> Result<(), PagerError> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.insert(offset / PAGE, page.to_vec());
        Ok(())
    }

    async fn discard(&self, _: u64, range: Range<u64>) -> Result<(), PagerError> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|&page, bytes| {
            let start = page * PAGE;
            if start < range.start {
                bytes.truncate(usize::try_from(range.start - start).unwrap_or(usize::MAX));
            }
            start < range.start || start >= range.end
        });
        Ok(())
    }
}

/// The files, and the pager of the second one, which whoever waits for it serves.
#[derive(Debug)]
pub(super) struct Files {
    service: &'static SimService,
    first: MemoryObject<&'static Sim>,
    second: MemoryObject<&'static Sim>,
    requests: &'static PagerQueue<&'static Sim>,
    disk: Disk,
}

impl Files {
    /// Creates empty files.
    pub(super) fn create(
        sim: &'static Sim,
        service: &'static SimService,
        pin: &CpuPin,
    ) -> Result<Files, Errno> {
        let requests: &'static _ = Box::leak(Box::new(PagerQueue::new(sim)));
        let first = MemoryObject::anonymous(service, pin, 0).map_err(|_| Errno::ENOMEM)?;
        let second = MemoryObject::paged(service, pin, 0, requests, 0).map_err(|_| Errno::ENOMEM)?;
        Ok(Files { service, first, second, requests, disk: Disk::default() })
    }

    /// Awaits `future`, and serves the pager meanwhile.
    pub(super) fn wait<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut serve = pin!(self.requests.serve(self.service, &self.disk));
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            let _ = serve.as_mut().poll(&mut context);
        }
    }

    /// Returns the object of a file; `None` for what is no file.
    pub(super) fn object(&self, file: Descriptor) -> Option<&MemoryObject<&'static Sim>> {
        match file {
            Descriptor::First | Descriptor::FirstReadOnly | Descriptor::FirstWriteOnly => Some(&self.first),
            Descriptor::Second => Some(&self.second),
            Descriptor::Pipe | Descriptor::Directory | Descriptor::Closed => None,
        }
    }

    /// Returns whether a descriptor permits reads, and writes.
    pub(super) fn modes(file: Descriptor) -> (bool, bool) {
        match file {
            Descriptor::First | Descriptor::Second => (true, true),
            Descriptor::FirstReadOnly | Descriptor::Pipe | Descriptor::Directory => (true, false),
            Descriptor::FirstWriteOnly => (false, true),
            Descriptor::Closed => (false, false),
        }
    }

    /// Returns what a mapping of an object shows.
    pub(super) fn shows(&self, object: ObjectId, offset: u64) -> Shows {
        if object == self.first.id() {
            Shows::First(offset)
        } else if object == self.second.id() {
            Shows::Second(offset)
        } else {
            Shows::SharedMemory(offset)
        }
    }

    /// Writes a byte.
    pub(super) fn write(
        &self,
        pin: &CpuPin,
        file: Descriptor,
        position: u64,
        value: u8,
    ) -> Result<u64, Errno> {
        let object = self.object(file).filter(|_| Files::modes(file).1).ok_or(Errno::EBADF)?;
        if position >= object.size() {
            object.set_size(pin, position + 1).map_err(errno)?;
        }
        self.wait(object.write(position, &[value])).map(|count| count as u64).map_err(errno)
    }

    /// Reads a byte.
    pub(super) fn read(&self, file: Descriptor, position: u64) -> Result<u64, Errno> {
        let object = self.object(file).filter(|_| Files::modes(file).0).ok_or(Errno::EBADF)?;
        let mut byte = [0];
        let count = self.wait(object.read(position, &mut byte)).map_err(errno)?;
        Ok(if count == 0 { END } else { u64::from(byte[0]) })
    }

    /// Sets the size.
    pub(super) fn truncate(&self, pin: &CpuPin, file: Descriptor, length: u64) -> Result<u64, Errno> {
        if file == Descriptor::Closed {
            return Err(Errno::EBADF);
        }
        let object = self.object(file).filter(|_| Files::modes(file).1).ok_or(Errno::EINVAL)?;
        object.set_size(pin, length).map(|()| 0).map_err(errno)
    }
}

fn errno(error: ObjectError) -> Errno {
    match error {
        ObjectError::Pager(_) => Errno::EIO,
        _ => Errno::ENOMEM,
    }
}
