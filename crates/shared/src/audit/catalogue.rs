//! The catalogue: every type of audit event, what it means and what it may carry. An event is made from an entry,
//! so one that is not here cannot be written. Names are stable: an entry is added, or gets a further detail, and is
//! never renamed.
//!
//! To add one: write it in the file of its area, record it with `Event::new(tenant, names::THE_ENTRY, …)`, and
//! run `make events`, which writes the page of the reference (`crates/audit-writer/EVENTS.md`).

mod administration;
mod directory;
mod mitigation;
mod validation;

use std::fmt::Write as _;

use super::{Actor, Event, Outcome};

/// Each entry by its name in code: `names::INTEGRATION_CREATED`.
pub mod names {
    pub use super::{
        administration::entries::*, directory::entries::*, mitigation::entries::*, validation::entries::*,
    };
}

/// A type of audit event. Only the catalogue makes one.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventType {
    /// Stable name: `integration.created`.
    pub name: &'static str,
    /// What it says, in one sentence.
    pub meaning: &'static str,
    /// Who can cause it.
    pub by: &'static [By],
    /// How it can end.
    pub outcomes: &'static [Outcome],
    /// What it may be about.
    pub about: &'static [About],
    /// The details it may have, of its own and those it shares with others.
    pub details: &'static [&'static [Detail]],
}

/// Who can cause an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A person, or a program of the customer's by its own credentials.
    Caller,
    /// One of our services, of its own accord.
    Service,
    /// A rule somebody switched on.
    Rule,
}

impl By {
    /// Its name in the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Service => "service",
            Self::Rule => "rule",
        }
    }
    fn of(actor: &Actor) -> Self {
        match actor {
            Actor::Person { .. } | Actor::Client { .. } => Self::Caller,
            Actor::Service(_) => Self::Service,
            Actor::Rule(_) => Self::Rule,
        }
    }
}

/// What an event may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// An integration.
    Integration,
    /// A directory user: object id and sign-in name.
    User,
    /// An object of this kind.
    Object(&'static str),
}

impl About {
    /// Its name in the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::User => "user",
            Self::Object(kind) => kind,
        }
    }
}

/// How a detail's value is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Says nothing about a person: a number, an id of ours, a word of ours.
    Public,
    /// May say something about a person, or is a person's own words.
    Personal,
    /// A secret: only that it changed is stored, whatever the code passes.
    Secret,
    /// The id of a further cause: a search by one cause finds the events of the other too.
    Cause,
}

impl Class {
    /// Its name in the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Personal => "personal",
            Self::Secret => "secret",
            Self::Cause => "public, a cause",
        }
    }
}

/// A detail that an event may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// Its name; a trailing `*` stands for any ending.
    pub name: &'static str,
    /// How its value is treated.
    pub class: Class,
    /// What it says.
    pub meaning: &'static str,
}

impl Detail {
    fn is_called(&self, name: &str) -> bool {
        self.name.strip_suffix('*').map_or(self.name == name, |start| name.starts_with(start))
    }
}

const fn public(name: &'static str, meaning: &'static str) -> Detail {
    Detail { name, class: Class::Public, meaning }
}
const fn personal(name: &'static str, meaning: &'static str) -> Detail {
    Detail { name, class: Class::Personal, meaning }
}
const fn secret(name: &'static str, meaning: &'static str) -> Detail {
    Detail { name, class: Class::Secret, meaning }
}
const fn cause(name: &'static str, meaning: &'static str) -> Detail {
    Detail { name, class: Class::Cause, meaning }
}

/// What a person gave as the reason.
const REASON: &[Detail] = &[personal("reason", "why, in the words of who decided")];
/// What differs, by path.
const CHANGES: &[Detail] = &[
    personal("before.*", "a field that changed, by its path: what was there"),
    personal("after.*", "a field that changed, by its path: what is there now"),
];

/// Declares the entries of one area: name in code, name, who causes it, how it ends, what it is about, its details
/// and the lists of details that it shares with others. The comment is the meaning.
macro_rules! entries {
    ($($(#[doc = $meaning:literal])+ $id:ident = $name:literal
        by [$($by:ident),+] ends [$($outcome:ident),+] about [$($about:expr),*]
        with [$($detail:expr),* $(,)?] $(and $shared:ident)*;)+
    ) => {
        pub(super) mod entries {
            use super::super::{About::*, By::*, EventType, *};
            use crate::audit::Outcome::*;
            $(
                $(#[doc = $meaning])+
                pub const $id: &EventType = &EventType {
                    name: $name,
                    meaning: concat!($($meaning),+),
                    by: &[$($by),+],
                    outcomes: &[$($outcome),+],
                    about: &[$($about),*],
                    details: &[&[$($detail),*] $(, super::$shared)*],
                };
            )+
        }
        pub(super) const ALL: &[&super::EventType] = &[$(entries::$id),+];
    };
}
use entries;

/// Every entry, area by area.
pub fn all() -> impl Iterator<Item = &'static EventType> {
    [directory::ALL, validation::ALL, mitigation::ALL, administration::ALL].into_iter().flatten().copied()
}

/// The names of the details that lead from one cause to another.
pub fn further_causes() -> Vec<&'static str> {
    let mut names: Vec<_> =
        all().flat_map(EventType::details).filter(|d| d.class == Class::Cause).map(|d| d.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl EventType {
    /// Every detail it may have.
    pub fn details(&self) -> impl Iterator<Item = &'static Detail> {
        self.details.iter().copied().flatten()
    }
    /// The detail of this name.
    pub fn detail(&self, name: &str) -> Option<&'static Detail> {
        self.details().find(|detail| detail.is_called(name))
    }
    /// What the event has that its entry does not declare.
    pub(super) fn undeclared(&self, event: &Event) -> Option<String> {
        let by = By::of(&event.actor);
        if !self.by.contains(&by) {
            return Some(format!("actor {}", by.as_str()));
        }
        if !self.outcomes.contains(&event.outcome) {
            return Some(format!("outcome {}", event.outcome.as_str()));
        }
        if event.integration.is_some() && !self.about.contains(&About::Integration) {
            return Some("an integration".to_owned());
        }
        if event.user.is_some() && !self.about.contains(&About::User) {
            return Some("a user".to_owned());
        }
        if let Some((kind, _)) = event.object
            && !self.about.contains(&About::Object(kind))
        {
            return Some(format!("object {kind}"));
        }
        event.details.keys().find(|name| self.detail(name).is_none()).map(|name| format!("detail {name}"))
    }
}

