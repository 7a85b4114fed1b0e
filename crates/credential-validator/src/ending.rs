//! How a turn ends without an attempt, and what may still hold it back.

use shared::{
    db::{StoreError, Tx},
    integration_store::{Integration, Package, Status},
    limiter::Denial,
    triage::Rule,
    verdict::{Reason, Verdict},
    work,
};
use time::{Duration, OffsetDateTime};

use crate::{
    conclude,
    store::{
        exposures::{self, Next},
        pauses::Pause,
        turn::{Asked, Turn},
    },
    triage::Decision,
};

/// How often an exposure looks whether a pause without end, or a switched-off integration, is over.
pub const LOOK_AGAIN: Duration = Duration::minutes(15);
/// How often an account whose budget no time frees is looked at: its owner may have signed in.
const RESERVE: Duration = Duration::days(1);

/// How a turn ends without an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A verdict that stands.
    Decided(Decision),
    /// Nobody wants it validated (any more).
    Idle(Decision),
    /// It waits.
    Later(Reason, After),
    /// Its request is paused, or just cancelled: it stays as it is, without a turn, until `requests` gives it one or
    /// takes it back.
    Withheld,
    /// A verdict that stands until the owner signs in, which is looked at again then.
    Watched(Decision, Duration),
}

/// When a turn comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// After this long.
    A(Duration),
    /// At this instant.
    At(OffsetDateTime),
}

/// It waits this long.
pub fn later(reason: Reason, after: Duration) -> Ending {
    Ending::Later(reason, After::A(after))
}

/// The account is no longer in the directory.
pub fn gone() -> Ending {
    Ending::Decided(Decision::by(Rule::AccountState, Verdict::NotTestable(Reason::AccountGone)))
}

/// Nobody may validate it (any more).
pub fn switched_off() -> Ending {
    Ending::Idle(Decision::new(Verdict::NotTestable(Reason::SwitchedOff)))
}

/// Whether the integration may validate this exposure now.
pub fn standing(turn: &Turn, entitled: Option<(Integration, Package)>) -> Result<Integration, Ending> {
    let Some((integration, package)) = entitled else { return Err(switched_off()) };
    let settings = &integration.settings;
    let by_rule = !turn.history && settings.validates_automatically();
    let by_person = turn.asked != Asked::No && settings.validation.manual;
    if !package.validation || !(by_rule || by_person) {
        return Err(switched_off());
    }
    // What had a verdict waits for those who asked for another, and for no rule.
    if turn.asked == Asked::Held && (turn.had_verdict || !by_rule) {
        return Err(Ending::Withheld);
    }
    match integration.status {
        Status::Active => Ok(integration),
        Status::Disabled => Err(later(Reason::Paused, LOOK_AGAIN)),
        Status::Error => Err(later(Reason::Unavailable, LOOK_AGAIN)),
    }
}

/// What a pause means for the exposure.
pub fn paused(pause: &Pause) -> Ending {
    match pause.until {
        Some(until) => Ending::Later(Reason::Paused, After::At(until)),
        None => later(Reason::Paused, LOOK_AGAIN),
    }
}

/// What a directory that is left alone means for the exposure.
pub fn held(until: OffsetDateTime, reason: &str) -> Ending {
    let reason = if reason == "throttled" { Reason::Throttled } else { Reason::Unavailable };
    Ending::Later(reason, After::At(until))
}

/// What a denial of the budget means for the exposure.
pub fn denied(reason: Denial, free_at: Option<OffsetDateTime>) -> Ending {
    let at = |reason| match free_at {
        Some(at) => Ending::Later(reason, After::At(at)),
        None => later(reason, LOOK_AGAIN),
    };
    let never = |reason| Decision::new(Verdict::NotTestable(reason)).because("rule", "budget");
    match reason {
        Denial::ThresholdTooLow => Ending::Decided(never(Reason::ThresholdTooLow)),
        Denial::DailyMax => Ending::Idle(never(Reason::SwitchedOff)),
        Denial::Locked => Ending::Decided(never(Reason::AccountLocked)),
        Denial::Gate | Denial::Stopped => at(Reason::Paused),
        Denial::InFlight => at(Reason::InFlight),
        Denial::Spacing => at(Reason::Spacing),
        Denial::Window => at(Reason::Window),
        Denial::Cooling => at(Reason::LockedOrBlocked),
        Denial::Reserve => Ending::Watched(never(Reason::Reserve), RESERVE),
    }
}

/// Writes how the turn ended; the caller holds the exposure's row lock and commits.
pub async fn write(tx: &mut Tx, turn: &Turn, outcome: &Ending) -> Result<(), StoreError> {
    match outcome {
        Ending::Decided(decision) => conclude::without_attempt(tx, turn, decision, Next::Decided).await,
        Ending::Idle(decision) => conclude::without_attempt(tx, turn, decision, Next::Idle).await,
        Ending::Later(reason, after) => {
            let until = match after {
                After::A(length) => tx.clock().await? + *length,
                After::At(at) => *at,
            };
            let (decision, next) =
                (Decision::new(Verdict::Deferred(until, *reason)), Next::Waiting(until, *reason));
            exposures::decide(tx, (turn.exposure, turn.work), &decision, false, next).await?;
            metrics::counter!("parapet_deferrals_total", "reason" => reason.as_str()).increment(1);
            Ok(())
        }
        Ending::Withheld => work::finish(tx, turn.work).await,
        Ending::Watched(decision, length) => {
            let next = Next::Waiting(tx.clock().await? + *length, Reason::Reserve);
            exposures::decide(tx, (turn.exposure, turn.work), decision, false, next).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_denial_waits_for_its_time_or_says_why_it_never_will() {
        let at = OffsetDateTime::UNIX_EPOCH;
        for (denial, reason) in [
            (Denial::Gate, Reason::Paused),
            (Denial::InFlight, Reason::InFlight),
            (Denial::Spacing, Reason::Spacing),
            (Denial::Window, Reason::Window),
            (Denial::Cooling, Reason::LockedOrBlocked),
        ] {
            assert_eq!(denied(denial, Some(at)), Ending::Later(reason, After::At(at)));
        }
        assert!(matches!(denied(Denial::Reserve, None), Ending::Watched(d, again)
            if again == RESERVE && d.verdict == Verdict::NotTestable(Reason::Reserve)));
        assert!(matches!(denied(Denial::ThresholdTooLow, None), Ending::Decided(_)));
        assert!(matches!(denied(Denial::Locked, None), Ending::Decided(_)));
    }
}
