//! Taking mitigations back: an undo is a mitigation whose step at the directory is the inverse of the one it undoes.

use shared::{
    audit::{self, Actor, Event, Outcome as Audited, names},
    db::{StoreError, Tx},
    id::{AccountId, CauseId, MitigationId, MitigationRequestId, TenantId},
    policy,
    provider::{AccountState, Action, Containment},
};
use sqlx::Row;
use time::OffsetDateTime;

use crate::{
    cancellations,
    plan::{Evidence, Hold, Refusal, Step},
    planner,
    state::State,
    store::{self, Mitigation},
    store_requests::{Request, Undo},
};

/// What the ledger has of an account before a mitigation's first call.
#[derive(Clone, Copy, Debug)]
pub struct Was {
    /// Its state.
    pub state: AccountState,
    /// Whether it was marked already.
    pub compromised: Option<bool>,
}

/// Why a mitigation cannot be taken back, if it cannot.
fn refusal(of: &Mitigation, dismiss_risk: bool) -> Option<Refusal> {
    match (of.action, &of.state) {
        (Action::RevokeSessions, _) => Some(Refusal::Irreversible),
        (_, State::Done | State::Verified) if of.attempt == 0 => Some(Refusal::NotOurs),
        (Action::MarkCompromised, State::Done | State::Verified) if !dismiss_risk => {
            Some(Refusal::Unconfirmed)
        }
        (_, State::Done | State::Verified) => None,
        _ => Some(Refusal::NotInEffect),
    }
}

/// Decides about an account as the directory shows it now.
pub fn step(action: Action, was: Option<Was>, now: Option<&Containment>) -> Step {
    use AccountState::{Active, Deprovisioned, Disabled, Locked, PasswordExpired, Pending};
    let Some(now) = now else { return Step::Impossible(Refusal::AccountGone) };
    let Some(was) = was else { return Step::Impossible(Refusal::NotOurs) };
    match (action, now.state) {
        (Action::RevokeSessions, _) => Step::Impossible(Refusal::Irreversible),
        (Action::DisableAccount, _) if matches!(was.state, Disabled | Deprovisioned) => {
            Step::Impossible(Refusal::NotOurs)
        }
        (Action::DisableAccount, Active | Locked | PasswordExpired) => Step::AlreadyDone,
        (Action::DisableAccount, Pending | Deprovisioned) => Step::Impossible(Refusal::ChangedSince),
        (Action::MarkCompromised, Deprovisioned) => Step::Impossible(Refusal::AccountGone),
        (Action::MarkCompromised, _) if was.compromised == Some(true) => Step::Impossible(Refusal::NotOurs),
        (Action::MarkCompromised, _) if now.compromised == Some(false) => Step::AlreadyDone,
        (Action::DisableAccount, Disabled) | (Action::MarkCompromised, _) => Step::Act,
    }
}

/// Looks whether a mitigation is taken back.
pub fn evidence(action: Action, now: Option<&Containment>) -> Evidence {
    let Some(now) = now else { return Evidence::Silent };
    match action {
        Action::RevokeSessions => Evidence::Silent,
        Action::DisableAccount => match now.state {
            AccountState::Disabled | AccountState::Deprovisioned => Evidence::Absent,
            AccountState::Active
            | AccountState::Locked
            | AccountState::PasswordExpired
            | AccountState::Pending => Evidence::Shown,
        },
        Action::MarkCompromised => match now.compromised {
            Some(true) => Evidence::Absent,
            Some(false) => Evidence::Shown,
            None => Evidence::Silent,
        },
    }
}

/// Plans the undos of a request: one for each account and action.
pub async fn plan(
    tx: &mut Tx,
    tenant: TenantId,
    id: MitigationRequestId,
    request: &Request,
    undo: &Undo,
    cause: Option<CauseId>,
) -> Result<(), StoreError> {
    let policy = policy::current(tx).await?;
    let cancelled = cancellations::stands(tx, id).await?.then_some(Refusal::Cancelled);
    let mut undos = Vec::new();
    for of in originals(tx, undo).await? {
        let mut m = Mitigation {
            id: MitigationId::new(),
            exposure: None,
            request: Some(id),
            automatic: false,
            requested_by: Some((request.requested_by.clone(), request.requester_name.clone())),
            released_by: None,
            cause,
            undoes: Some(of.id),
            approval: None,
            password_epoch: String::new(),
            policy_version: policy.version,
            attempt: 0,
            checks: 0,
            details: [("request_reason".to_owned(), request.reason.clone())].into(),
            created_at: OffsetDateTime::UNIX_EPOCH, // the database's clock writes it
            finished_at: None,
            verified_at: None,
            reverted_at: None,
            revision: 0,
            ..of.clone()
        };
        let note = if let Some(reason) = cancelled.or_else(|| refusal(&of, undo.dismiss_risk)) {
            m.state = State::Refused { reason };
            Some(("refused", reason.sentence()))
        } else if of.is_admin && policy.policy.protected.administrators {
            let by = Hold::Privileged;
            m.state = State::Held { by };
            Some(("held", by.sentence()))
        } else {
            m.state = State::Planned { waits: None };
            None
        };
        m.details.extend(note.map(|(name, text)| (name.to_owned(), text.to_owned())));
        undos.push(m);
    }
    // The others: another mitigation of the account's is taken back with it, or it is being taken back already.
    let undos = planner::add(tx, &policy, tenant, undos).await?;
    let mut events: Vec<_> = undos.iter().map(planner::event).collect();
    let planned = Event::new(
        Some(tenant),
        names::MITIGATION_UNDO_PLANNED,
        Actor::caller(&request.requested_by, &request.requester_name),
        Audited::Success,
        "what is to be taken back is planned",
    )
    .object("mitigation_request", id)
    .detail("undos", undos.len())
    .detail("to_carry_out", undos.iter().filter(|m| matches!(m.state, State::Planned { .. })).count());
    events.push(cause.into_iter().fold(planned, Event::cause));
    audit::record_many(tx, &events).await
}