/// The page of the reference.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for (area, entries) in [
        ("Integrations and directories", directory::ALL),
        ("Feeds, exposures and validation", validation::ALL),
        ("Mitigation", mitigation::ALL),
        ("Administration, keys and access", administration::ALL),
    ] {
        _ = write!(page, "\n## {area}\n");
        for entry in entries {
            let list = |names: Vec<&str>| names.join(", ");
            _ = write!(page, "\n### `{}`\n\n{}\n\n", entry.name, entry.meaning.trim());
            _ = write!(page, "By: {}. ", list(entry.by.iter().map(|b| b.as_str()).collect()));
            _ = write!(page, "Outcome: {}.", list(entry.outcomes.iter().map(|o| o.as_str()).collect()));
            if !entry.about.is_empty() {
                _ = write!(page, " About: {}.", list(entry.about.iter().map(|a| a.as_str()).collect()));
            }
            page.push('\n');
            if entry.details().next().is_some() {
                page.push_str("\n| detail | class | meaning |\n|---|---|---|\n");
            }
            for Detail { name, class, meaning } in entry.details() {
                _ = writeln!(page, "| `{name}` | {} | {meaning} |", class.as_str());
            }
        }
    }
    page
}

const HEAD: &str = "\
# The audit events

Written by `make events` from `crates/shared/src/audit/catalogue`; a test fails while it is stale.
`parapet audit types` prints the same. Names are stable: entries and details are added, never renamed.

Every event has an id, a place in its chain, when it happened and when it was stored, its actor, its outcome, a
sentence and, where there is one, a cause: the request or record that led to it. *Caller* is a person or a program
with a token of its own. A detail is **public** (a number, an id or a word of ours), **personal** (may say something
about a person, or is a person's own words), or **secret**: of those only `changed` is stored. A detail that is *a
cause* names another cause: a search by one finds both. `*` stands for any ending.
";

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::id::IntegrationId;

    #[test]
    fn names_are_unique_and_of_one_form_and_every_entry_says_what_it_means() {
        let mut seen = BTreeSet::new();
        for entry in all() {
            assert!(seen.insert(entry.name), "{} is there twice", entry.name);
            let letters =
                |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(
                entry.name.split_once('.').is_some_and(|(a, b)| letters(a) && letters(b)),
                "{}",
                entry.name
            );
            assert!(entry.meaning.trim().ends_with('.'), "{}", entry.name);
            let mut details = BTreeSet::new();
            assert!(entry.details().all(|d| details.insert(d.name)), "{}", entry.name);
        }
    }

    #[test]
    fn the_page_of_the_reference_is_what_the_catalogue_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../audit-writer/EVENTS.md");
        if std::env::var_os("PARAPET_WRITE_EVENTS").is_some() {
            fs::write(&path, page()).unwrap();
        }
        assert!(
            fs::read_to_string(path).unwrap_or_default() == page(),
            "EVENTS.md is stale: run make events"
        );
    }

    #[test]
    fn what_an_entry_does_not_declare_is_found() {
        let event = || Event::new(None, names::SYNC_FINISHED, Actor::Service("x"), Outcome::Success, "");
        let undeclared = |event: Event| event.kind.undeclared(&event);
        assert_eq!(undeclared(event().detail("full", true).integration(IntegrationId::new())), None);
        assert_eq!(undeclared(event().detail("password", "x")), Some("detail password".into()));
        assert_eq!(undeclared(event().object("tenant", "x")), Some("object tenant".into()));
        assert_eq!(undeclared(event().user("x", "y")), Some("a user".into()));
        let event = |actor, outcome| Event::new(None, names::SYNC_FINISHED, actor, outcome, "");
        assert_eq!(undeclared(event(Actor::Rule("x"), Outcome::Success)), Some("actor rule".into()));
        assert_eq!(undeclared(event(Actor::Service("x"), Outcome::Intent)), Some("outcome intent".into()));
    }

    #[test]
    #[should_panic(expected = "does not declare detail password")]
    fn a_message_with_an_undeclared_detail_is_not_made() {
        let event = Event::new(None, names::SYNC_FINISHED, Actor::Service("x"), Outcome::Success, "");
        _ = event
            .detail("password", "x")
            .to_message(crate::id::EventId::new(), time::OffsetDateTime::UNIX_EPOCH);
    }

    #[test]
    fn of_a_secret_only_that_it_changed_is_kept() {
        let event =
            Event::new(None, names::INTEGRATION_UPDATED, Actor::caller("a", ""), Outcome::Success, "");
        assert_eq!(event.detail("credentials", "hunter2").details["credentials"], "changed");
    }
}
