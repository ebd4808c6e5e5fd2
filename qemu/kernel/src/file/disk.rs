//! The RAM disk: files that a pager reads in page by page, as from a disk that takes its time.

extern crate alloc;

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use spin::Once;
use spin::mutex::SpinMutex;
use topomem::CpuId;
use topomem::object::{MemoryObject, Pager, PagerError, PagerQueue};
use topomem_exec::{Archive, File};

use crate::executor::{SpawnError, sleep, spawn_on};
use crate::log;
use crate::memory::platform::{Kernel, pin};
use crate::memory::service::SERVICE;
use crate::per_cpu::Polling;
use crate::process::OutOfMemory;
use crate::syscall::Errno;

/// The disk's bytes; set once, before programs run.
static DISK: Once<&'static [u8]> = Once::new();

/// What pages are asked for, and not read yet.
static REQUESTS: PagerQueue<Kernel> = PagerQueue::new(Kernel);

/// How long the disk takes for a page.
const DELAY: Duration = Duration::from_micros(200);

/// Files that were opened, with the key of each. Their pages stay until [`forget_disk_files`].
static OPENED: SpinMutex<Vec<(u64, MemoryObject<Kernel>)>, Polling> = SpinMutex::new(Vec::new());

/// Makes the files in `bytes` those that programs find, and starts the task that reads them, on `cpu`.
///
/// # Errors
///
/// [`SpawnError`].
pub(crate) fn set_ram_disk(bytes: &'static [u8], cpu: CpuId) -> Result<(), SpawnError> {
    DISK.call_once(|| bytes);
    spawn_on(cpu, || async {
        // Without memory for it faults wait for good.
        let Err(error) = REQUESTS.serve(&SERVICE, &RamDisk).await;
        log!("the disk is not read: {error}");
    })?
    .detach();
    Ok(())
}

/// Returns the disk's file at `path`.
pub(crate) fn find(path: &[u8]) -> Option<File<'static>> {
    Archive::new(DISK.get()?).find(path)
}

/// Returns the disk's file at `path`, to be read and mapped.
///
/// # Errors
///
/// [`Errno::NO_ENTRY`], [`Errno::NO_MEMORY`].
pub(crate) fn open_disk_file(path: &[u8]) -> Result<MemoryObject<Kernel>, Errno> {
    let disk = DISK.get().ok_or(Errno::NO_ENTRY)?;
    let content = find(path).ok_or(Errno::NO_ENTRY)?.content;
    // A file is known by where it begins.
    let key = (content.as_ptr().addr() - disk.as_ptr().addr()) as u64;
    let mut opened = OPENED.lock();
    if let Some((_, object)) = opened.iter().find(|(known, _)| *known == key) {
        return Ok(object.clone());
    }
    opened.try_reserve(1).map_err(|_| OutOfMemory)?;
    let object = MemoryObject::paged(&SERVICE, &pin(), content.len() as u64, &REQUESTS, key);
    let object = object.map_err(|_| Errno::NO_MEMORY)?;
    opened.push((key, object.clone()));
    Ok(object)
}

/// Lets the pages of files go that nobody has open or mapped.
pub(crate) fn forget_disk_files() {
    let opened = core::mem::take(&mut *OPENED.lock());
    // Not under the lock: most of them go.
    drop(opened);
}

/// Reads the disk's pages.
struct RamDisk;

impl Pager for RamDisk {
    async fn read_in(&self, key: u64, offset: u64, page: &mut [u8]) -> Result<(), PagerError> {
        sleep(DELAY).await;
        let start = usize::try_from(key + offset).map_err(|_| PagerError::Failed)?;
        // What follows the file's last byte is not part of any page.
        let rest = DISK.get().and_then(|disk| disk.get(start..)).ok_or(PagerError::Failed)?;
        let count = rest.len().min(page.len());
        page[..count].copy_from_slice(&rest[..count]);
        Ok(())
    }

    /// No page is ever dirty: the disk's files are opened to be read.
    async fn write_back(&self, _: u64, _: u64, _: &[u8]) -> Result<(), PagerError> {
        Err(PagerError::Failed)
    }

    async fn discard(&self, _: u64, _: Range<u64>) -> Result<(), PagerError> {
        Err(PagerError::Failed)
    }
}