/// The mitigations that a person wants taken back, newest first. Of those since a time only what can be.
async fn originals(tx: &mut Tx, undo: &Undo) -> Result<Vec<Mitigation>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM mitigations
         WHERE undoes IS NULL AND (mitigation_id = ANY ($1) OR (automatic AND state IN ('done', 'verified') AND finished_at >= $2
               AND action <> 'revoke_sessions' AND attempt > 0))
         ORDER BY created_at DESC, mitigation_id DESC",
    )
    .bind(&undo.of)
    .bind(undo.since)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(store::mitigation).collect()
}

/// What the account looked like before the first call of a mitigation.
pub async fn was(tx: &mut Tx, of: MitigationId) -> Result<Option<Was>, StoreError> {
    let row = sqlx::query(
        "SELECT before_state, before_compromised FROM ledger WHERE mitigation_id = $1 ORDER BY attempt LIMIT 1",
    )
    .bind(of)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let state = AccountState::parse(row.try_get("before_state")?);
    let state =
        state.ok_or_else(|| StoreError::Corrupt("ledger.before_state has an unknown value".into()))?;
    Ok(Some(Was { state, compromised: row.try_get("before_compromised")? }))
}

/// The last call of ours that brought an action about on an account.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// When its intent was committed.
    pub intent: OffsetDateTime,
    /// When the directory says that it took effect, where it shows that.
    pub changed_at: Option<OffsetDateTime>,
}

/// Our last call of an undo's kind: what another mitigation of ours did since is nobody else's doing.
pub async fn ours(tx: &mut Tx, undo: &Mitigation) -> Result<Option<Ours>, StoreError> {
    let found: Option<(OffsetDateTime, Option<OffsetDateTime>)> = sqlx::query_as(
        "SELECT l.intent_at, l.after_changed FROM ledger l JOIN mitigations m USING (tenant_id, mitigation_id)
         WHERE m.account_id = $1 AND m.action = $2 AND m.undoes IS NULL AND (l.outcome IS NULL OR l.outcome IN ('done', 'unknown'))
         ORDER BY l.intent_at DESC LIMIT 1",
    )
    .bind(undo.account)
    .bind(undo.action.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(found.map(|(intent, changed_at)| Ours { intent, changed_at }))
}

/// Everything of this kind that was in effect on the account is not any more, and is checked no more.
pub async fn undone(tx: &mut Tx, undo: &Mitigation) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE mitigations SET state = 'undone', undone_at = clock_timestamp(), revision = revision + 1
         WHERE account_id = $1 AND action = $2 AND undoes IS NULL AND state IN ('done', 'verified')",
    )
    .bind(undo.account)
    .bind(undo.action.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether such an action on the account is being taken back now: what the directory shows of it is nobody else's doing.
pub async fn under_way(tx: &mut Tx, account: AccountId, action: Action) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM mitigations WHERE account_id = $1 AND action = $2 AND undoes IS NOT NULL
                        AND state IN ('acting', 'unknown'))",
    )
    .bind(account)
    .bind(action.as_str())
    .fetch_one(&mut **tx)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_an_undo_is_decided() {
        use AccountState::{Active, Deprovisioned, Disabled, Locked, PasswordExpired, Pending};
        use Refusal::{AccountGone, ChangedSince, Irreversible, NotOurs};
        use Step::{Act, AlreadyDone, Impossible};
        let states = [Active, Disabled, Locked, PasswordExpired, Pending, Deprovisioned];
        let (yes, no) = (Some(true), Some(false));
        for (action, was, marked, expected) in [
            (Action::RevokeSessions, (Active, no), no, [Impossible(Irreversible); 6]),
            (
                Action::DisableAccount,
                (Active, no),
                no,
                [
                    AlreadyDone,
                    Act,
                    AlreadyDone,
                    AlreadyDone,
                    Impossible(ChangedSince),
                    Impossible(ChangedSince),
                ],
            ),
            (Action::DisableAccount, (Disabled, no), no, [Impossible(NotOurs); 6]),
            (Action::MarkCompromised, (Active, no), yes, [Act, Act, Act, Act, Act, Impossible(AccountGone)]),
            (
                Action::MarkCompromised,
                (Active, no),
                no,
                [AlreadyDone, AlreadyDone, AlreadyDone, AlreadyDone, AlreadyDone, Impossible(AccountGone)],
            ),
            (
                Action::MarkCompromised,
                (Active, yes),
                yes,
                [
                    Impossible(NotOurs),
                    Impossible(NotOurs),
                    Impossible(NotOurs),
                    Impossible(NotOurs),
                    Impossible(NotOurs),
                    Impossible(AccountGone),
                ],
            ),
        ] {
            let was = Was { state: was.0, compromised: was.1 };
            for (state, expected) in states.into_iter().zip(expected) {
                let now =
                    Containment { state, sessions_valid_from: None, compromised: marked, changed_at: None };
                assert_eq!(step(action, Some(was), Some(&now)), expected, "{action:?} {was:?} {state:?}");
            }
            assert_eq!(step(action, Some(was), None), Impossible(AccountGone));
            let now = Containment {
                state: Disabled,
                sessions_valid_from: None,
                compromised: marked,
                changed_at: None,
            };
            assert!(
                matches!(step(action, None, Some(&now)), Impossible(_)),
                "without a record of before nothing is given back"
            );
        }
    }
}
