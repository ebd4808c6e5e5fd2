use super::*;

/// A slot mapped writable as version 2 and the reader's first look at it.
fn mapped() -> (Slot, SlotState) {
    let slot = Slot::new(9);
    let change = slot.try_lock().unwrap();
    change.begin();
    change.publish(2, Phase::Writable);
    drop(change);
    let before = slot.state();
    (slot, before)
}

fn tag(version: u32) -> Option<u64> {
    Some(Tag { slot: 9, version }.encode())
}

#[test]
fn the_current_tag_is_fine_and_older_ones_are_stale() {
    let (slot, before) = mapped();
    let stale = Verdict::Stale { expected: tag(2).unwrap() };
    assert_eq!(slot.judge_read(before, tag(2)), Verdict::Fine);
    assert_eq!(slot.judge_read(before, tag(1)), stale);
    assert_eq!(slot.judge_read(before, Some(Tag { slot: 9, version: 2 }.poison())), stale);
    assert_eq!(slot.judge_read(before, Some(Tag { slot: 8, version: 2 }.encode())), stale);
    assert_eq!(slot.judge_read(before, Some(0)), stale);
}

#[test]
fn a_read_that_races_with_a_remapping_may_see_either() {
    let (slot, before) = mapped();
    let change = slot.try_lock().unwrap();
    change.begin();
    assert_eq!(slot.judge_read(before, tag(2)), Verdict::Fine);
    assert_eq!(slot.judge_read(before, None), Verdict::Fine);
    change.publish(3, Phase::Writable);
    assert_eq!(slot.judge_read(before, tag(2)), Verdict::Fine, "it may have been read earlier");
    assert_eq!(slot.judge_read(slot.state(), tag(2)), Verdict::Stale { expected: tag(3).unwrap() });
}

#[test]
fn a_fault_needs_a_reason() {
    let (slot, before) = mapped();
    assert_eq!(slot.judge_read(before, None), Verdict::Missing);
    assert_eq!(slot.judge_write(before, None), Verdict::Missing);
    let change = slot.try_lock().unwrap();
    change.begin();
    assert_eq!(slot.judge_write(before, None), Verdict::Fine);
    change.publish(3, Phase::Vacant);
    assert_eq!(slot.judge_read(slot.state(), None), Verdict::Fine);
}

#[test]
fn a_write_through_a_read_only_page_is_stale_unless_it_raced() {
    let (slot, _) = mapped();
    let change = slot.try_lock().unwrap();
    change.publish(2, Phase::ReadOnly);
    let before = slot.state();
    assert_eq!(slot.judge_write(before, None), Verdict::Fine);
    assert_eq!(slot.judge_write(before, Some(())), Verdict::StaleWrite);
    change.begin();
    change.publish(2, Phase::Writable);
    change.publish(2, Phase::ReadOnly);
    assert_eq!(slot.judge_write(before, Some(())), Verdict::Fine, "it was writable in between");
}

#[test]
fn a_slot_has_one_changer() {
    let (slot, _) = mapped();
    let change = slot.try_lock().unwrap();
    assert!(slot.try_lock().is_none());
    drop(change);
    assert!(slot.try_lock().is_some());
}
