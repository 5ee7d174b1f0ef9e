//! The revisions of values that share an object.
//!
//! The API server versions an object as a whole, and the leader writes to the one that holds the
//! cluster data every two seconds. A revision of ours is the object's version when this process
//! first found a value in it: it lies between the value's own write and that of the next value. So
//! of two processes whoever has the higher one has no older value, and a value's revision never grows
//! in one (I5, I8). The lower one may be of the same value: a keeper that was faster to read than the
//! leader now is may have to wait for failInterval where by its release nobody would have to. That is so
//! only of a value that somebody else wrote, for its writer has the lowest there is; and a leader writes
//! when it takes over. A revision that all agree on would have to lie beside the value, and those who do
//! not know of it, Go processes and kubectl, would write the value without it.

use std::collections::{BTreeMap, VecDeque};

use crate::{Key, Revision};

/// Values of one key that are remembered. More are needed only by answers that come late.
const REMEMBERED: usize = 8;

/// What was found under each key.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<Key, VecDeque<Span>>);

/// A value, and the versions of the object it was found in.
#[derive(Debug)]
struct Span {
    value: String,
    first: u64,
    last: u64,
}

impl Memory {
    /// The revision of a value that was found in, or written with, a version of its object.
    pub(super) fn revision(&mut self, key: &Key, value: &str, version: u64) -> Revision {
        let spans = self.0.entry(key.clone()).or_default();
        if let Some(index) = spans.iter().rposition(|span| span.value == value) {
            let last = spans[index].last;
            // It may have been written anew after another one was there.
            let is_another = spans
                .iter()
                .any(|span| last < span.first && span.first < version);
            if !is_another {
                let span = &mut spans[index];
                span.last = span.last.max(version);
                return Revision(span.first);
            }
        }
        if spans.len() == REMEMBERED {
            spans.pop_front();
        }
        let (value, first, last) = (value.to_owned(), version, version);
        spans.push_back(Span { value, first, last });
        Revision(version)
    }

    /// Forgets the requests that are none of these: their keys do not come again.
    pub(super) fn keep_requests(&mut self, present: &[&Key]) {
        self.0
            .retain(|key, _| !matches!(key, Key::Request(_)) || present.contains(&key));
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use crate::{Key, Revision};

    /// Finds values, each in a version, and expects revisions.
    fn check(found: &[(&str, u64, u64)]) {
        let mut memory = Memory::default();
        for (step, (value, version, expected)) in found.iter().enumerate() {
            let revision = memory.revision(&Key::ClusterData, value, *version);
            assert_eq!(revision, Revision(*expected), "step {step} of {found:?}");
        }
    }

    #[test]
    fn a_value_keeps_its_revision_while_the_leader_writes_beside_it() {
        check(&[
            ("a", 10, 10),
            ("a", 12, 10),
            ("a", 90, 10),
            ("b", 91, 91),
            ("b", 93, 91),
        ]);
    }

    #[test]
    fn an_answer_that_comes_late_changes_nothing() {
        check(&[
            ("a", 10, 10),
            ("b", 15, 15),
            ("a", 12, 10),
            ("b", 18, 15),
            ("a", 11, 10),
        ]);
        // Not even when it is older than all that is known.
        check(&[("b", 15, 15), ("a", 12, 12), ("b", 18, 15), ("b", 14, 15)]);
    }

    #[test]
    fn a_value_that_comes_back_is_a_new_one() {
        check(&[("a", 10, 10), ("b", 15, 15), ("a", 20, 20), ("b", 25, 25)]);
    }

    #[test]
    fn revisions_of_a_store_that_went_back_grow_from_there() {
        check(&[
            ("a", 100, 100),
            ("c", 50, 50),
            ("c", 55, 50),
            ("d", 60, 60),
            ("d", 61, 60),
        ]);
    }

    #[test]
    fn only_requests_are_forgotten() {
        let mut memory = Memory::default();
        let request = |id: &str| Key::Request(id.to_owned());
        for (key, version) in [(Key::ClusterData, 1), (request("a"), 2), (request("b"), 3)] {
            memory.revision(&key, "", version);
        }
        memory.keep_requests(&[&request("b")]);
        let left: Vec<_> = memory.0.into_keys().collect();
        assert_eq!(left, [Key::ClusterData, request("b")]);
    }

    #[test]
    fn no_more_is_remembered_than_is_needed() {
        let mut memory = Memory::default();
        for version in 1..100_u64 {
            memory.revision(&Key::ClusterData, &version.to_string(), version);
        }
        assert_eq!(memory.0[&Key::ClusterData].len(), super::REMEMBERED);
    }
}
