//! The one planner: what a verdict, a person's request, a preview or a simulation would do to an account is decided here,
//! from what was read of the account last. Carrying it out asks the same [`plan::admit`] again, with the account as it is.

use std::collections::{BTreeMap, HashMap};

use shared::{
    audit::{self, Event, Outcome as Audited, names},
    db::{StoreError, Tx},
    id::{AccountId, CauseId, IntegrationId, MitigationId, MitigationRequestId, TenantId, WorkId},
    integration::ActionSwitch,
    integration_store::{self, Integration, Status},
    policy::{self, MitigationPolicy},
    provider::Action,
    work::{self, NewWork},
};
use time::{Duration, OffsetDateTime};

use crate::{
    approvals, cancellations, events,
    plan::{self, Admission, Facts, Hold, Protection, Refusal},
    state::State,
    store::{self, Mitigation},
    store_brake,
    store_requests::{Proof, Request, Target},
};

/// The kind of the one row of work that every mitigation has until nothing is left to do or to check.
pub const WORK: &str = "mitigation";
/// How long an action waits at most for those before it: they may be stuck.
const TURN: Duration = Duration::seconds(30);

/// What holds for every account of a plan.
#[derive(Debug)]
pub struct World {
    /// Mitigation is in the tenant's package.
    pub entitled: bool,
    /// The policy.
    pub policy: policy::Current,
    integrations: HashMap<IntegrationId, Integration>,
}

/// Who wants an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A verdict led to it.
    Automatically,
    /// A person asks, about so many accounts at once.
    ByHand(usize),
}

impl World {
    /// Reads it, for the transaction's tenant.
    pub async fn read(tx: &mut Tx, tenant: TenantId) -> Result<Self, StoreError> {
        Ok(Self {
            entitled: integration_store::package(tx, tenant).await?.is_some_and(|p| p.mitigation),
            policy: policy::current(tx).await?,
            integrations: integration_store::integrations(tx).await?.into_iter().map(|i| (i.id, i)).collect(),
        })
    }

    /// The same under another policy.
    #[must_use]
    pub fn under(self, policy: MitigationPolicy) -> Self {
        Self { policy: policy::Current { policy, ..self.policy }, ..self }
    }

    /// An integration of the tenant.
    pub fn integration(&self, id: IntegrationId) -> Option<&Integration> {
        self.integrations.get(&id)
    }

    /// The actions that follow a verdict by themselves at an integration, in the policy's order.
    pub fn automated(&self, integration: IntegrationId) -> Vec<Action> {
        let order = self.policy.policy.order.iter().copied();
        self.integration(integration).map_or(Vec::new(), |i| {
            order.filter(|action| i.settings.mitigation.switch(*action).automated).collect()
        })
    }

    /// Decides about an action on an account as it was read last. `brake`: what stops automated mitigations of it.
    pub fn admit(&self, target: &Target, action: Action, wanted: Wanted, brake: Option<Hold>) -> Admission {
        let integration = self.integration(target.integration);
        let policy = &self.policy.policy;
        let facts = Facts {
            entitled: self.entitled,
            integration_usable: integration.is_some_and(|i| i.status != Status::Disabled),
            switch: integration.map_or(ActionSwitch::default(), |i| i.settings.mitigation.switch(action)),
            automatic: wanted == Wanted::Automatically,
            account_present: target.present,
            ad_mastered: target.hybrid && !policy.disable_ad_mastered,
            protection: protection(policy, target.account, target.is_admin)
                .or(target.protected_by.is_some().then_some(Protection::Policy)),
            many: matches!(wanted, Wanted::ByHand(accounts) if accounts > policy.approval.more_than_accounts as usize),
            released: false,
        };
        plan::admit(action, &facts, brake)
    }
}

/// What the policy protects an account as, by what is stored of it.
pub fn protection(policy: &MitigationPolicy, account: AccountId, is_admin: bool) -> Option<Protection> {
    match policy.protected.accounts.get(&account) {
        Some(named) if named.break_glass => Some(Protection::BreakGlass),
        Some(_) => Some(Protection::Policy),
        None => (is_admin && policy.protected.administrators).then_some(Protection::Administrator),
    }
}

