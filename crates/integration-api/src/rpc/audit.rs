//! AuditService: audit-writer's chains, for the tenant of the token or, for operators, the installation's own.

use shared::{
    audit::{Outcome, catalogue},
    db::Db,
    id::AccountId,
    wire::{
        internal::{SearchRequest, StoredEvent, VerifyRequest},
        v1::{self, Role, audit_service_server::AuditService},
    },
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    audit_stream::{self, Exported, Tailed},
    optional_id,
};
use crate::{
    auth::{Caller, caller, role_name},
    error::ApiError,
    page,
    peers::Peers,
    store::accounts,
};

/// The service.
#[derive(Clone, Debug)]
pub struct Audit {
    db: Db,
    peers: Peers,
}

impl Audit {
    /// Through these peers; what it does is recorded in this database.
    pub fn new(db: Db, peers: Peers) -> Self {
        Self { db, peers }
    }

    async fn search(
        &self,
        caller: &Caller,
        request: v1::SearchAuditEventsRequest,
    ) -> Result<v1::SearchAuditEventsResponse, ApiError> {
        let v1::SearchAuditEventsRequest {
            page_size,
            page_token,
            from,
            until,
            types,
            integration_id,
            actor,
            user,
            outcomes,
            cause_id,
            object_id,
            installation,
            text,
            account_id,
        } = request;
        let tenant_id = chain(caller, installation)?;
        optional_id::<Uuid>("integration_id", &integration_id)?;
        optional_id::<Uuid>("cause_id", &cause_id)?;
        if types.len() > 100 || outcomes.len() > 10 {
            return Err(ApiError::field("types", "give at most 100 types and 10 outcomes"));
        }
        let user = match optional_id::<AccountId>("account_id", &account_id)? {
            None => user,
            Some(_) if !user.is_empty() => {
                return Err(ApiError::field("account_id", "give a user or an account, not both"));
            }
            Some(_) if installation => {
                return Err(ApiError::field("account_id", "the installation's chain knows no accounts"));
            }
            Some(account) => self.object_of(caller, account).await?,
        };
        let outcomes = outcomes.into_iter().map(outcome_name).collect::<Result<_, _>>()?;
        let page_size = i32::try_from(page::size(page_size)?).unwrap_or(100);
        let found = self
            .peers
            .search(SearchRequest {
                tenant_id,
                from,
                until,
                types,
                integration_id,
                actor,
                user,
                outcomes,
                cause_id,
                page_size,
                page_token,
                object_id,
                text,
            })
            .await?;
        Ok(v1::SearchAuditEventsResponse {
            events: found.events.into_iter().map(event).collect(),
            next_page_token: found.next_page_token,
            searched_from: found.searched_from,
            older_events: found.older_events,
        })
    }

    /// The directory's id of an account, also of one that is gone.
    async fn object_of(&self, caller: &Caller, account: AccountId) -> Result<String, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let found = accounts::object_of(&mut tx, tenant, account).await?;
        tx.rollback().await?;
        found.ok_or(ApiError::NotFound("account"))
    }

    async fn verify(
        &self,
        caller: &Caller,
        request: v1::VerifyAuditChainRequest,
    ) -> Result<v1::VerifyAuditChainResponse, ApiError> {
        let tenant_id = chain(caller, request.installation)?;
        let found = self.peers.verify(VerifyRequest { tenant_id }).await?;
        Ok(v1::VerifyAuditChainResponse {
            events: found.events,
            intact: found.intact,
            fault: found.fault,
            checkpoints: found.checkpoints,
            public_keys: found.public_keys,
        })
    }
}

/// Which chain, as audit-writer names it: a tenant's id, or empty for the installation's.
pub(super) fn chain(caller: &Caller, installation: bool) -> Result<String, ApiError> {
    let needed = if installation { Role::Operator } else { Role::Auditor };
    if !caller.has(needed) {
        return Err(ApiError::Denied {
            reason: "ROLE_MISSING",
            message: format!("this chain needs the role {}", role_name(needed)),
        });
    }
    if installation { Ok(String::new()) } else { Ok(caller.tenant()?.to_string()) }
}

