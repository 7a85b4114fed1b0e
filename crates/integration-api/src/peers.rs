//! The services this one calls, over mutual TLS.

use std::time::Duration;

use anyhow::Context as _;
use shared::{
    grpc,
    id::{IntegrationId, TenantId},
    service::Common,
    wire::internal::{
        ApplyRemovalsRequest, CancelRequest, CancelResponse, DecideRequest, Draft, DropRemovalsRequest,
        EnsureClientKeyRequest, ExportRequest, ExportResponse, PlanRequest, PlanResponse,
        PreviewScopeRequest, PreviewScopeResponse, RemovalDecision, RotateClientKeyRequest, SearchRequest,
        SearchResponse, SimulateRequest, SimulateResponse, TailRequest, TailResponse, TestConnectionRequest,
        TestConnectionResponse, VerifyRequest, VerifyResponse,
        audit_query_service_client::AuditQueryServiceClient,
        containment_service_client::ContainmentServiceClient,
        directory_service_client::DirectoryServiceClient, removal_service_client::RemovalServiceClient,
    },
};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    config::{AUDIT_WRITER, EXECUTOR, SYNC_WORKER},
    error::ApiError,
};

const TEST_TIMEOUT: Duration = Duration::from_secs(28);
/// As long as reading the largest directory may take.
const PREVIEW_TIMEOUT: Duration = Duration::from_hours(2);
const KEY_TIMEOUT: Duration = Duration::from_secs(10);
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(28);
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(28);
const PLAN_TIMEOUT: Duration = Duration::from_secs(28);
const DECISION_TIMEOUT: Duration = Duration::from_secs(28);
/// Ten thousand planned actions, or events, with their sentences.
const MOST_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The other services.
#[derive(Clone, Debug)]
pub struct Peers {
    directory: DirectoryServiceClient<Channel>,
    removals: RemovalServiceClient<Channel>,
    containment: ContainmentServiceClient<Channel>,
    audit: AuditQueryServiceClient<Channel>,
}

impl Peers {
    /// Channels to all; they connect when they are first used.
    pub async fn connect(common: &Common) -> anyhow::Result<Self> {
        let tls = common.tls.as_ref().context("common.tls is required")?;
        let channel = async |name: &str| {
            let peer = common.peers.get(name).with_context(|| format!("common.peers.{name} is required"))?;
            grpc::channel(peer, tls).await
        };
        let worker = channel(SYNC_WORKER).await?;
        Ok(Self {
            directory: DirectoryServiceClient::new(worker.clone()),
            removals: RemovalServiceClient::new(worker),
            containment: ContainmentServiceClient::new(channel(EXECUTOR).await?)
                .max_decoding_message_size(MOST_ANSWER_BYTES),
            audit: AuditQueryServiceClient::new(channel(AUDIT_WRITER).await?)
                .max_decoding_message_size(MOST_ANSWER_BYTES),
        })
    }

    /// Tests an integration now, or what it would be.
    pub async fn test(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        draft: Option<Draft>,
    ) -> Result<TestConnectionResponse, ApiError> {
        let mut request = Request::new(TestConnectionRequest {
            tenant_id: tenant.to_string(),
            integration_id: id.to_string(),
            draft,
        });
        request.set_timeout(TEST_TIMEOUT);
        let answer = self.directory.clone().test_connection(request).await;
        Ok(answer
            .map_err(|status| away(&status, "the directory worker cannot test now; nothing changed"))?
            .into_inner())
    }

    /// Previews another scope; the answers come as they are made.
    pub async fn preview(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        group_ids: Vec<String>,
    ) -> Result<Streaming<PreviewScopeResponse>, ApiError> {
        let mut request = Request::new(PreviewScopeRequest {
            tenant_id: tenant.to_string(),
            integration_id: id.to_string(),
            group_ids,
        });
        request.set_timeout(PREVIEW_TIMEOUT);
        let answer = self.directory.clone().preview_scope(request).await;
        Ok(answer
            .map_err(|status| away(&status, "the directory worker cannot preview a scope now"))?
            .into_inner())
    }

    /// Makes sure an Okta integration has its client key.
    pub async fn ensure_client_key(&self, tenant: TenantId, id: IntegrationId) -> Result<(), ApiError> {
        let mut request = Request::new(EnsureClientKeyRequest {
            tenant_id: tenant.to_string(),
            integration_id: id.to_string(),
        });
        request.set_timeout(KEY_TIMEOUT);
        let answer = self.directory.clone().ensure_client_key(request).await;
        answer.map_err(|status| away(&status, "the directory worker cannot make the client key now"))?;
        Ok(())
    }

    /// Has the client key of an Okta integration rotated; false when that is under way.
    pub async fn rotate_client_key(
        &self,
        tenant: TenantId,
        id: IntegrationId,
        emergency: bool,
    ) -> Result<bool, ApiError> {
        let mut request = Request::new(RotateClientKeyRequest {
            tenant_id: tenant.to_string(),
            integration_id: id.to_string(),
            emergency,
        });
        request.set_timeout(KEY_TIMEOUT);
        let answer = self.directory.clone().rotate_client_key(request).await;
        Ok(answer
            .map_err(|status| away(&status, "the directory worker cannot make the client key now"))?
            .into_inner()
            .begun)
    }

    /// Has held removals applied.
    pub async fn apply_removals(&self, decision: RemovalDecision) -> Result<(), ApiError> {
        let mut request = Request::new(ApplyRemovalsRequest { decision: Some(decision) });
        request.set_timeout(REMOVAL_TIMEOUT);
        self.removals.clone().apply_removals(request).await.map_err(|status| undecided(&status))?;
        Ok(())
    }

