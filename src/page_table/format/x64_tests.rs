use super::*;

type Four = X64<4>;

fn leaf(protection: Protection) -> Leaf {
    Leaf { frame: frame_at(0x4020_0000), protection, reach: Reach::Global, ownership: Ownership::Owned }
}

#[test]
fn what_is_written_is_read_back() {
    // SAFETY: nothing is executed.
    let capability = unsafe { crate::page_table::WriteExecute::new() };
    let all = Access::write_execute(&capability);
    for access in [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE, all] {
        for protection in [Protection::kernel(access), Protection::user(access)] {
            for cache in [Cache::WriteBack, Cache::WriteThrough, Cache::WriteCombining, Cache::Uncached] {
                let leaf = leaf(protection.cached(cache));
                for level in [Level::PAGE, Level::HUGE] {
                    let raw = Four::leaf(&leaf, level);
                    assert_eq!(Four::decode(raw, level), Entry::Leaf(leaf));
                    assert_eq!(raw.0 & Bits::PRESENT.bits() != 0, access.reads());
                    let touched = RawEntry(raw.0 | (Bits::ACCESSED | Bits::DIRTY).bits());
                    assert_eq!(Four::decode(touched, level), Entry::Leaf(leaf));
                    if level == Level::PAGE {
                        assert_eq!(Four::page(touched), Some(leaf));
                    }
                }
            }
        }
    }
    assert_eq!(Four::decode(Four::table(frame_at(0x5000)), Level::HUGE), Entry::Table(frame_at(0x5000)));
    assert_eq!(Four::decode(RawEntry::EMPTY, Level::PAGE), Entry::Empty);
    assert_eq!((Four::page(RawEntry::EMPTY), Four::page(Four::mark(RegionId::MIN))), (None, None));
}

#[test]
fn the_attribute_table_says_what_the_bits_mean() {
    for (cache, memory_type) in
        [(Cache::WriteBack, 6), (Cache::WriteThrough, 4), (Cache::WriteCombining, 1), (Cache::Uncached, 0)]
    {
        let raw = Four::leaf(&leaf(Protection::KERNEL_DATA.cached(cache)), Level::PAGE).0;
        // PCD and PWT are entry bits 4 and 3, and bits 1 and 0 of the index.
        assert_eq!(Four::PAT.to_le_bytes()[(raw >> 3 & 3) as usize], memory_type, "{cache:?}");
    }
}

#[test]
fn reprotect_keeps_frame_and_dirty_mark() {
    for level in [Level::PAGE, Level::HUGE] {
        let dirty = RawEntry(Four::leaf(&leaf(Protection::KERNEL_DATA), level).0 | Bits::DIRTY.bits());
        let changed = Four::reprotect(dirty, level, Protection::KERNEL_READ_ONLY);
        assert_eq!(changed.0 & Bits::DIRTY.bits(), 0, "a shadow stack");
        assert_eq!(Four::decode(changed, level), Entry::Leaf(leaf(Protection::KERNEL_READ_ONLY)));
        assert_eq!(Four::reprotect(changed, level, Protection::KERNEL_DATA), dirty);
        let clean = Four::leaf(&leaf(Protection::KERNEL_READ_ONLY), level);
        let writable = Four::reprotect(clean, level, Protection::KERNEL_DATA);
        assert_eq!(writable.0 & (Bits::DIRTY | Bits::SAVED_DIRTY).bits(), 0);
    }
}

