//! First accesses to pages of a file that the kernel has in memory.

use rustix::mm::MapFlags;

use super::{Bench, Case, MANY, case};
use crate::guest::error::GuestError;
use crate::guest::pages::{Layout, Pages};
use crate::guest::system::file::File;

/// An access to the page of a number.
type Access = fn(&Pages, usize);

pub(super) const CASES: [Case; 6] = [
    case("object_read", |bench| accesses(bench, 1, MapFlags::SHARED, Pages::read)),
    case("object_write", |bench| accesses(bench, 1, MapFlags::SHARED, Pages::write)),
    case("object_copy", |bench| accesses(bench, 1, MapFlags::PRIVATE, Pages::write)),
    Case {
        parts: MANY,
        ..case("object_read_512", |bench| accesses(bench, MANY, MapFlags::SHARED, Pages::read))
    },
    Case {
        parts: MANY,
        ..case("object_write_512", |bench| accesses(bench, MANY, MapFlags::SHARED, Pages::write))
    },
    Case {
        parts: MANY,
        ..case("object_copy_512", |bench| accesses(bench, MANY, MapFlags::PRIVATE, Pages::write))
    },
];

/// The first accesses to all `count` pages of a mapping.
fn accesses(bench: &Bench, count: usize, sharing: MapFlags, access: Access) -> Result<Vec<u64>, GuestError> {
    let file = File::written(count)?;
    let pages = Pages::reserve(count, Layout::Together)?;
    bench.sample(|| {
        pages.show(&file, sharing)?;
        let sample = bench.time(|| {
            (0..count).for_each(|index| access(&pages, index));
            Ok(())
        });
        pages.clear()?;
        sample
    })
}
