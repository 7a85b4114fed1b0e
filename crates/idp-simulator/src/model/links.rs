//! What was written between objects since a directory was made: memberships, ownerships, assignments.
//!
//! Memory grows with what was written only; what a directory is made with is told by its groups and applications.

use std::collections::{BTreeMap, HashMap};
use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::Serialize;
use time::{Duration, OffsetDateTime};

use crate::sync::{read, write};

/// What a link means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From a group to a direct member.
    Member,
    /// From a group to an owner.
    Owner,
    /// From a service principal to whom it is assigned; the label is the id of the app role.
    AppRole,
    /// From a group to nothing; the label is the display name of a directory role it holds.
    Role,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Link {
    /// What it means.
    pub kind: Kind,
    /// Object id it starts at.
    pub from: String,
    /// Object id it ends at.
    pub to: String,
    /// What tells it from others between the two; mostly empty.
    pub label: String,
}

impl Link {
    /// A link without a label.
    pub fn new(kind: Kind, from: &str, to: &str) -> Self {
        Self { kind, from: from.to_owned(), to: to.to_owned(), label: String::new() }
    }

    /// The same with a label.
    #[must_use]
    pub fn labelled(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }
}

/// What was written last about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Whether it is there.
    pub present: bool,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// All links of a directory that were written.
#[derive(Debug, Default)]
pub struct Links {
    book: RwLock<Book>,
    /// Seconds for which a lagging reader still sees what was there before.
    lag_s: AtomicI64,
}

#[derive(Debug, Default)]
struct Book {
    /// By what they mean and where they start.
    written: HashMap<Kind, HashMap<String, BTreeMap<Link, Written>>>,
    /// Sequence → link, at most one entry for a link.
    changes: BTreeMap<u64, Link>,
    last_change: HashMap<Link, u64>,
    sequence: u64,
}

impl Links {
    /// Sets for how long links stay as they were for lagging readers.
    pub fn set_lag(&self, seconds: i64) {
        self.lag_s.store(seconds, Ordering::Relaxed);
    }

    /// Makes or removes a link.
    pub fn set(&self, link: Link, present: bool, at: OffsetDateTime) {
        let mut book = write(&self.book);
        book.note(&link);
        let of_kind = book.written.entry(link.kind).or_default();
        of_kind.entry(link.from.clone()).or_default().insert(link, Written { present, at });
    }

    /// Remembers that readers of changes must look at a link again, whose ends changed.
    pub fn touch(&self, link: &Link) {
        write(&self.book).note(link);
    }

    /// What was written of this kind from this object, as a reader sees it: a lagging one (`seen` tells when) the opposite
    /// of what was written just now.
    pub fn from(&self, kind: Kind, from: &str, seen: Option<OffsetDateTime>) -> Vec<(Link, Written)> {
        let lag = Duration::seconds(self.lag_s.load(Ordering::Relaxed));
        let book = read(&self.book);
        let links = book.written.get(&kind).and_then(|of_kind| of_kind.get(from));
        let as_seen = |(link, written): (&Link, &Written)| {
            let hidden = seen.is_some_and(|now| now < written.at + lag);
            (link.clone(), Written { present: written.present != hidden, ..*written })
        };
        links.into_iter().flatten().map(as_seen).collect()
    }

    /// Everything written, for the control port.
    pub fn all(&self) -> Vec<(Link, Written)> {
        let book = read(&self.book);
        let links = book.written.values().flat_map(HashMap::values).flatten();
        let mut all: Vec<_> = links.map(|(link, written)| (link.clone(), *written)).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Sequence of the latest change.
    pub fn sequence(&self) -> u64 {
        read(&self.book).sequence
    }

    /// Links changed after `sequence`, oldest change first, at most `limit`, each with its sequence.
    pub fn changed_since(&self, sequence: u64, limit: usize) -> Vec<(u64, Link)> {
        let book = read(&self.book);
        let after = book.changes.range(sequence + 1..).take(limit);
        after.map(|(sequence, link)| (*sequence, link.clone())).collect()
    }
}

impl Book {
    fn note(&mut self, link: &Link) {
        self.sequence += 1;
        if let Some(earlier) = self.last_change.insert(link.clone(), self.sequence) {
            self.changes.remove(&earlier);
        }
        self.changes.insert(self.sequence, link.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lagging_reader_sees_a_link_as_it_was() {
        let links = Links::default();
        links.set_lag(10);
        let at = OffsetDateTime::UNIX_EPOCH;
        links.set(Link::new(Kind::Member, "g", "m"), true, at);
        let seen = |now| links.from(Kind::Member, "g", now).first().map(|(_, written)| written.present);
        assert_eq!(seen(None), Some(true));
        assert_eq!(seen(Some(at + Duration::seconds(9))), Some(false));
        assert_eq!(seen(Some(at + Duration::seconds(10))), Some(true));
    }

    #[test]
    fn a_link_written_twice_is_one_change() {
        let links = Links::default();
        for present in [true, false] {
            links.set(Link::new(Kind::Owner, "g", "m"), present, OffsetDateTime::UNIX_EPOCH);
        }
        let changed = links.changed_since(0, 10);
        assert_eq!(changed.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [2]);
    }
}
