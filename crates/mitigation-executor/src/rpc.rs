//! `ContainmentService`: what only the planner can tell, and what a person decided about what is held, as integration-api
//! passes it on.

use std::{collections::HashSet, str::FromStr};

use shared::{
    db::{Db, StoreError},
    id::{AccountId, TenantId},
    policy::MitigationPolicy,
    provider::Action,
    wire::{
        internal::{
            CancelRequest, CancelResponse, DecideRequest, DecideResponse, PlanRequest, PlanResponse,
            SimulateRequest, SimulateResponse, containment_service_server::ContainmentService,
        },
        v1::{
            MitigationAction, MitigationPlan, PlanCount, PlanOutcome, PlannedAction, SimulatePolicyResponse,
        },
    },
};
use time::{Duration, OffsetDateTime};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

use crate::{
    approvals::{self, Decision, Refused},
    cancellations::{self, Cancellation},
    events::timestamp,
    foresight::{self, Foresight},
    plan,
    planner::{Wanted, World},
    preview::{Item, Outcome, Preview},
    simulate::{self, FEED_DAYS, History},
    store_history, store_requests,
};

const DOMAIN: &str = "parapet";
/// Most accounts in a plan.
const MOST_ACCOUNTS: usize = 100_000;
/// Most verdicts in a simulation.
const MOST_VERDICTS: usize = 100_000;
/// Most planned actions in an answer: as many as its caller may be sent.
const MOST_ITEMS: usize = 10_000;
/// Most days in a simulation.
const MOST_DAYS: i32 = 90;

/// The service.
#[derive(Debug)]
pub struct Rpc {
    /// Asked as `parapet_mitigation`.
    pub db: Db,
}

#[tonic::async_trait]
impl ContainmentService for Rpc {
    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let PlanRequest { tenant_id, account_ids, actions, max_items } = request.into_inner();
        let tenant = id::<TenantId>(&tenant_id, "tenant_id")?;
        if account_ids.len() > MOST_ACCOUNTS {
            return Err(Status::invalid_argument("account_ids: name at most 100000 accounts"));
        }
        let accounts = ids::<Uuid>(&account_ids, "account_ids")?;
        let actions = actions.into_iter().map(action).collect::<Result<HashSet<_>, _>>()?;

        let mut tx = self.db.tenant(tenant).await?;
        store_history::only_read(&mut tx).await?;
        let now = tx.clock().await?;
        let world = World::read(&mut tx, tenant).await?;
        let protected = &world.policy.policy.protected;
        let targets = store_requests::targets(&mut tx, &accounts, &[], protected).await?;
        let foresight = foresight::read(&mut tx, protected, targets.iter()).await?;
        tx.rollback().await?;