/// Where mitigations come from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Whose.
    pub tenant: TenantId,
    /// From a person, or from a verdict.
    pub from: From,
    /// What led here.
    pub cause: Option<CauseId>,
}

/// What wants mitigations.
#[derive(Clone, Debug)]
pub enum From {
    /// A person's request.
    Request(MitigationRequestId, Request),
    /// A verdict.
    Verdict(Proof),
}

impl From {
    fn wanted(&self) -> Wanted {
        match self {
            Self::Request(_, request) => {
                let listed = request.accounts.len() + request.exposures.len();
                Wanted::ByHand(request.about.max(listed))
            }
            Self::Verdict(_) => Wanted::Automatically,
        }
    }
}

/// Plans, holds or refuses what an origin wants done to these accounts, and has what may run carried out.
pub async fn plan(tx: &mut Tx, world: &World, origin: &Origin, targets: &[Target]) -> Result<(), StoreError> {
    let mut planned = Vec::new();
    let cancelled = match &origin.from {
        From::Request(id, _) => cancellations::stands(tx, *id).await?,
        From::Verdict(_) => false,
    };
    for target in targets {
        let brake = match &origin.from {
            From::Verdict(proof) => brake(tx, world, target, proof).await?,
            From::Request(..) => None,
        };
        for action in actions(world, &origin.from, target) {
            let admission = if cancelled {
                Admission::Refuse(Refusal::Cancelled)
            } else {
                world.admit(target, action, origin.from.wanted(), brake)
            };
            planned.push(mitigation(world, origin, target, action, admission));
        }
    }
    let planned = add(tx, &world.policy, origin.tenant, planned).await?;
    let mut told: Vec<_> = planned.iter().map(event).collect();
    told.extend(planned.iter().filter_map(|m| match m.state {
        State::Refused { reason: by @ Refusal::BreakGlass } => {
            Some(events::alert(m, names::ALERT_MITIGATION_REFUSED, by.sentence()))
        }
        _ => None,
    }));
    audit::record_many(tx, &told).await?;
    for m in &planned {
        metrics::counter!("parapet_mitigations_planned_total", "action" => m.action.as_str(), "state" => m.state.name())
            .increment(1);
    }
    Ok(())
}

fn actions(world: &World, from: &From, target: &Target) -> Vec<Action> {
    match from {
        From::Verdict(_) => world.automated(target.integration),
        From::Request(_, request) => {
            let mut actions = request.actions.clone();
            actions.sort_by_key(|action| world.policy.policy.place(*action));
            actions
        }
    }
}

async fn brake(
    tx: &mut Tx,
    world: &World,
    target: &Target,
    proof: &Proof,
) -> Result<Option<Hold>, StoreError> {
    let Some(integration) = world.integration(target.integration) else { return Ok(None) };
    let mut activity = store_brake::activity(tx, target, integration, &world.policy).await?;
    activity.feed = store_brake::feed(tx, &proof.feed, &world.policy).await?;
    Ok(plan::brake(&world.policy.policy, &activity))
}

/// Adds what was planned, has it carried out or held, and returns what is new: the rest was planned before.
pub async fn add(
    tx: &mut Tx,
    policy: &policy::Current,
    tenant: TenantId,
    mut planned: Vec<Mitigation>,
) -> Result<Vec<Mitigation>, StoreError> {
    let added = store::add(tx, tenant, &planned).await?;
    planned.retain(|m| added.contains(&m.id));
    approvals::hold(tx, policy, &mut planned).await?;
    start(tx, &planned).await?;
    Ok(planned)
}

