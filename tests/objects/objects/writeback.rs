//! Pages that are written back.

use std::sync::atomic::{AtomicBool, Ordering};

use topomem::object::{ObjectError, PagerError, Residency};
use topomem::region::{Resolved, Sharing};

use super::{FIRST, write};
use crate::object_support::{Bench, PagerFile, SetOnDrop, at};

#[test]
fn what_was_written_is_written_back_once() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 8);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, (4 << 12) - 10);
        let (one, other) = (bench.space(pin), bench.space(pin));
        bench.map(pin, &one, &object, FIRST, 4, 0, Sharing::Shared);
        bench.map(pin, &other, &object, FIRST, 4, 0, Sharing::Shared);
        assert_eq!(bench.load(pin, &one, FIRST), file.initial(0));
        assert_eq!(object.residency(0), Residency::Clean);
        assert_eq!(object.residency(4096), Residency::Absent);
        assert_eq!(one.on_page_fault(pin, write(FIRST)).unwrap(), Resolved::MadeWritable);
        bench.store(pin, &one, FIRST, 41);
        assert_eq!(object.residency(0), Residency::Dirty);
        bench.store(pin, &other, FIRST + 3, 44);
        assert_eq!(object.evict(pin, 0..u64::MAX), 0, "dirty pages stay");
        bench.block_on(object.sync(0..u64::MAX)).unwrap();
        assert_eq!((file.word(0), file.word(3), file.writes()), (41, 44, 2));
        assert_eq!(file.last_length(3), 4096 - 10, "nothing behind the end is written");
        assert_eq!(object.residency(0), Residency::Clean);
        bench.block_on(object.sync(0..u64::MAX)).unwrap();
        assert_eq!(file.writes(), 2);
        // A write after that is noticed again, by whichever mapping.
        bench.store(pin, &one, FIRST, 42);
        bench.store(pin, &other, FIRST, 43);
        bench.block_on(object.sync(0..4096)).unwrap();
        assert_eq!((file.word(0), file.writes()), (43, 3));
        bench.block_on(object.write(4096, &7_u64.to_le_bytes())).unwrap();
        bench.block_on(object.sync(4096..8192)).unwrap();
        assert_eq!(file.word(1), 7);
        file.fail(true);
        bench.store(pin, &one, FIRST, 50);
        assert_eq!(bench.block_on(object.sync(0..u64::MAX)), Err(ObjectError::Pager(PagerError::Failed)));
        assert_eq!(object.residency(0), Residency::Dirty);
        file.fail(false);
        bench.block_on(object.sync(0..u64::MAX)).unwrap();
        assert_eq!(file.word(0), 50);
        assert_eq!(object.evict(pin, 0..u64::MAX), 3);
        assert_eq!(bench.load(pin, &one, FIRST), 50);
        bench.finish(pin, [one, other], [object]);
    });
}

#[test]
fn a_write_during_writeback_stays_dirty() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 2);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, 2 << 12);
        let space = bench.space(pin);
        bench.map(pin, &space, &object, FIRST, 2, 0, Sharing::Shared);
        bench.store(pin, &space, FIRST, 1);
        file.hold(true);
        let mut sync = Box::pin(object.sync(0..4096));
        bench.poll(sync.as_mut());
        while file.writes() == 0 {
            bench.relax();
        }
        assert_eq!(object.residency(0), Residency::Writing);
        assert!(bench.sim.store(at(FIRST), 9).is_err(), "the permission to write has gone");
        bench.store(pin, &space, FIRST, 2);
        file.hold(false);
        bench.block_on(sync).unwrap();
        assert_eq!(file.word(0), 1);
        assert_eq!(object.residency(0), Residency::Dirty);
        bench.block_on(object.sync(0..4096)).unwrap();
        assert_eq!(file.word(0), 2);
        bench.finish(pin, [space], [object]);
    });
}

#[test]
fn a_sync_that_is_dropped_leaves_pages_dirty() {
    let bench = Bench::new(2);
    let file = PagerFile::new(&bench, 200);
    bench.serve_while(&file, |pin| {
        let object = file.object(&bench, pin, 200 << 12);
        for page in 0..200 {
            bench.block_on(object.write(page << 12, &(page + 1).to_le_bytes())).unwrap();
        }
        file.hold(true);
        let mut syncs: Vec<_> =
            (0..12).map(|part| Box::pin(object.sync(part << 16..(part + 1) << 16))).collect();
        syncs.iter_mut().for_each(|sync| bench.poll(sync.as_mut()));
        drop(syncs);
        file.hold(false);
        bench.block_on(object.sync(0..u64::MAX)).unwrap();
        for page in 0..200 {
            assert_eq!(file.word(page), page + 1, "page {page}");
        }
        bench.finish(pin, [], [object]);
    });
}

#[test]
fn no_write_is_lost_by_writebacks_that_it_meets() {
    let bench = Bench::new(3);
    let file = PagerFile::new(&bench, 2);
    let object = bench.on(|pin| file.object(&bench, pin, 2 << 12));
    let [synced, written] = [const { AtomicBool::new(false) }; 2];
    bench.sim.run(|pin| match pin.cpu().index() {
        0 => {
            let _synced = SetOnDrop(&synced);
            for _ in 0..60 {
                bench.block_on(object.sync(0..u64::MAX)).unwrap();
                object.evict(pin, 0..u64::MAX);
            }
        }
        // The last eviction may leave the writer waiting for a page: the pages are served until the writer has ended.
        1 => bench.serve_until(&file, &written),
        _ => {
            let _written = SetOnDrop(&written);
            let space = bench.space(pin);
            bench.map(pin, &space, &object, FIRST, 2, 0, Sharing::Shared);
            let mut value = 0;
            while !synced.load(Ordering::Acquire) {
                value += 1;
                bench.store(pin, &space, FIRST, value);
                let seen = bench.load(pin, &space, FIRST);
                assert_eq!(seen, value, "a write was lost");
            }
            bench.leave(pin);
        }
    });
    bench.serve_while(&file, |pin| {
        bench.block_on(object.sync(0..u64::MAX)).unwrap();
        bench.leave(pin);
    });
    bench.on(|_| drop(object));
}