        let order = world.policy.policy.order.iter().filter(|action| actions.contains(action));
        let mut preview = Preview::new(most(max_items));
        for target in &targets {
            for &action in order.clone() {
                let admission = world.admit(target, action, Wanted::ByHand(targets.len()), None);
                let outcome = Outcome::foreseen(admission, target, action);
                preview.add(Item { target, action, outcome, follows: None });
            }
        }
        let known_since = targets.iter().filter_map(|target| target.seen_at).min();
        let plan = told(&preview, now, known_since, world.policy.version, targets.len(), foresight);
        Ok(Response::new(PlanResponse { plan: Some(plan) }))
    }

    async fn simulate(
        &self,
        request: Request<SimulateRequest>,
    ) -> Result<Response<SimulateResponse>, Status> {
        let SimulateRequest { tenant_id, policy_json, days, max_items } = request.into_inner();
        let tenant = id::<TenantId>(&tenant_id, "tenant_id")?;
        if !(1..=MOST_DAYS).contains(&days) {
            return Err(Status::invalid_argument("days: must be 1 to 90"));
        }
        let other = if policy_json.is_empty() { None } else { Some(policy(&policy_json)?) };

        let mut tx = self.db.tenant(tenant).await?;
        store_history::only_read(&mut tx).await?;
        let now = tx.clock().await?;
        let since = now - Duration::days(days.into());
        let world = World::read(&mut tx, tenant).await?;
        let version = if other.is_some() { 0 } else { world.policy.version };
        let world = match other {
            Some(policy) => world.under(policy),
            None => world,
        };
        let most_verdicts = i64::try_from(MOST_VERDICTS).unwrap_or(i64::MAX);
        let mut proofs = store_history::proofs(&mut tx, since, most_verdicts + 1).await?;
        if let Some((_, beyond)) = proofs.get(MOST_VERDICTS) {
            return Err(too_many(now - beyond.at));
        }
        proofs.reverse();
        let accounts: HashSet<AccountId> = proofs.iter().map(|(account, _)| *account).collect();
        let feeds: HashSet<&String> = proofs.iter().map(|(_, proof)| &proof.feed).collect();
        let feeds: Vec<String> = feeds.into_iter().cloned().collect();
        let ids: Vec<Uuid> = accounts.iter().map(|account| account.uuid()).collect();
        let protected = &world.policy.policy.protected;
        let targets = store_requests::targets(&mut tx, &ids, &[], protected).await?;
        let foresight = foresight::read(&mut tx, protected, targets.iter()).await?;
        let history = History {
            targets: targets.into_iter().map(|target| (target.account, target)).collect(),
            feeds: store_history::feeds(&mut tx, &feeds, since - Duration::days(FEED_DAYS)).await?,
            accounts: store_history::accounts(&mut tx).await?,
            proofs,
        };
        let carried_out = store_history::carried_out(&mut tx, since).await?;
        tx.rollback().await?;

        let preview = simulate::replay(&world, &history, most(max_items));
        let known_since = history.targets.values().filter_map(|target| target.seen_at).min();
        let plan = told(&preview, now, known_since, version, history.targets.len(), foresight);
        let verdicts = number(history.proofs.len());
        let simulation = SimulatePolicyResponse { plan: Some(plan), verdicts, carried_out };
        Ok(Response::new(SimulateResponse { simulation: Some(simulation) }))
    }

    async fn decide(&self, request: Request<DecideRequest>) -> Result<Response<DecideResponse>, Status> {
        let (db, decision) = (self.db.clone(), decision(request.into_inner())?);
        // In a task of its own: many mitigations may take longer than their caller waits, who then asks again.
        let done = tokio::spawn(async move { approvals::decide(&db, &decision).await }).await;
        match done {
            Ok(Ok(())) => Ok(Response::new(DecideResponse {})),
            Ok(Err(refused)) => Err(status(refused)),
            Err(error) => {
                tracing::error!(%error, "a decision about held mitigations was not carried out");
                Err(Status::internal("internal error"))
            }
        }
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let (db, cancellation) = (self.db.clone(), cancellation(request.into_inner())?);
        // In a task of its own, as a decision is.
        match tokio::spawn(async move { cancellations::cancel(&db, &cancellation).await }).await {
            Ok(Ok(Some(dropped))) => Ok(Response::new(CancelResponse { dropped })),
            Ok(Ok(None)) => Err(Status::not_found("there is no such request")),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "a request was not cancelled");
                Err(Status::internal("internal error"))
            }
        }
    }
}

fn id<T: FromStr>(text: &str, field: &str) -> Result<T, Status> {
    text.parse().map_err(|_| Status::invalid_argument(format!("{field}: must be a UUID")))
}

fn ids<T: FromStr>(texts: &[String], field: &str) -> Result<Vec<T>, Status> {
    texts.iter().map(|text| id(text, field)).collect()
}

