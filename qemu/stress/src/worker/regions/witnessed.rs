//! The changes that are made before a witness.

use topomem::Access;

use super::meetings::{MeetingKind, RegionMeeting};
use crate::Rig;
use crate::oracle::{Contents, Permits};
use crate::shared::rendezvous::Stage;
use crate::worker::Worker;

impl<R: Rig> Worker<'_, R> {
    /// Changes one page that may be written to while another CPU has its translation.
    pub(super) fn change_before_a_witness(&mut self, space: usize) {
        let draw = self.random.below(12);
        match draw {
            6 | 7 => return self.move_before_a_witness(space),
            8 => return self.write_back_before_a_witness(),
            _ => {}
        }
        let Some(mut pages) = self.lock_pages(space, 1) else { return };
        let page = &pages.pages[0];
        if pages.states[0].permits != Permits::Writes {
            return;
        }
        let number = self.region_pages(space).number_of(page);
        let kind = match draw {
            0 => MeetingKind::Race,
            1 => MeetingKind::Reader,
            _ => MeetingKind::Writer,
        };
        let meeting = RegionMeeting { space, page: number, to: number, kind };
        self.count_changes(1);
        match draw {
            0 => {
                // The witness is the first to use it.
                self.discard_pages(space, &mut pages, false);
                self.before_a_witness(meeting, |this| {
                    this.unmap_pages(space, &mut pages);
                    drop(pages);
                    Some(Stage::HandedOver)
                });
            }
            1 => {
                // Another space has the page, so this one is to get a copy.
                let copy = self.fork_shared(space);
                self.before_a_witness(meeting, |this| {
                    let new = pages.states[0].holding(Permits::Writes, Contents::Tag);
                    if this.write_tag(space, page.address, page.tag(new.written)) {
                        pages.states[0] = new;
                    }
                    drop(pages);
                    Some(Stage::HandedOver)
                });
                drop(copy);
            }
            9.. => self.before_a_witness(meeting, |this| {
                this.migrate(space, page.address, 1);
                let new = pages.states[0].holding(Permits::Writes, Contents::Tag);
                if this.write_tag(space, page.address, page.tag(new.written)) {
                    pages.states[0] = new;
                }
                drop(pages);
                Some(Stage::HandedOver)
            }),
            2 => {
                // It stays locked: no CPU but the witness writes.
                self.fork_before_a_witness(meeting);
                drop(pages);
            }
            _ => self.before_a_witness(meeting, |this| {
                match draw {
                    3 => this.discard_pages(space, &mut pages, false),
                    4 => this.unmap_pages(space, &mut pages),
                    _ => this.protect_pages(space, &mut pages, Access::READ, Permits::Reads),
                }
                drop(pages);
                Some(Stage::HandedOver)
            }),
        }
    }
}
