//! Reports of overwritten links: see [`encoding`](crate::slab).

use core::ptr::{self, NonNull};

use super::super::Heap;
use super::super::place::Place;
use super::Finding;
use crate::slab::take_broken;
use crate::{PageSource, Platform};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Reports a broken link of the heap, if one was found. Cost: one load if none was found.
    #[inline]
    pub(in crate::heap) fn report_broken_link(&self) {
        let mut class = None;
        let ours = |address| {
            let object = NonNull::new(ptr::without_provenance_mut(address));
            let place = object.and_then(|object| self.place_of(object));
            class = match place {
                Some(Place::Object { class, .. }) => Some(class),
                _ => None,
            };
            class.is_some()
        };
        if let Some(address) = take_broken(ours) {
            self.report(Finding::BrokenLink, address, class, None);
        }
    }
}