#[test]
fn a_leaf_is_narrower_if_it_forbids_something_or_means_another_access() {
    // SAFETY: nothing is executed.
    let capability = unsafe { crate::page_table::WriteExecute::new() };
    let all = Access::write_execute(&capability);
    let accesses = [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE, all];
    let protections = accesses.into_iter().flat_map(|access| {
        [Protection::kernel(access), Protection::user(access)].into_iter().flat_map(|protection| {
            [Cache::WriteBack, Cache::WriteThrough, Cache::WriteCombining, Cache::Uncached]
                .map(|cache| protection.cached(cache))
        })
    });
    let marks = Bits::ACCESSED | Bits::DIRTY;
    for level in [Level::PAGE, Level::HUGE] {
        for before in protections.clone() {
            for after in protections.clone() {
                let old = Four::leaf(&leaf(before), level);
                let old = if before.access().reads() { RawEntry(old.0 | marks.bits()) } else { old };
                let same_use = before.with_access(after.access()) == after;
                let expected =
                    before.access().reads() && (!same_use || !after.access().includes(before.access()));
                let new = Four::reprotect(old, level, after);
                assert_eq!(Four::narrows(old, new), expected, "{before:?} {after:?}");
            }
        }
    }
}

#[test]
fn ownership_is_read_back_and_changed_alone() {
    for level in [Level::PAGE, Level::HUGE] {
        for ownership in [Ownership::Owned, Ownership::Shared, Ownership::Borrowed] {
            let leaf = Leaf { ownership, ..leaf(Protection::USER_DATA) };
            let raw = Four::leaf(&leaf, level);
            assert_eq!(Four::decode(raw, level), Entry::Leaf(leaf));
            let dirty = RawEntry(raw.0 | (Bits::ACCESSED | Bits::DIRTY).bits());
            for other in [Ownership::Owned, Ownership::Shared, Ownership::Borrowed] {
                let changed = Four::with_ownership(dirty, other);
                assert_eq!(Four::decode(changed, level), Entry::Leaf(Leaf { ownership: other, ..leaf }));
                assert_eq!(Four::with_ownership(changed, ownership), dirty);
            }
        }
    }
}

#[test]
fn a_shared_leaf_permits_no_write_and_keeps_its_marks() {
    let marks = Bits::ACCESSED | Bits::DIRTY | Bits::SAVED_DIRTY;
    for access in [Access::NONE, Access::READ, Access::WRITE, Access::EXECUTE] {
        for level in [Level::PAGE, Level::HUGE] {
            let before = leaf(Protection::user(access));
            let clean = Four::leaf(&before, level);
            let expected = without_write(before);
            assert_eq!(Four::decode(Four::shared(clean), level), Entry::Leaf(expected));
            assert_eq!(Four::shared(clean).0 & marks.bits(), 0);
            assert_eq!(Four::is_shared(Four::shared(clean)), access.reads());
            assert!(!Four::is_shared(clean));
            let dirty = Four::reprotect(
                RawEntry(Four::leaf(&leaf(Protection::USER_DATA), level).0 | marks.bits()),
                level,
                Protection::user(access),
            );
            let shared = Four::shared(dirty);
            assert_eq!(Four::decode(shared, level), Entry::Leaf(expected));
            assert_eq!(shared.0 & Bits::DIRTY.bits(), 0, "a shadow stack");
            let both = [dirty, shared]
                .map(|raw| Four::reprotect(raw, level, Protection::USER_DATA).0 & marks.bits());
            assert_eq!(both[0], both[1], "a mark is lost");
            assert_eq!(Four::unnoted(shared), Four::shared(clean));
        }
    }
}

fn without_write(leaf: Leaf) -> Leaf {
    let access = leaf.protection.access();
    let access = if access.writes() { Access::READ } else { access };
    Leaf { protection: leaf.protection.with_access(access), ownership: Ownership::Shared, ..leaf }
}

#[test]
fn split_covers_the_same_frames() {
    let huge = leaf(Protection::USER_CODE);
    let raw = Four::leaf(&huge, Level::HUGE);
    let hidden = Four::reprotect(raw, Level::HUGE, huge.protection.with_access(Access::NONE));
    for index in [0, 1, 511] {
        let expected = Leaf { frame: huge.frame + index as u64, ..huge };
        let part = Four::split(raw, Level::HUGE, index);
        assert_eq!(Four::decode(part, Level::PAGE), Entry::Leaf(expected));
        let hidden = Four::split(hidden, Level::HUGE, index);
        assert_eq!(Four::reprotect(hidden, Level::PAGE, huge.protection), part);
    }
}

