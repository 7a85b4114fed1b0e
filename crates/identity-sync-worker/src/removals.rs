//! Removals that are held, what a person decides about them, and what goes with a removed account.

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::{Db, StoreError, Tx},
    id::{AccountId, CauseId, RemovalPlanId, TenantId},
    integration_store,
    outbox::{self, Topic},
    wire::events::AccountsChanged,
};

use crate::{
    absence::HoldReason,
    apply::{IDS_PER_MESSAGE, Scope},
    store_accounts::{self, Absent},
    store_directories as directories, store_identities,
    store_removals::{self as store, Decided, Plan, State},
};

/// Accounts of a plan that are removed at once; bounds the memory of a large one.
const BATCH: i64 = 500;

/// What went with removed accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    pub identities: u64,
    pub identifiers: i64,
}

/// Takes away what accounts that were just marked as removed leave behind: their identifiers, identities without
/// another account; and tells the validator.
pub(crate) async fn let_go(
    tx: &mut Tx,
    tenant: TenantId,
    cause: CauseId,
    removed: &[AccountId],
) -> Result<Gone, StoreError> {
    let mut gone = Gone::default();
    for some in removed.chunks(IDS_PER_MESSAGE) {
        let names = store_identities::held(tx, tenant, some).await?;
        gone.identifiers += store_identities::delete_held(tx, tenant, &names).await?.0;
        gone.identities += store_identities::end_identities(tx, tenant, some).await?;
        let changed = AccountsChanged {
            tenant_id: tenant.to_string(),
            account_ids: some.iter().map(ToString::to_string).collect(),
            cause_id: cause.to_string(),
        };
        outbox::enqueue(tx, Topic::AccountsChanged, Some(tenant), &changed).await?;
    }
    Ok(gone)
}

/// Holds what a full run did not find as a plan, in place of an older one.
pub(crate) async fn hold(
    tx: &mut Tx,
    scope: &Scope<'_>,
    reason: HoldReason,
    absent: Absent,
) -> Result<(), StoreError> {
    let (tenant, integration) = (scope.integration.tenant, scope.integration.id);
    store::supersede(tx, tenant, integration, Some(scope.run)).await?;
    let plan = store::hold(tx, tenant, integration, scope.run, reason, absent).await?;
    let message = "accounts that a full run did not find are not removed; a person decides about them";
    let event = scope
        .event(names::REMOVALS_HELD, Outcome::Refused, message)
        .object("removal_plan", plan)
        .detail("reason", reason.as_str())
        .detail("accounts_known", absent.known)
        .detail("accounts_gone", absent.newly + absent.confirmed)
        .detail("sync_run", scope.run);
    audit::record(tx, &event).await?;
    Ok(())
}

/// What a person wants of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Apply,
    Drop,
}

/// Who decided, and why.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub tenant: TenantId,
    pub plan: RemovalPlanId,
    pub actor_id: String,
    pub actor_name: String,
    pub reason: String,
}

/// Why a decision is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the directory answered with no accounts at all, which is never a deletion; check that the application may still \
         read them, or delete the integration if the directory is gone"
    )]
    Empty,
    #[error("a newer full sync has looked again; decide about its plan, if it holds one")]
    Superseded,
    #[error("the integration was deleted, and what it held with it")]
    IntegrationGone,
    #[error("the plan was dropped; another full sync holds a new one if the accounts are still missing")]
    Dropped,
    #[error("the plan was applied; accounts that the directory shows again come back with the next sync")]
    Applied,
}

impl Refusal {
    /// The stable reason for callers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY_ANSWER",
            Self::Superseded | Self::IntegrationGone => "PLAN_SUPERSEDED",
            Self::Dropped => "PLAN_DROPPED",
            Self::Applied => "PLAN_APPLIED",
        }
    }
}

/// Why a decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecideError {
    #[error("the tenant has no such plan")]
    Unknown,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

// Whether there is something left to do: nothing, when it was decided so before.
//
// INVARIANT (I6): a plan made of an empty answer is never applied.
fn judge(plan: &Plan, integration_there: bool, wish: Wish) -> Result<bool, Refusal> {
    match (plan.state, wish) {
        (State::Applied, Wish::Apply) | (State::Dropped, Wish::Drop) => Ok(false),
        (State::Applied, Wish::Drop) => Err(Refusal::Applied),
        (State::Dropped, Wish::Apply) => Err(Refusal::Dropped),
        (State::Superseded, _) if plan.superseded_by.is_some() => Err(Refusal::Superseded),
        (State::Superseded, _) => Err(Refusal::IntegrationGone),
        (State::Held, _) if !integration_there => Err(Refusal::IntegrationGone),
        (State::Held, Wish::Apply) if plan.reason == HoldReason::Empty => Err(Refusal::Empty),
        (State::Held, _) => Ok(true),
    }
}

