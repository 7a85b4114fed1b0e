//! AuditService: audit-writer's chains, for the tenant of the token or, for operators, the installation's own.

use shared::wire::{
    internal::{SearchRequest, StoredEvent, VerifyRequest},
    v1::{self, Role, audit_service_server::AuditService},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::optional_id;
use crate::{
    auth::{Caller, caller, role_name},
    error::ApiError,
    page,
    peers::Peers,
};

/// The service.
#[derive(Clone, Debug)]
pub struct Audit {
    peers: Peers,
}

impl Audit {
    /// Through these peers.
    pub fn new(peers: Peers) -> Self {
        Self { peers }
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
        } = request;
        let tenant_id = chain(caller, installation)?;
        optional_id::<Uuid>("integration_id", &integration_id)?;
        optional_id::<Uuid>("cause_id", &cause_id)?;
        if types.len() > 100 || outcomes.len() > 10 {
            return Err(ApiError::field("types", "give at most 100 types and 10 outcomes"));
        }
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
            })
            .await?;
        Ok(v1::SearchAuditEventsResponse {
            events: found.events.into_iter().map(event).collect(),
            next_page_token: found.next_page_token,
        })
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
        })
    }
}

/// Which chain, as audit-writer names it: a tenant's id, or empty for the installation's.
fn chain(caller: &Caller, installation: bool) -> Result<String, ApiError> {
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

fn event(stored: StoredEvent) -> v1::AuditEvent {
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

#[tonic::async_trait]
impl AuditService for Audit {
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
