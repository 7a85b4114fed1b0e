//! The models: the shipped protocol in several worlds, and the same protocol with one protection taken out at a time.

use crate::{
    model::Protocol,
    world::{PLAIN, World},
};

/// How much of the worlds is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Seconds, for every change.
    Quick,
    /// `make proof`.
    Full,
}

/// A protection that is taken out. The model must then have a counterexample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    SendThenRecord,
    CheckThenSend,
    SendAgainOnRedelivery,
    LostCommitBelieved,
    RefundOfUnknown,
    ReaperForgetsRequest,
    CalendarDay,
    WindowWithoutSlack,
    DeadlineUnheeded,
    ReserveForgets,
    OwnTraceIsOwner,
    StopRemembered,
    LimitPerVersion,
    NoGate,
    GateOpensAtOnce,
    DeclarationBelieved,
    ClockWithoutGreatest,
    ClockUnwatched,
    StepBetweenBeats,
}

impl Fault {
    /// All of them, with what the reader is told and the world in which it must show.
    pub const ALL: [(Self, &'static str, World); 19] = [
        (Self::SendThenRecord, "send, then record", PLAIN),
        (Self::CheckThenSend, "count, then insert, without the row lock", PLAIN),
        (Self::SendAgainOnRedelivery, "send again under the old reservation", PLAIN),
        (Self::LostCommitBelieved, "believe a commit without an answer", PLAIN),
        (Self::RefundOfUnknown, "give back the slot of an unknown attempt", PLAIN),
        (Self::ReaperForgetsRequest, "the reaper closes the attempt, not the request", PLAIN),
        (Self::CalendarDay, "calendar day instead of a window", PLAIN),
        (Self::WindowWithoutSlack, "window without the time to send", PLAIN),
        (Self::DeadlineUnheeded, "send after the deadline", LONGER),
        (Self::ReserveForgets, "the reserve forgets after a window", OWNER),
        (Self::OwnTraceIsOwner, "our own attempt taken for the owner's sign-in", OWNER),
        (Self::StopRemembered, "a stop that services remember", STOPS),
        (Self::LimitPerVersion, "each version counts for itself", VERSIONS),
        (Self::NoGate, "failover without a gate", FAILOVER),
        (Self::GateOpensAtOnce, "a gate that opens at once", FAILOVER),
        (Self::DeclarationBelieved, "synchronous replication declared, and believed", FAILOVER),
        (Self::ClockWithoutGreatest, "clock without greatest()", CLOCK),
        (Self::ClockUnwatched, "a clock that steps unwatched", CLOCK),
        (Self::StepBetweenBeats, "a step of the clock that only the next beat sees", CLOCK),
    ];
}

const LONGER: World = World { ticks: 8, ..PLAIN };
const OWNER: World = World { reserve: 2, sign_ins: 1, ..PLAIN };
const STOPS: World = World { stops: 1, ..PLAIN };
const VERSIONS: World = World { lowered: 1, two_versions: true, ticks: 4, ..PLAIN };
const FAILOVER: World = World { failovers: 1, ticks: 4, ..PLAIN };
const CLOCK: World = World { clock_steps: 2, ticks: 2, ..PLAIN };
const CLOCK_OPENS: World = World { clock_steps: 1, ticks: 4, ..PLAIN };

/// One model and what is expected of it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: &'static str,
    pub protocol: Protocol,
}

/// The shipped protocol: none may have a counterexample, and everything that must happen sometimes does.
pub fn sound(extent: Extent) -> Vec<Entry> {
    let worlds: [(&'static str, World, World); 7] = [
        ("crashes, redelivery, lost commits", World { workers: 3, requests: 4, ..PLAIN }, PLAIN),
        ("windows that pass", World { requests: 4, ticks: 9, ..PLAIN }, PLAIN),
        ("the owner's reserve", World { ticks: 6, sign_ins: 2, ..OWNER }, OWNER),
        ("stops", World { stops: 2, ..STOPS }, STOPS),
        ("two versions, a limit lowered", World { requests: 4, ..VERSIONS }, VERSIONS),
        ("failovers that lose commits", World { ticks: 6, ..FAILOVER }, FAILOVER),
        (
            "failovers, replication synchronous",
            World { failovers: 2, synchronous: true, ..PLAIN },
            World { failovers: 1, synchronous: true, ..PLAIN },
        ),
    ];
    let clock = ("a clock that steps", World { clock_steps: 2, ticks: 5, ..CLOCK_OPENS }, CLOCK_OPENS);
    let of = |(name, full, quick)| {
        let world = if extent == Extent::Full { full } else { quick };
        Entry { name, protocol: Protocol { world, fault: None } }
    };
    worlds.into_iter().chain([clock]).map(of).collect()
}

/// The broken ones: each must have a counterexample.
pub fn broken() -> Vec<Entry> {
    let of = |(fault, name, world)| Entry { name, protocol: Protocol { world, fault: Some(fault) } };
    Fault::ALL.into_iter().map(of).collect()
}
