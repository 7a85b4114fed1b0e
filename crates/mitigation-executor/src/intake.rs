//! `mitigation.requested`: turns a person's request or a valid verdict into planned, held and refused mitigations, and
//! lets a second person release held ones.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use async_trait::async_trait;
use shared::{
    audit::{self, Actor, Event, Outcome as Audited},
    db::{Db, StoreError, Tx},
    id::{
        AccountId, CauseId, ExposureId, IntegrationId, MitigationId, MitigationRequestId, TenantId, WorkId,
    },
    integration_store::{self, Integration, Status},
    provider::Action,
    queue::{Delivery, Handler, HandlerError, Outcome},
    wire::events::MitigationRequested,
    work::{self, NewWork},
};
use time::OffsetDateTime;

use crate::{
    config::Brake,
    events,
    plan::{self, Admission, Facts, Hold},
    state::State,
    store::{self, Mitigation, Request, Target},
    store_brake, undo,
};

/// The kind of the one row of work that every mitigation has until nothing is left to do or to check.
pub const WORK: &str = "mitigation";

/// Handles requests.
pub struct Intake {
    db: Db,
    limits: Brake,
}

/// Where a batch of mitigations comes from.
struct Origin {
    tenant: TenantId,
    request: Option<(MitigationRequestId, Request)>,
    exposure: Option<ExposureId>,
    cause: Option<CauseId>,
}

#[async_trait]
impl Handler for Intake {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let message: MitigationRequested = delivery.decode()?;
        let tenant: TenantId = id(&message.tenant_id)?;
        let cause = optional(&message.cause_id)?;
        let mut tx = self.db.tenant(tenant).await?;
        if !delivery.done(&mut tx).await? {
            tx.rollback().await?;
            return Ok(Outcome::Done);
        }
        match (optional(&message.request_id)?, optional(&message.exposure_id)?) {
            (Some(request), None) => self.requested(&mut tx, tenant, request, cause).await?,
            (None, Some(exposure)) => self.proven(&mut tx, tenant, exposure, cause).await?,
            _ => return Err(HandlerError::Poison("names neither a request nor an exposure, or both".into())),
        }
        tx.commit().await?;
        Ok(Outcome::Done)
    }
}

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> Result<T, HandlerError> {
    text.parse().map_err(|_| HandlerError::Poison("an id of the message is malformed".into()))
}

fn optional<T: std::str::FromStr>(text: &str) -> Result<Option<T>, HandlerError> {
    if text.is_empty() { Ok(None) } else { id(text).map(Some) }
}

impl Intake {
    /// A handler with the limits of the brake.
    pub fn new(db: Db, limits: Brake) -> Self {
        Self { db, limits }
    }

    async fn requested(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        id: MitigationRequestId,
        cause: Option<CauseId>,
    ) -> Result<(), StoreError> {
        let Some(request) = store::request(tx, id).await? else {
            tracing::warn!(request.id = %id, "a request that is not there");
            return Ok(());
        };
        if let Some(undo) = &request.undo {
            return undo::plan(tx, tenant, id, &request, undo, cause).await;
        }
        let targets = store::targets(tx, &request.accounts, &request.exposures).await?;
        if request.release {
            return release(tx, tenant, &request, &targets).await;
        }
        let actions = request.actions.clone();
        let origin = Origin { tenant, request: Some((id, request)), exposure: None, cause };
        self.plan(tx, &origin, &targets, |_| actions.clone()).await
    }

    async fn proven(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        exposure: ExposureId,
        cause: Option<CauseId>,
    ) -> Result<(), StoreError> {
        // INVARIANT: nothing is mitigated automatically without a valid verdict, read here and now (design §11).
        let verdict = store::verdict(tx, exposure).await?.flatten();
        if !matches!(verdict.as_deref(), Some("valid" | "valid_second_factor" | "valid_expired")) {
            tracing::info!(exposure.id = %exposure, "no valid verdict, nothing to mitigate");
            return Ok(());
        }
        let targets = store::targets(tx, &[], &[exposure.uuid()]).await?;
        store_brake::lock_brake(tx, tenant).await?;
        let origin = Origin { tenant, request: None, exposure: Some(exposure), cause };
        self.plan(tx, &origin, &targets, |i| i.settings.mitigation.automated().collect()).await
    }