fn most(items: i32) -> usize {
    usize::try_from(items).unwrap_or_default().min(MOST_ITEMS)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn action(value: i32) -> Result<Action, Status> {
    match MitigationAction::try_from(value) {
        Ok(MitigationAction::RevokeSessions) => Ok(Action::RevokeSessions),
        Ok(MitigationAction::DisableAccount) => Ok(Action::DisableAccount),
        Ok(MitigationAction::MarkCompromised) => Ok(Action::MarkCompromised),
        Ok(MitigationAction::Unspecified) | Err(_) => {
            Err(Status::invalid_argument("actions: name known actions"))
        }
    }
}

fn wire(action: Action) -> i32 {
    let action = match action {
        Action::RevokeSessions => MitigationAction::RevokeSessions,
        Action::DisableAccount => MitigationAction::DisableAccount,
        Action::MarkCompromised => MitigationAction::MarkCompromised,
    };
    action.into()
}

fn policy(json: &str) -> Result<MitigationPolicy, Status> {
    let policy: MitigationPolicy = serde_json::from_str(json)
        .map_err(|error| Status::invalid_argument(format!("policy_json: {error}")))?;
    match policy.faults().first() {
        None => Ok(policy),
        Some((field, fault)) => Err(Status::invalid_argument(format!("policy_json.{field}: {fault}"))),
    }
}

/// There are too many verdicts to replay: the newest that fit are this young.
fn too_many(age: Duration) -> Status {
    let help = match age.whole_days() {
        0 => "even within one day".to_owned(),
        days => format!("ask for at most {days}"),
    };
    Status::invalid_argument(format!("days: a simulation replays at most 100000 valid verdicts, {help}"))
}

fn decision(request: DecideRequest) -> Result<Decision, Status> {
    let DecideRequest { tenant_id, approval_id, approve, mitigation_ids, actor_id, actor_name, reason } =
        request;
    if actor_id.is_empty() || reason.is_empty() {
        return Err(Status::invalid_argument("actor_id or reason is missing"));
    }
    Ok(Decision {
        tenant: id(&tenant_id, "tenant_id")?,
        approval: id(&approval_id, "approval_id")?,
        approve,
        only: ids(&mitigation_ids, "mitigation_ids")?,
        actor: (actor_id, actor_name),
        reason,
    })
}

fn cancellation(request: CancelRequest) -> Result<Cancellation, Status> {
    let CancelRequest { tenant_id, request_id, actor_id, actor_name, reason } = request;
    if actor_id.is_empty() || reason.is_empty() {
        return Err(Status::invalid_argument("actor_id or reason is missing"));
    }
    Ok(Cancellation {
        tenant: id(&tenant_id, "tenant_id")?,
        request: id(&request_id, "request_id")?,
        actor: (actor_id, actor_name),
        reason,
    })
}

fn status(refused: Refused) -> Status {
    let (code, reason) = match refused {
        Refused::NotFound => return Status::not_found(refused.to_string()),
        Refused::Store(error) => return StoreError::into(error),
        Refused::SamePerson => (Code::PermissionDenied, "SAME_PERSON"),
        Refused::Rejected => (Code::FailedPrecondition, "REJECTED"),
        Refused::Approved => (Code::FailedPrecondition, "APPROVED"),
        Refused::Expired => (Code::FailedPrecondition, "EXPIRED"),
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, []);
    Status::with_error_details(code, refused.to_string(), details)
}

fn told(
    preview: &Preview<'_>,
    made_at: OffsetDateTime,
    known_since: Option<OffsetDateTime>,
    policy_version: i32,
    accounts: usize,
    foresight: Foresight,
) -> MitigationPlan {
    let counts = preview.counts().map(|(action, outcome, count)| {
        let (outcome, reason, sentence) = outcome_of(outcome);
        PlanCount { action: wire(action), outcome, reason, sentence, count }
    });
    MitigationPlan {
        made_at: Some(timestamp(made_at)),
        known_since: known_since.map(timestamp),
        policy_version,
        accounts: number(accounts),
        counts: counts.collect(),
        items: preview.items().map(planned).collect(),
        truncated: preview.truncated(),
        memberships_known_since: foresight.known_since.map(timestamp),
        unforeseen: foresight.unforeseen,
        warnings: foresight.unknown,
    }
}

fn planned(item: &Item<'_>) -> PlannedAction {
    let Item { target, action, outcome, follows } = *item;
    let (outcome, reason, sentence) = outcome_of(outcome);
    PlannedAction {
        account_id: target.account.to_string(),
        login: target.login.clone(),
        integration_id: target.integration.to_string(),
        action: wire(action),
        outcome,
        reason,
        sentence,
        is_admin: target.is_admin,
        undoable: plan::inverse(action).is_some(),
        known_since: target.seen_at.map(timestamp),
        exposure_id: follows.map(|(exposure, _)| exposure.to_string()).unwrap_or_default(),
        verdict_at: follows.map(|(_, at)| timestamp(at)),
    }
}

fn outcome_of(outcome: Outcome) -> (i32, String, String) {
    let name = match outcome {
        Outcome::Refused(_) => PlanOutcome::Refused,
        Outcome::Held(_) => PlanOutcome::Held,
        Outcome::Run => PlanOutcome::Run,
        Outcome::Already => PlanOutcome::Already,
    };
    let (reason, sentence) = outcome.why().unwrap_or_default();
    (name.into(), reason.to_owned(), sentence.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_verdicts_name_a_shorter_time() {
        assert!(too_many(Duration::hours(80)).message().ends_with("ask for at most 3"));
        assert!(too_many(Duration::hours(8)).message().ends_with("even within one day"));
    }

    #[test]
    fn the_largest_selection_fits_into_a_message() {
        let request = PlanRequest {
            tenant_id: Uuid::nil().to_string(),
            account_ids: vec![Uuid::nil().to_string(); MOST_ACCOUNTS],
            actions: vec![1, 2, 3],
            max_items: 10_000,
        };
        assert!(prost::Message::encoded_len(&request) < 4 * 1024 * 1024, "what tonic takes by default");
    }

    #[test]
    fn a_simulated_policy_is_one_that_could_be_saved() {
        assert_eq!(policy("{}").unwrap(), MitigationPolicy::default());
        let refused = policy(r#"{"approval": {"more_than_accounts": 0}}"#).unwrap_err();
        assert_eq!(refused.message(), "policy_json.approval.more_than_accounts: must be 1 to 100000");
        assert!(policy(r#"{"verdicts": ["invalid"]}"#).is_err());
    }
}
