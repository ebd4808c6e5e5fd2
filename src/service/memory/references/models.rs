//! loom models of the counts: holders that come, go and look at once. A run has two parts here.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;

/// A frame and its word: loom finds uses that are not ordered before its free or its reuse.
struct Frame {
    word: AtomicU32,
    bytes: UnsafeCell<()>,
}

// SAFETY: loom checks the accesses, which is what the models are for.
unsafe impl Sync for Frame {}
// SAFETY: as above.
unsafe impl Send for Frame {}

impl Frame {
    /// Of so many holders.
    fn shared_by(holders: &[Holder]) -> Arc<Frame> {
        let word = AtomicU32::new(0);
        for &holder in &holders[1..] {
            share(&word, holder).unwrap();
        }
        Arc::new(Frame { word, bytes: UnsafeCell::new(()) })
    }

    fn read(&self) {
        self.bytes.with(|_| ());
    }

    /// Reads the frame a last time, drops the share, and frees the frame if it was the last.
    fn leave(&self, holder: Holder) -> usize {
        self.read();
        // As `service::shares` does for leaves of 4 KiB.
        if holder == Holder::Page && drop_page(&self.word) {
            return 0;
        }
        match drop_share(&self.word, holder) {
            Dropped::Held => 0,
            Dropped::Last => {
                self.bytes.with_mut(|_| ());
                1
            }
        }
    }
}

fn both<A: Send + 'static>(first: impl FnOnce() -> A + Send + 'static, second: impl FnOnce() -> A) -> (A, A) {
    let first = thread::spawn(first);
    let second = second();
    (first.join().unwrap(), second)
}

#[test]
fn one_of_three_droppers_is_the_last() {
    loom::model(|| {
        let frame = Frame::shared_by(&[Holder::Page; 3]);
        let [first, second] = [frame.clone(), frame.clone()];
        let first = thread::spawn(move || first.leave(Holder::Page));
        let second = thread::spawn(move || second.leave(Holder::Page));
        let freed = frame.leave(Holder::Page) + first.join().unwrap() + second.join().unwrap();
        assert_eq!(freed, 1);
        assert_eq!(frame.word.load(Ordering::Relaxed), 0);
    });
}

/// The sole holder writes to the frame, which the other has used until it dropped its share.
#[test]
fn the_sole_holder_has_the_frame_alone() {
    loom::model(|| {
        let frame = Frame::shared_by(&[Holder::Page; 2]);
        let other = frame.clone();
        let (freed, sole) = both(
            move || other.leave(Holder::Page),
            || {
                let sole = is_sole_holder(&frame.word, Holder::Page);
                if sole {
                    frame.bytes.with_mut(|_| ());
                }
                usize::from(sole)
            },
        );
        assert_eq!(freed, 0);
        assert!(sole <= 1);
        assert!(is_sole_holder(&frame.word, Holder::Page));
        assert_eq!(frame.leave(Holder::Page), 1);
    });
}

/// One holder hands the frame on and goes, while the other goes.
#[test]
fn a_share_that_is_handed_on_keeps_the_frame() {
    loom::model(|| {
        let frame = Frame::shared_by(&[Holder::Page; 2]);
        let (other, third) = (frame.clone(), frame.clone());
        let (first, second) = both(
            move || other.leave(Holder::Page),
            || {
                assert!(share_page(&frame.word) || share(&frame.word, Holder::Page).is_ok());
                let third = thread::spawn(move || third.leave(Holder::Page));
                frame.leave(Holder::Page) + third.join().unwrap()
            },
        );
        assert_eq!(first + second, 1);
    });
}

/// One space drops its large leaf, another the small ones that it has cut its own into.
#[test]
fn a_run_is_freed_once_by_leaves_of_both_sizes() {
    loom::model(|| {
        let run = Frame::shared_by(&[Holder::Run; 2]);
        let [leaf, part] = [run.clone(), run.clone()];
        let leaf = thread::spawn(move || leaf.leave(Holder::Run));
        let part = thread::spawn(move || part.leave(Holder::Page));
        let freed = run.leave(Holder::Page) + leaf.join().unwrap() + part.join().unwrap();
        assert_eq!(freed, 1);
        assert_eq!(run.word.load(Ordering::Relaxed), 0);
    });
}