/// Carries out what a person decided about a plan, in one transaction. Repeating it changes nothing.
pub(crate) async fn decide(db: &Db, decision: &Decision, wish: Wish) -> Result<(), DecideError> {
    let Decision { tenant, plan: id, actor_id, actor_name, reason } = decision;
    let tenant = *tenant;
    let mut tx = db.tenant(tenant).await?;
    // Pages and ends of runs of the tenant wait for this lock: what was seen again is known, nothing is seen meanwhile.
    store_accounts::lock_usage(&mut tx, tenant).await?;
    let plan = store::lock(&mut tx, tenant, *id).await?.ok_or(DecideError::Unknown)?;
    let there = integration_store::integration(&mut tx, plan.integration).await?.is_some();
    if !judge(&plan, there, wish)? {
        return Ok(tx.rollback().await?);
    }
    let (mut removed, mut gone) = (0, Gone::default());
    let (state, kind, message) = match wish {
        Wish::Apply => {
            (removed, gone) = remove(&mut tx, tenant, &plan).await?;
            (State::Applied, names::REMOVALS_APPLIED, "held removals were applied")
        }
        Wish::Drop => {
            (State::Dropped, names::REMOVALS_DROPPED, "held removals were dropped; nothing was removed")
        }
    };
    let decided = Decided { state, by: actor_id, name: actor_name, reason, removed, gone };
    store::end(&mut tx, tenant, plan.id, &decided).await?;
    let actor = Actor::caller(actor_id, actor_name);
    let event = Event::new(Some(tenant), kind, actor, Outcome::Success, message)
        .integration(plan.integration)
        .cause(plan.cause)
        .object("removal_plan", plan.id)
        .detail("reason", reason)
        .detail("accounts_gone", plan.gone)
        .detail("accounts_came_back", plan.back)
        .detail("accounts", removed)
        .detail("identities", gone.identities)
        .detail("identifiers", gone.identifiers);
    audit::record(&mut tx, &event).await?;
    directories::count(&mut tx, tenant, plan.integration, None).await?;
    Ok(tx.commit().await?)
}

// Removes the accounts of a plan that no page held since, batch by batch.
async fn remove(tx: &mut Tx, tenant: TenantId, plan: &Plan) -> Result<(usize, Gone), StoreError> {
    let (mut removed, mut gone, mut after) = (0, Gone::default(), None);
    loop {
        let batch = store::still_missing(tx, tenant, plan.id, after, BATCH).await?;
        let Some(last) = batch.last() else { return Ok((removed, gone)) };
        after = Some(*last);
        let accounts = store::remove(tx, tenant, plan.id, &batch).await?;
        let Gone { identities, identifiers } = let_go(tx, tenant, plan.cause, &accounts).await?;
        removed += accounts.len();
        gone.identities += identities;
        gone.identifiers += identifiers;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::id::{IntegrationId, SyncRunId};

    use super::*;

    fn plan(state: State, reason: HoldReason, by_a_run: bool) -> Plan {
        Plan {
            id: RemovalPlanId::new(),
            integration: IntegrationId::new(),
            state,
            reason,
            superseded_by: by_a_run.then(SyncRunId::new),
            cause: CauseId::new(),
            gone: 1,
            back: 0,
        }
    }

    #[test]
    fn a_decision_is_carried_out_once_and_never_turned_round() {
        let shrunk = |state| plan(state, HoldReason::Shrunk, true);
        for (state, apply, dropped) in [
            (State::Held, Ok(true), Ok(true)),
            (State::Applied, Ok(false), Err(Refusal::Applied)),
            (State::Dropped, Err(Refusal::Dropped), Ok(false)),
            (State::Superseded, Err(Refusal::Superseded), Err(Refusal::Superseded)),
        ] {
            assert_eq!(judge(&shrunk(state), true, Wish::Apply), apply, "{state:?}");
            assert_eq!(judge(&shrunk(state), true, Wish::Drop), dropped, "{state:?}");
        }
    }

    #[test]
    fn an_empty_answer_may_be_dropped() {
        assert_eq!(judge(&plan(State::Held, HoldReason::Empty, false), true, Wish::Drop), Ok(true));
    }

    #[test]
    fn what_a_deleted_integration_held_is_refused_with_its_own_words() {
        let superseded = plan(State::Superseded, HoldReason::Shrunk, false);
        let held = plan(State::Held, HoldReason::Shrunk, false);
        assert_eq!(judge(&superseded, true, Wish::Apply), Err(Refusal::IntegrationGone));
        assert_eq!(judge(&held, false, Wish::Apply), Err(Refusal::IntegrationGone));
        assert_eq!(Refusal::IntegrationGone.as_str(), "PLAN_SUPERSEDED");
    }

    proptest! {
        #[test]
        fn only_a_held_plan_of_a_shrunk_directory_that_is_there_removes_anything(
            state in prop::sample::select(vec![State::Held, State::Applied, State::Dropped, State::Superseded]),
            empty: bool, by_a_run: bool, there: bool,
        ) {
            let reason = if empty { HoldReason::Empty } else { HoldReason::Shrunk };
            if judge(&plan(state, reason, by_a_run), there, Wish::Apply) == Ok(true) {
                prop_assert!(state == State::Held && !empty && there);
            }
        }
    }
}
