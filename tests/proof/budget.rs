//! The functions of schema `budget`, rule by rule as in SQL (`decide`, `settle`, `expire`, the gate and its beat).
//!
//! Rules that only deny more are left out (spacing, cool-down, locked accounts): what holds without them holds with
//! them. Where a fault of the catalogue is asked for, the rule that it takes out is skipped here.

use crate::{
    catalogue::Fault,
    model::Protocol,
    world::{
        Attempt, CEILING, DAY, Database, GRACE, Gate, Grant, OVERDUE, Request, Slot, State, Status, Time,
        Version, WINDOW,
    },
};

/// What the reservation is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub request: usize,
    pub by: Version,
    pub limit: usize,
    /// The owner's last sign-in, as the directory shows it.
    pub shown: Option<Time>,
    /// `clock_timestamp()`.
    pub instant: Time,
    /// System identifier and timeline of the database that answers.
    pub identity: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted(Grant),
    Already,
    Denied,
}

impl Protocol {
    /// `budget.decide`. The slot of a grant is written by [`Self::commit`].
    pub fn decide(&self, db: &mut Database, ask: &Ask) -> Answer {
        let allowed = ask.limit.min(CEILING);
        let Some(attempt) = db.requests.get(ask.request).map(|request| request.attempt) else {
            return Answer::Denied;
        };
        if attempt.is_some() && !self.lacks(Fault::SendAgainOnRedelivery) {
            return Answer::Already;
        }
        if db.stopped && !self.lacks(Fault::StopRemembered) {
            return Answer::Denied;
        }
        if !self.gate_is_open(db.gate, ask) {
            return Answer::Denied;
        }
        // A clock that went back frees nothing.
        let at = if self.lacks(Fault::ClockWithoutGreatest) {
            ask.instant
        } else {
            ask.instant.max(db.gate.beat_at).max(db.account.last_attempt_at.unwrap_or(Time::MIN))
        };
        if attempt.is_some() {
            let since_success = db.account.since_success.saturating_sub(1);
            return Answer::Granted(Grant { at, since_success, allowed, by: ask.by });
        }
        // One at a time.
        let open = |request: &Request| matches!(request.attempt, Some(Attempt::Reserved { .. }));
        if db.requests.iter().any(open) && !self.lacks(Fault::CheckThenSend) {
            return Answer::Denied;
        }
        // What the directory shows of the owner: only what cannot be the trace of our own attempt.
        let grace = if self.lacks(Fault::OwnTraceIsOwner) { 0 } else { GRACE };
        let newer = |shown: Time| {
            db.account.last_attempt_at.is_some_and(|last| shown > last + grace) && shown <= at + grace
        };
        let forgotten = self.lacks(Fault::ReserveForgets) && self.used(db, at, ask.by) == 0;
        if ask.shown.is_some_and(newer) || forgotten {
            db.account.since_success = 0;
        }
        if db.account.since_success >= self.world.reserve || self.used(db, at, ask.by) >= allowed {
            return Answer::Denied;
        }
        Answer::Granted(Grant { at, since_success: db.account.since_success, allowed, by: ask.by })
    }

    /// Attempts that still count.
    fn used(&self, db: &Database, at: Time, by: Version) -> usize {
        let counts = |t: &Time| match () {
            () if self.lacks(Fault::CalendarDay) => t.div_euclid(DAY) == at.div_euclid(DAY),
            () if self.lacks(Fault::WindowWithoutSlack) => *t > at - DAY,
            () => *t > at - WINDOW,
        };
        let own = |slot: &Slot| !self.lacks(Fault::LimitPerVersion) || slot.by == by;
        db.account.recent.iter().filter(|slot| counts(&slot.at) && own(slot)).count()
    }

    /// The commit of a grant: the slot, the ledger row, the count.
    pub fn commit(db: &mut Database, request: usize, grant: &Grant) {
        let Some(row) = db.requests.get_mut(request) else { return };
        if row.attempt.is_none() {
            db.account.recent.retain(|slot| slot.at > grant.at - WINDOW);
            db.account.recent.push(Slot { at: grant.at, by: grant.by });
        }
        row.attempt = Some(Attempt::Reserved { at: grant.at });
        db.account.since_success = grant.since_success + 1;
        db.account.last_attempt_at = Some(grant.at);
    }

    /// `budget.settle` with the verdict, in one transaction. Only the holder can, and only before the reaper.
    pub fn settle(db: &mut Database, request: usize, grant: &Grant, answered: bool) {
        let Some(row) = db.requests.get_mut(request) else { return };
        if row.attempt == Some(Attempt::Reserved { at: grant.at }) {
            (row.attempt, row.status) = if answered {
                (Some(Attempt::Answered), Status::Decided)
            } else {
                (Some(Attempt::Unknown), Status::Unknown)
            };
        }
    }

    /// Whether `budget.reap` takes the request's attempt.
    pub fn is_overdue(db: &Database, request: usize, clock: Time) -> bool {
        let attempt = db.requests.get(request).and_then(|r| r.attempt);
        matches!(attempt, Some(Attempt::Reserved { at }) if at + OVERDUE <= clock)
    }

    /// `budget.reap` with the verdict, in one transaction.
    pub fn reap(&self, db: &mut Database, request: usize) {
        let Some(row) = db.requests.get_mut(request) else { return };
        if let (Some(Attempt::Reserved { at }), true) = (row.attempt, self.lacks(Fault::RefundOfUnknown)) {
            db.account.recent.retain(|slot| slot.at != at);
        }
        row.attempt = Some(Attempt::Unknown);
        if !self.lacks(Fault::ReaperForgetsRequest) {
            row.status = Status::Unknown;
        }
    }

    /// `budget.closed_until`. A database that no beat has looked at yet gives nothing: another one than the known, or one
    /// whose clock is ahead of the last beat.
    fn gate_is_open(&self, gate: Gate, ask: &Ask) -> bool {
        let other = gate.identity != ask.identity && !self.lacks(Fault::NoGate);
        let ahead = self.world.clock_steps > 0
            && ask.instant > gate.beat_at
            && !self.lacks(Fault::ClockUnwatched)
            && !self.lacks(Fault::StepBetweenBeats);
        !other && !ahead && gate.closed_until.is_none_or(|until| until <= ask.instant)
    }

    /// `budget.beat`: a validator notes which database answers, and compares how far its clock went with how far its own did.
    pub fn beat(&self, state: &mut State) {
        let clock = state.clock();
        let own = state.now - state.beaten;
        let gate = &mut state.db.gate;
        // The declaration counts only if commits did wait for a replica.
        let declared = self.world.synchronous || self.lacks(Fault::DeclarationBelieved);
        let failover = gate.identity != state.identity && !declared;
        let stepped =
            self.world.clock_steps > 0 && clock - gate.beat_at > own && !self.lacks(Fault::ClockUnwatched);
        if failover || stepped {
            let length = if self.lacks(Fault::GateOpensAtOnce) { 0 } else { WINDOW };
            gate.closed_until = gate.closed_until.max(Some(clock + length));
        }
        gate.identity = state.identity;
        if self.world.clock_steps > 0 {
            (gate.beat_at, state.beaten) = (clock, state.now);
        }
    }
}
