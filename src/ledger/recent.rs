//! Which handles recent commits rewrote, so that a submission which read before them is known to be stale.

use crate::crypto::Handle;
use std::collections::{HashMap, VecDeque};

/// Handles remembered at the most. A busy vault rewrites some ten thousand a second and a request lives for
/// milliseconds; a submission from before what is remembered counts as stale, which is safe and rare.
const REMEMBERED: usize = 1 << 18;

#[derive(Default)]
pub(super) struct Recent {
    /// The commit that last rewrote a handle.
    commits: HashMap<Handle, u64>,
    /// The same in the order of their making, to forget the oldest.
    order: VecDeque<(u64, Handle)>,
    newest: u64,
    /// Commits up to this one may have been forgotten.
    forgotten: u64,
}

impl Recent {
    /// Whether any of `touched` was rewritten after commit `basis`.
    pub fn changed_since(&self, basis: u64, touched: &[Handle]) -> bool {
        if touched.is_empty() || self.newest <= basis {
            return false;
        }
        if basis < self.forgotten {
            return true;
        }
        touched.iter().any(|handle| self.commits.get(handle).is_some_and(|commit| *commit > basis))
    }

    /// Notes that `commit` rewrites `handles`.
    pub fn note(&mut self, commit: u64, handles: &[Handle]) {
        for handle in handles {
            self.commits.insert(*handle, commit);
            self.order.push_back((commit, *handle));
            self.newest = commit;
        }
        let more = self.order.len().saturating_sub(REMEMBERED);
        for (commit, handle) in self.order.drain(..more) {
            self.forgotten = self.forgotten.max(commit);
            // A later commit may have rewritten it again; that entry stays until its own turn.
            if self.commits.get(&handle) == Some(&commit) {
                self.commits.remove(&handle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Handle;

    fn handle(number: u32) -> Handle {
        Handle::new(number, [0; 16])
    }

    #[test]
    fn a_later_rewrite_makes_stale_and_an_earlier_one_does_not() {
        let mut recent = Recent::default();
        recent.note(5, &[handle(1)]);
        assert!(recent.changed_since(4, &[handle(2), handle(1)]));
        assert!(!recent.changed_since(5, &[handle(1)]));
        assert!(!recent.changed_since(4, &[handle(2)]));
    }

    #[test]
    fn as_much_is_remembered_as_there_is_room_for_and_the_oldest_is_forgotten_first() {
        let mut recent = Recent::default();
        let last = u32::try_from(REMEMBERED).unwrap();
        recent.note(1, &[handle(0)]);
        recent.note(2, &[handle(1), handle(0)]);
        let filler: Vec<Handle> = (3..last).map(handle).collect();
        recent.note(3, &filler);
        let unknown = [handle(u32::MAX)];
        assert_eq!((recent.order.len(), recent.commits.len()), (REMEMBERED, REMEMBERED - 1));
        assert!(!recent.changed_since(0, &unknown), "all is remembered");
        // The row of commit 1 goes; that it was rewritten since is still known.
        recent.note(4, &[handle(last)]);
        assert_eq!((recent.order.len(), recent.commits.len()), (REMEMBERED, REMEMBERED));
        assert!(recent.changed_since(0, &unknown), "who read before commit 1 may have read what is forgotten");
        assert!(!recent.changed_since(1, &unknown) && !recent.changed_since(0, &[]));
        assert!(recent.changed_since(1, &[handle(0)]) && !recent.changed_since(2, &[handle(0)]));
        // And so those of commit 2, with all that is known of them.
        recent.note(5, &[handle(last + 1), handle(last + 2)]);
        assert_eq!((recent.order.len(), recent.commits.len()), (REMEMBERED, REMEMBERED));
        assert!(recent.changed_since(1, &unknown) && !recent.changed_since(2, &unknown));
    }

    #[test]
    fn nothing_rests_on_nothing() {
        let mut recent = Recent::default();
        recent.note(1, &[handle(0)]);
        assert!(!recent.changed_since(0, &[]));
        assert!(!recent.changed_since(1, &[handle(0)]));
    }

    #[test]
    fn what_is_forgotten_counts_as_changed() {
        let mut recent = Recent::default();
        recent.note(1, &[handle(0)]);
        let many: Vec<Handle> = (0..u32::try_from(REMEMBERED).unwrap()).map(handle).collect();
        recent.note(7, &many);
        assert!(recent.changed_since(0, &[handle(u32::MAX)]));
        assert!(!recent.changed_since(7, &[handle(0)]));
    }

    #[test]
    fn what_is_forgotten_takes_no_room_unless_it_was_rewritten_later() {
        let mut recent = Recent::default();
        recent.note(1, &[handle(0), handle(u32::MAX)]);
        let many: Vec<Handle> = (0..u32::try_from(REMEMBERED).unwrap()).map(handle).collect();
        recent.note(7, &many);
        assert_eq!((recent.order.len(), recent.commits.len()), (REMEMBERED, REMEMBERED));
        assert!(!recent.commits.contains_key(&handle(u32::MAX)) && recent.commits[&handle(0)] == 7);
    }
}
