//! MitigationService.

use std::collections::BTreeSet;

use shared::{
    audit::{self, Event, Outcome},
    db::{Db, StoreError, Tx},
    id::{AccountId, CauseId, ExposureId, IntegrationId, MitigationId, MitigationRequestId, TenantId},
    outbox::{self, Topic},
    provider::Action,
    wire::{
        events::MitigationRequested,
        v1::{self, mitigation_service_server::MitigationService},
    },
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{convert, id, is_text, mitigation_undo, optional_id};
use crate::{
    auth::{Caller, caller},
    error::{ApiError, Check},
    idempotent,
    page::{self, Scope},
    store::{
        accounts, exposures, integrations,
        mitigations::{self, Filter},
        registry,
    },
};

const MOST_NAMED: usize = 1000;

/// The service.
#[derive(Clone, Debug)]
pub struct Mitigations {
    db: Db,
}

struct Wanted {
    accounts: BTreeSet<AccountId>,
    exposures: BTreeSet<ExposureId>,
    actions: Vec<Action>,
    release: bool,
    reason: String,
}

impl Mitigations {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    async fn request(
        &self,
        caller: &Caller,
        mut request: v1::RequestMitigationRequest,
    ) -> Result<v1::RequestMitigationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let key = std::mem::take(&mut request.idempotency_key);
        let fingerprint = idempotent::fingerprint(&request);
        let wanted = wanted(request)?;
        let work = |tx: Tx| async move {
            let (tx, request) = ask(tx, caller, tenant, wanted).await?;
            Ok((tx, v1::RequestMitigationResponse { request: Some(request) }))
        };
        Ok(idempotent::once(&self.db, tenant, "RequestMitigation", &key, &fingerprint, work).await?.0)
    }

    async fn get(&self, caller: &Caller, of: MitigationId) -> Result<v1::GetMitigationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let row = mitigations::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("mitigation"))?;
        tx.rollback().await?;
        Ok(v1::GetMitigationResponse { mitigation: Some(convert::mitigation(row, true)) })
    }

    async fn list(
        &self,
        caller: &Caller,
        mut request: v1::ListMitigationsRequest,
    ) -> Result<v1::ListMitigationsResponse, ApiError> {
        let tenant = caller.tenant()?;
        let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
        request.page_size = 0;
        let scope = Scope::of("mitigations", &request);
        let after = scope.read::<(OffsetDateTime, Uuid)>(&token)?.map(|(at, id)| (at, MitigationId(id)));
        if request.states.len().max(request.actions.len()) > 100 {
            return Err(ApiError::field("states", "give at most 100 values per field"));
        }
        let actions = request
            .actions
            .into_iter()
            .map(|a| convert::action_in("actions", a).map(Action::as_str))
            .collect::<Result<Vec<_>, _>>()?;
        let one = |field: &str, text: &str| optional_id::<Uuid>(field, text);
        let filter = Filter {
            states: Some(request.states).filter(|s| !s.is_empty()),
            actions: Some(actions).filter(|a| !a.is_empty()),
            accounts: one("account_id", &request.account_id)?.map(|a| vec![a]),
            exposures: one("exposure_id", &request.exposure_id)?.map(|e| vec![e]),
            request: one("request_id", &request.request_id)?,
            integration: one("integration_id", &request.integration_id)?,
            automatic: request.automatic,
            created: convert::range("created", request.created)?,
        };
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = mitigations::list(&mut tx, tenant, &filter, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |m| (m.created_at, m.mitigation_id.uuid()))?;
        let mitigations = rows.into_iter().map(|m| convert::mitigation(m, false)).collect();
        Ok(v1::ListMitigationsResponse { mitigations, next_page_token })
    }
}