fn outcome_name(value: i32) -> Result<String, ApiError> {
    match v1::AuditOutcome::try_from(value) {
        Ok(v1::AuditOutcome::Unspecified) | Err(_) => Err(ApiError::field("outcomes", "give known outcomes")),
        Ok(outcome) => Ok(outcome.as_str_name().trim_start_matches("AUDIT_OUTCOME_").to_ascii_lowercase()),
    }
}

pub(super) fn event(stored: StoredEvent) -> v1::AuditEvent {
    let StoredEvent {
        event_id,
        sequence,
        occurred_at,
        stored_at,
        r#type,
        actor_kind,
        actor_id,
        actor_name,
        outcome,
        cause_id,
        integration_id,
        object_kind,
        object_id,
        user_object_id,
        user_name,
        message,
        details,
        previous_hash,
        hash,
    } = stored;
    let outcome = v1::AuditOutcome::from_str_name(&format!("AUDIT_OUTCOME_{}", outcome.to_ascii_uppercase()));
    v1::AuditEvent {
        id: event_id,
        sequence,
        occurred_at,
        stored_at,
        r#type,
        actor: Some(v1::AuditActor { kind: actor_kind, id: actor_id, name: actor_name }),
        outcome: outcome.unwrap_or(v1::AuditOutcome::Unspecified).into(),
        cause_id,
        integration_id,
        object_kind,
        object_id,
        user_object_id,
        user_name,
        message,
        details,
        previous_hash,
        hash,
    }
}

fn outcome_of(outcome: Outcome) -> v1::AuditOutcome {
    match outcome {
        Outcome::Intent => v1::AuditOutcome::Intent,
        Outcome::Success => v1::AuditOutcome::Success,
        Outcome::Failure => v1::AuditOutcome::Failure,
        Outcome::Refused => v1::AuditOutcome::Refused,
        Outcome::Unknown => v1::AuditOutcome::Unknown,
        Outcome::Info => v1::AuditOutcome::Info,
    }
}

fn event_type(entry: &catalogue::EventType) -> v1::AuditEventType {
    let details = entry.details().map(|detail| v1::AuditDetail {
        name: detail.name.to_owned(),
        class: detail.class.as_str().to_owned(),
        meaning: detail.meaning.to_owned(),
    });
    v1::AuditEventType {
        name: entry.name.to_owned(),
        meaning: entry.meaning.trim().to_owned(),
        actors: entry.by.iter().map(|by| by.as_str().to_owned()).collect(),
        outcomes: entry.outcomes.iter().map(|outcome| outcome_of(*outcome).into()).collect(),
        about: entry.about.iter().map(|about| about.as_str().to_owned()).collect(),
        details: details.collect(),
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    type ExportAuditEventsStream = Exported;
    type TailAuditEventsStream = Tailed;

    async fn list_audit_event_types(
        &self,
        _: Request<v1::ListAuditEventTypesRequest>,
    ) -> Result<Response<v1::ListAuditEventTypesResponse>, Status> {
        let types = catalogue::all().map(event_type).collect();
        Ok(Response::new(v1::ListAuditEventTypesResponse { types }))
    }
    async fn export_audit_events(
        &self,
        request: Request<v1::ExportAuditEventsRequest>,
    ) -> Result<Response<Self::ExportAuditEventsStream>, Status> {
        let caller = caller(&request)?;
        let stream = audit_stream::export(&self.db, &self.peers, &caller, request.into_inner()).await?;
        Ok(Response::new(stream))
    }
    async fn tail_audit_events(
        &self,
        request: Request<v1::TailAuditEventsRequest>,
    ) -> Result<Response<Self::TailAuditEventsStream>, Status> {
        let caller = caller(&request)?;
        let stream = audit_stream::tail(&self.db, &self.peers, &caller, &request.into_inner()).await?;
        Ok(Response::new(stream))
    }
    async fn search_audit_events(
        &self,
        request: Request<v1::SearchAuditEventsRequest>,
    ) -> Result<Response<v1::SearchAuditEventsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.search(&caller, request.into_inner()).await?))
    }
    async fn verify_audit_chain(
        &self,
        request: Request<v1::VerifyAuditChainRequest>,
    ) -> Result<Response<v1::VerifyAuditChainResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.verify(&caller, request.into_inner()).await?))
    }
}