    async fn plan(
        &self,
        tx: &mut Tx,
        origin: &Origin,
        targets: &[Target],
        actions: impl Fn(&Integration) -> Vec<Action>,
    ) -> Result<(), StoreError> {
        let entitled = integration_store::package(tx, origin.tenant).await?.is_some_and(|p| p.mitigation);
        let mut integrations: HashMap<IntegrationId, Option<Integration>> = HashMap::new();
        let (mut added, mut events) = (Vec::new(), Vec::new());
        for target in targets {
            let integration = match integrations.entry(target.integration) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    unknown.insert(integration_store::integration(tx, target.integration).await?)
                }
            };
            let Some(integration) = integration else { continue };
            let brake =
                if origin.exposure.is_some() { self.brake(tx, target, integration).await? } else { None };
            for action in actions(integration) {
                let facts = Facts {
                    entitled,
                    integration_usable: integration.status != Status::Disabled,
                    switch: integration.settings.mitigation.switch(action),
                    automatic: origin.exposure.is_some(),
                    account_present: target.present,
                    is_admin: target.is_admin,
                    hybrid: target.hybrid,
                };
                let admission = plan::admit(action, &facts, brake);
                let mitigation = mitigation(origin, target, action, admission);
                if let State::Held { by } = mitigation.state
                    && !store_brake::holds(tx, by).await?
                {
                    events.push(events::alert(&mitigation, "alert.mitigation_held", by.sentence()));
                }
                if store::add(tx, &mitigation).await? {
                    events.push(planned(&mitigation));
                    added.push(mitigation);
                }
            }
        }
        let work: Vec<NewWork> =
            added.iter().filter(|m| matches!(m.state, State::Planned { .. })).map(work_of).collect();
        work::schedule_many(tx, &work).await?;
        audit::record_many(tx, &events).await?;
        for m in &added {
            metrics::counter!("parapet_mitigations_planned_total", "action" => m.action.as_str(), "state" => m.state.name())
                .increment(1);
        }
        Ok(())
    }

    async fn brake(
        &self,
        tx: &mut Tx,
        target: &Target,
        integration: &Integration,
    ) -> Result<Option<Hold>, StoreError> {
        let activity = store_brake::activity(tx, target.account, integration.id, integration.version).await?;
        Ok(plan::brake(&self.limits, &activity))
    }
}

fn mitigation(origin: &Origin, target: &Target, action: Action, admission: Admission) -> Mitigation {
    let mut details = BTreeMap::new();
    if let Some((_, request)) = &origin.request {
        details.insert("request_reason".to_owned(), request.reason.clone());
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
    Mitigation {
        tenant: origin.tenant,
        id: MitigationId::new(),
        exposure: origin.exposure,
        request: origin.request.as_ref().map(|(id, _)| *id),
        account: target.account,
        integration: target.integration,
        provider: target.provider,
        directory: target.directory.clone(),
        object_id: target.object_id.clone(),
        login: target.login.clone(),
        is_admin: target.is_admin,
        action,
        state,
        automatic: origin.exposure.is_some(),
        requested_by: origin
            .request
            .as_ref()
            .map(|(_, r)| (r.requested_by.clone(), r.requester_name.clone())),
        released_by: None,
        cause: origin.cause,
        undoes: None,
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

fn planned(m: &Mitigation) -> Event {
    match m.state {
        State::Held { by } => {
            events::about(m, "mitigation.held", Audited::Info, by.sentence()).detail("held_by", by.as_str())
        }
        State::Refused { reason } => {
            events::about(m, "mitigation.refused", Audited::Refused, reason.sentence())
                .detail("reason", reason.as_str())
        }
        _ => events::about(m, "mitigation.planned", Audited::Info, "the action is planned"),
    }
}

pub(crate) fn work_of(m: &Mitigation) -> NewWork {
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

/// Lets held mitigations run, each only if somebody else asked for it.
async fn release(
    tx: &mut Tx,
    tenant: TenantId,
    request: &Request,
    targets: &[Target],
) -> Result<(), StoreError> {
    let accounts: Vec<AccountId> = targets.iter().map(|t| t.account).collect();
    let releaser = Actor::Person { id: request.requested_by.clone(), name: request.requester_name.clone() };
    let (mut work, mut events, mut arming) = (Vec::new(), Vec::new(), HashSet::new());
    for mut m in store::held(tx, &accounts, &request.actions).await? {
        let mut event = if m.requested_by.as_ref().is_some_and(|(id, _)| *id == request.requested_by) {
            // INVARIANT: nobody releases what they asked for.
            events::about(
                &m,
                "mitigation.released",
                Audited::Refused,
                "whoever asked for a mitigation cannot release it",
            )
            .detail("reason", "same_person")
        } else {
            m.state = m.state.release().map_err(|e| StoreError::Corrupt(e.to_string()))?;
            m.released_by = Some(request.requested_by.clone());
            store::save(tx, &mut m).await?;
            work.push(work_of(&m));
            if m.automatic {
                arming.insert(m.integration);
            }
            events::about(
                &m,
                "mitigation.released",
                Audited::Success,
                "a second person lets the mitigation run",
            )
        };
        event.actor = releaser.clone();
        events.push(event.detail("release_reason", &request.reason));
    }
    for integration in arming {
        if let Some(read) = integration_store::integration(tx, integration).await? {
            store_brake::arm(tx, tenant, integration, read.version, &request.requested_by).await?;
        }
    }
    work::schedule_many(tx, &work).await?;
    audit::record_many(tx, &events).await
}