fn wanted(request: v1::RequestMitigationRequest) -> Result<Wanted, ApiError> {
    let v1::RequestMitigationRequest {
        account_ids,
        exposure_ids,
        actions,
        release,
        reason,
        idempotency_key: _,
    } = request;
    let mut check = Check::default();
    let named = account_ids.len() + exposure_ids.len();
    check.require((1..=MOST_NAMED).contains(&named), "account_ids", "name 1 to 1000 accounts or exposures");
    check.require(release || !actions.is_empty(), "actions", "name at least one action");
    check.require(is_text(&reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    let mut unique = Vec::new();
    for value in actions {
        let action = convert::action_in("actions", value)?;
        if !unique.contains(&action) {
            unique.push(action);
        }
    }
    Ok(Wanted {
        accounts: account_ids.iter().map(|t| id("account_ids", t)).collect::<Result<_, _>>()?,
        exposures: exposure_ids.iter().map(|t| id("exposure_ids", t)).collect::<Result<_, _>>()?,
        actions: unique,
        release,
        reason: reason.trim().to_owned(),
    })
}

/// Stores a request with its event and message.
async fn ask(
    mut tx: Tx,
    caller: &Caller,
    tenant: TenantId,
    wanted: Wanted,
) -> Result<(Tx, v1::MitigationRequest), ApiError> {
    let package = registry::package(&mut tx, tenant).await?;
    if !package.mitigation {
        return Err(ApiError::NotEntitled { entitlement: "mitigation".into(), contact: package.contact });
    }
    let exposure_ids: Vec<_> = wanted.exposures.iter().copied().collect();
    let known = exposures::by_ids(&mut tx, tenant, &exposure_ids).await?;
    if known.len() != exposure_ids.len() {
        return Err(ApiError::NotFound("exposure in the request"));
    }
    let meant: BTreeSet<_> =
        wanted.accounts.iter().copied().chain(known.iter().map(|e| e.account_id)).collect();
    let meant: Vec<_> = meant.into_iter().collect();
    let found = accounts::by_ids(&mut tx, tenant, &meant).await?;
    if found.len() != meant.len() {
        return Err(ApiError::NotFound("account in the request"));
    }
    let actions: Vec<_> = wanted.actions.iter().map(|a| a.as_str()).collect();
    if wanted.release {
        // INVARIANT (I7): nobody releases what they asked for themselves; the executor checks it again.
        let held = mitigations::held_requesters(&mut tx, tenant, &meant, &actions).await?;
        if held.is_empty() {
            return Err(ApiError::Precondition {
                reason: "NOTHING_HELD",
                message: "nothing is held on these accounts".into(),
            });
        }
        if held.iter().flatten().any(|asked| *asked == caller.claims.subject) {
            return Err(ApiError::Denied {
                reason: "SAME_PERSON",
                message: "a held mitigation is released by a second person, not by the one who asked for it"
                    .into(),
            });
        }
    } else {
        let of: BTreeSet<_> = found.iter().map(|a| a.integration_id).collect();
        switched_on(&mut tx, tenant, &of, &wanted.actions).await?;
    }
    let row = mitigations::Request {
        id: MitigationRequestId::new(),
        requested_by: caller.claims.subject.clone(),
        requester_name: caller.claims.name.clone(),
        actions,
        accounts: wanted.accounts.into_iter().collect(),
        exposures: exposure_ids,
        release: wanted.release,
        reason: wanted.reason,
    };
    let created_at = mitigations::insert(&mut tx, tenant, &row).await?;
    let cause = CauseId(row.id.uuid());
    let (kind, message) = if row.release {
        ("mitigation.release_requested", "release of held mitigations requested")
    } else {
        ("mitigation.requested", "mitigation requested")
    };
    let event = Event::new(Some(tenant), kind, caller.actor(), Outcome::Success, message)
        .cause(cause)
        .object("mitigation_request", row.id)
        .detail("accounts", meant.len())
        .detail("actions", row.actions.join(","))
        .detail("reason", &row.reason);
    audit::record(&mut tx, &event).await?;
    hand_on(&mut tx, tenant, row.id).await?;
    let shown = v1::MitigationRequest {
        id: row.id.to_string(),
        requested_by: row.requested_by,
        requester_name: row.requester_name,
        account_ids: meant.iter().map(ToString::to_string).collect(),
        exposure_ids: row.exposures.iter().map(ToString::to_string).collect(),
        actions: row.actions.iter().map(|a| convert::action(a).into()).collect(),
        release: row.release,
        reason: row.reason,
        created_at: Some(convert::timestamp(created_at)),
        ..Default::default()
    };
    Ok((tx, shown))
}

/// Has the executor carry a stored request out; the request is the cause of all that follows.
pub(super) async fn hand_on(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
) -> Result<(), StoreError> {
    let message = MitigationRequested {
        tenant_id: tenant.to_string(),
        request_id: request.to_string(),
        exposure_id: String::new(),
        cause_id: request.to_string(),
    };
    outbox::enqueue(tx, Topic::MitigationRequested, Some(tenant), &message).await.map(drop)
}

async fn switched_on(
    tx: &mut Tx,
    tenant: TenantId,
    of: &BTreeSet<IntegrationId>,
    actions: &[Action],
) -> Result<(), ApiError> {
    for id in of {
        let Some(integration) = integrations::get(tx, tenant, *id).await? else {
            return Err(ApiError::Precondition {
                reason: "INTEGRATION_GONE",
                message: "the integration of an account was deleted".into(),
            });
        };
        for action in actions {
            if !integration.settings.mitigation.switch(*action).manual {
                return Err(ApiError::Precondition {
                    reason: "SWITCHED_OFF",
                    message: format!(
                        "{} by hand is switched off for integration {} (settings.mitigation.{}.manual)",
                        action.as_str(),
                        integration.name,
                        action.as_str()
                    ),
                });
            }
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl MitigationService for Mitigations {
    async fn request_mitigation(
        &self,
        request: Request<v1::RequestMitigationRequest>,
    ) -> Result<Response<v1::RequestMitigationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.request(&caller, request.into_inner()).await?))
    }
    async fn undo(&self, request: Request<v1::UndoRequest>) -> Result<Response<v1::UndoResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_undo::undo(&self.db, &caller, request.into_inner()).await?))
    }
    async fn get_mitigation(
        &self,
        request: Request<v1::GetMitigationRequest>,
    ) -> Result<Response<v1::GetMitigationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.get(&caller, id("id", &request.get_ref().id)?).await?))
    }
    async fn list_mitigations(
        &self,
        request: Request<v1::ListMitigationsRequest>,
    ) -> Result<Response<v1::ListMitigationsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }
}