    /// Has held removals dropped.
    pub async fn drop_removals(&self, decision: RemovalDecision) -> Result<(), ApiError> {
        let mut request = Request::new(DropRemovalsRequest { decision: Some(decision) });
        request.set_timeout(REMOVAL_TIMEOUT);
        self.removals.clone().drop_removals(request).await.map_err(|status| undecided(&status))?;
        Ok(())
    }

    /// Has a request planned; nothing is done.
    pub async fn plan(&self, plan: PlanRequest) -> Result<PlanResponse, ApiError> {
        let mut request = Request::new(plan);
        request.set_timeout(PLAN_TIMEOUT);
        let answer = self.containment.clone().plan(request).await;
        Ok(answer.map_err(|status| away(&status, "the mitigation executor cannot plan now"))?.into_inner())
    }

    /// Has a policy simulated; nothing is done.
    pub async fn simulate(&self, simulate: SimulateRequest) -> Result<SimulateResponse, ApiError> {
        let mut request = Request::new(simulate);
        request.set_timeout(PLAN_TIMEOUT);
        let answer = self.containment.clone().simulate(request).await;
        Ok(answer
            .map_err(|status| away(&status, "the mitigation executor cannot simulate now"))?
            .into_inner())
    }

    /// Has held mitigations approved or rejected.
    pub async fn decide(&self, decision: DecideRequest) -> Result<(), ApiError> {
        let mut request = Request::new(decision);
        request.set_timeout(DECISION_TIMEOUT);
        self.containment.clone().decide(request).await.map_err(|status| withheld(&status))?;
        Ok(())
    }

    /// Has a request for mitigations cancelled.
    pub async fn cancel(&self, cancellation: CancelRequest) -> Result<CancelResponse, ApiError> {
        let mut request = Request::new(cancellation);
        request.set_timeout(DECISION_TIMEOUT);
        match self.containment.clone().cancel(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if status.code() == Code::NotFound => Err(ApiError::NotFound("mitigation request")),
            Err(status) => Err(away(&status, LATE)),
        }
    }

    /// Searches a chain.
    pub async fn search(&self, search: SearchRequest) -> Result<SearchResponse, ApiError> {
        let mut request = Request::new(search);
        request.set_timeout(SEARCH_TIMEOUT);
        match self.audit.clone().search(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if status.code() == Code::ResourceExhausted => Err(ApiError::Precondition {
                reason: "SEARCH_TOO_WIDE",
                message: format!("{}: a shorter time, a type, a user, an integration", status.message()),
            }),
            Err(status) => Err(away(&status, LOG_AWAY)),
        }
    }

    /// Exports a part of a chain; the pieces come as they are taken.
    pub async fn export(&self, export: ExportRequest) -> Result<Streaming<ExportResponse>, ApiError> {
        let answer = self.audit.clone().export(Request::new(export)).await;
        Ok(answer.map_err(|status| away(&status, LOG_AWAY))?.into_inner())
    }

    /// Follows a chain.
    pub async fn tail(&self, tail: TailRequest) -> Result<Streaming<TailResponse>, ApiError> {
        let answer = self.audit.clone().tail(Request::new(tail)).await;
        Ok(answer.map_err(|status| away(&status, LOG_AWAY))?.into_inner())
    }

    /// Verifies a chain.
    pub async fn verify(&self, verify: VerifyRequest) -> Result<VerifyResponse, ApiError> {
        let mut request = Request::new(verify);
        request.set_timeout(VERIFY_TIMEOUT);
        let answer = self.audit.clone().verify(request).await;
        Ok(answer.map_err(|status| away(&status, "the audit log cannot be verified now"))?.into_inner())
    }
}

const LOG_AWAY: &str = "the audit log cannot be read now";
const LATE: &str = "the mitigation executor did not answer in time; repeat the call, nothing happens twice";

// The reason that a peer gives, if it is one of these.
fn reason(status: &Status, known: &[&'static str]) -> Option<&'static str> {
    let info = status.get_error_details().error_info().map(|info| info.reason.clone());
    known.iter().copied().find(|known| info.as_deref() == Some(known))
}

// Why the executor did not do what was decided about an approval.
fn withheld(status: &Status) -> ApiError {
    let message = status.message().to_owned();
    match (status.code(), reason(status, &["SAME_PERSON", "REJECTED", "APPROVED", "EXPIRED"])) {
        (Code::NotFound, _) => ApiError::NotFound("approval, or not with such a mitigation"),
        (Code::PermissionDenied, Some(reason)) => ApiError::Denied { reason, message },
        (Code::FailedPrecondition, Some(reason)) => ApiError::Precondition { reason, message },
        _ => away(status, LATE),
    }
}

// Why the worker did not do what was decided about a plan.
fn undecided(status: &Status) -> ApiError {
    match (
        status.code(),
        reason(status, &["EMPTY_ANSWER", "PLAN_SUPERSEDED", "PLAN_DROPPED", "PLAN_APPLIED"]),
    ) {
        (Code::NotFound, _) => ApiError::NotFound("removal plan"),
        (Code::FailedPrecondition, Some(reason)) => {
            ApiError::Precondition { reason, message: status.message().to_owned() }
        }
        _ => away(status, "the sync worker did not answer in time; repeat the call, nothing happens twice"),
    }
}

// What a peer says about its own state is for the log; what it says about the request is for the caller.
fn away(status: &Status, message: &'static str) -> ApiError {
    match status.code() {
        Code::InvalidArgument => ApiError::field("request", status.message().to_owned()),
        Code::FailedPrecondition => {
            ApiError::Precondition { reason: "DIRECTORY_REFUSES", message: status.message().to_owned() }
        }
        Code::NotFound => ApiError::NotFound("integration"),
        code => {
            tracing::warn!(?code, error = status.message(), "a peer did not answer");
            ApiError::Unavailable(message)
        }
    }
}