fn mitigation(
    world: &World,
    origin: &Origin,
    target: &Target,
    action: Action,
    admission: Admission,
) -> Mitigation {
    let mut details = BTreeMap::new();
    if let From::Request(_, request) = &origin.from {
        details.insert("request_reason".to_owned(), request.reason.clone());
    }
    if target.hybrid && action == Action::DisableAccount && world.policy.policy.disable_ad_mastered {
        details.insert("warning".to_owned(), WRITEBACK.to_owned());
    }
    let state = match admission {
        Admission::Go => State::Planned { waits: None },
        Admission::Hold(by) => {
            details.insert("held".to_owned(), by.sentence().to_owned());
            State::Held { by }
        }
        Admission::Refuse(reason) => {
            details.insert("refused".to_owned(), reason.sentence().to_owned());
            State::Refused { reason }
        }
    };
    let (request, exposure, requested_by, password_epoch) = match &origin.from {
        From::Request(id, request) => {
            let by = (request.requested_by.clone(), request.requester_name.clone());
            (Some(*id), None, Some(by), String::new())
        }
        From::Verdict(proof) => {
            let epoch = target.password_changed_at.map(|at| at.unix_timestamp().to_string());
            (None, Some(proof.exposure), None, epoch.unwrap_or_default())
        }
    };
    Mitigation {
        tenant: origin.tenant,
        id: MitigationId::new(),
        exposure,
        request,
        account: target.account,
        integration: target.integration,
        provider: target.provider,
        directory: target.directory.clone(),
        object_id: target.object_id.clone(),
        login: target.login.clone(),
        is_admin: target.is_admin,
        action,
        state,
        automatic: exposure.is_some(),
        requested_by,
        released_by: None,
        cause: origin.cause,
        undoes: None,
        approval: None,
        place: world.policy.policy.place(action),
        password_epoch,
        policy_version: world.policy.version,
        attempt: 0,
        checks: 0,
        details,
        created_at: OffsetDateTime::UNIX_EPOCH, // the database's clock writes it
        finished_at: None,
        verified_at: None,
        reverted_at: None,
        revision: 0,
    }
}

const WRITEBACK: &str =
    "the account is mastered in Active Directory: its next sync may enable it again, which is looked for";

/// What is told of a mitigation that was just planned.
pub(crate) fn event(m: &Mitigation) -> Event {
    match m.state {
        State::Held { by } => events::about(m, names::MITIGATION_HELD, Audited::Info, by.sentence())
            .detail("held_by", by.as_str()),
        State::Refused { reason } => {
            events::about(m, names::MITIGATION_REFUSED, Audited::Refused, reason.sentence())
                .detail("reason", reason.as_str())
        }
        _ if m.undoes.is_some() => {
            events::about(m, names::MITIGATION_PLANNED, Audited::Info, "the undo is planned")
        }
        _ => events::about(m, names::MITIGATION_PLANNED, Audited::Info, "the action is planned"),
    }
}

/// Has planned mitigations carried out. Of an account's, the first in the policy's order is begun now; each further one
/// when the one before had its first try ([`advance`]), or when that is overdue.
pub async fn start(tx: &mut Tx, planned: &[Mitigation]) -> Result<(), StoreError> {
    let now = tx.clock().await?;
    let mut turns: HashMap<_, Vec<&Mitigation>> = HashMap::new();
    for m in planned.iter().filter(|m| matches!(m.state, State::Planned { .. })) {
        turns.entry((m.account, m.exposure, m.request, m.undoes)).or_default().push(m);
    }
    let mut work = Vec::new();
    for turn in turns.values_mut() {
        turn.sort_by_key(|m| m.place);
        let mut due = None;
        for m in turn {
            work.push(NewWork { due_at: due, ..work_of(m) });
            due = Some(due.unwrap_or(now) + TURN);
        }
    }
    work::schedule_many(tx, &work).await
}

/// Lets the account's next action begin: this one had its first try.
pub async fn advance(tx: &mut Tx, m: &Mitigation) -> Result<(), StoreError> {
    match store::next(tx, m).await? {
        Some(next) => work::schedule(tx, &work_of(&next)).await,
        None => Ok(()),
    }
}

fn work_of(m: &Mitigation) -> NewWork {
    NewWork {
        work_id: WorkId::new(),
        tenant: m.tenant,
        directory: m.directory.clone(),
        kind: WORK,
        subject: m.id.uuid(),
        priority: i16::from(m.automatic),
        due_at: None,
    }
}