#[test]
fn what_is_not_present_shows_no_address_of_memory() {
    for protection in [Protection::USER_DATA, Protection::USER_CODE, Protection::USER_READ_ONLY] {
        for level in [Level::PAGE, Level::HUGE, Level::GIANT] {
            let leaf = Leaf { frame: frame_at(0x12_4000_0000), ..leaf(protection) };
            let dirty = RawEntry(Four::leaf(&leaf, level).0 | (Bits::ACCESSED | Bits::DIRTY).bits());
            let none = protection.with_access(Access::NONE);
            let hidden = Four::reprotect(dirty, level, none);
            assert!(hidden.0 & ADDRESS >= 1 << 51, "an address of memory: {hidden:?}");
            assert_eq!(hidden.0 & Bits::PRESENT.bits(), 0);
            assert_eq!(Four::decode(hidden, level), Entry::Leaf(Leaf { protection: none, ..leaf }));
            assert_eq!(Four::reprotect(hidden, level, none), hidden);
            let back = Four::reprotect(hidden, level, protection);
            assert_eq!(Four::decode(back, level), Entry::Leaf(leaf));
            assert_ne!(back.0 & (Bits::DIRTY | Bits::SAVED_DIRTY).bits(), 0, "the mark is lost");
        }
    }
    for bits in [1, 0x1234_5678, (1 << RegionId::BITS) - 1] {
        let region = RegionId::new(bits).unwrap();
        let raw = Four::mark(region);
        assert!(raw.0 & ADDRESS >= BEYOND_MEMORY && raw.0 & Bits::PRESENT.bits() == 0);
        for raw in [raw, RawEntry(raw.0 | Four::CLAIM)] {
            for level in [Level::PAGE, Level::HUGE, Level::FOURTH] {
                assert_eq!(Four::decode(raw, level), Entry::Mark(region));
            }
        }
    }
    assert_eq!(Four::decode(RawEntry(Four::CLAIM), Level::HUGE), Entry::Empty);
}

#[test]
fn marks_are_merged_and_made_ahead() {
    let clean = Four::leaf(&leaf(Protection::KERNEL_READ_ONLY), Level::PAGE);
    let marked = |raw: RawEntry| Bits::from_bits_truncate(raw.0) & (Bits::ACCESSED | Bits::DIRTY);
    let dirty = RawEntry(clean.0 | Bits::DIRTY.bits());
    assert_eq!(marked(Four::merge_marks(clean, dirty)), Bits::DIRTY);
    assert_eq!(marked(Four::merge_marks(dirty, clean)), Bits::DIRTY);
    assert_eq!(marked(Four::mark_ahead(clean)), Bits::ACCESSED);
    let writable = Four::leaf(&leaf(Protection::KERNEL_DATA), Level::HUGE);
    let ahead = Four::mark_ahead(writable);
    assert_eq!(marked(ahead), Bits::ACCESSED | Bits::DIRTY);
    assert_eq!(Four::decode(ahead, Level::HUGE), Four::decode(writable, Level::HUGE));
}

#[test]
fn write_and_execute_exclude_each_other_in_every_preset() {
    for preset in [
        Protection::KERNEL_CODE,
        Protection::KERNEL_DATA,
        Protection::KERNEL_READ_ONLY,
        Protection::USER_CODE,
        Protection::USER_DATA,
        Protection::USER_READ_ONLY,
        Protection::DEVICE,
        Protection::FRAME_BUFFER,
    ] {
        let raw = Four::leaf(&leaf(preset), Level::PAGE);
        let bits = Bits::from_bits_truncate(raw.0);
        assert!(!bits.contains(Bits::WRITABLE) || bits.contains(Bits::NO_EXECUTE), "{preset:?}");
    }
}
