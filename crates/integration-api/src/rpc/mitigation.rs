//! MitigationService: what is done, asked for and waiting. Requests, plans, approvals and the policy are in files of their
//! own.

use shared::{
    db::Db,
    id::{MitigationId, MitigationRequestId},
    provider::Action,
    wire::v1::{self, mitigation_service_server::MitigationService},
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    convert, id, mitigation_approval, mitigation_cancel, mitigation_plan, mitigation_policy,
    mitigation_request, mitigation_undo, optional_id,
};
use crate::{
    auth::{Caller, caller},
    error::ApiError,
    page::{self, Scope},
    peers::Peers,
    store::mitigations::{self, Filter},
};

/// The largest request: it names 100,000 accounts.
pub const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct Mitigations {
    pub(super) db: Db,
    pub(super) peers: Peers,
}

impl Mitigations {
    /// On this database, with these peers.
    pub fn new(db: Db, peers: Peers) -> Self {
        Self { db, peers }
    }

    async fn progress(
        &self,
        caller: &Caller,
        of: MitigationRequestId,
    ) -> Result<v1::GetMitigationProgressResponse, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let row = mitigations::request(&mut tx, tenant, of)
            .await?
            .ok_or(ApiError::NotFound("mitigation request"))?;
        let rows = mitigations::counts(&mut tx, tenant, of).await?;
        tx.rollback().await?;
        let decided = |state: &str| matches!(state, "verified" | "undone" | "reverted" | "refused");
        Ok(v1::GetMitigationProgressResponse {
            request: Some(mitigation_request::shown(row)),
            planned: rows.iter().map(|c| c.count).sum(),
            finished: rows.iter().filter(|c| decided(&c.state)).map(|c| c.count).sum(),
            counts: rows
                .into_iter()
                .map(|mitigations::Count { state, reason, count }| v1::MitigationCount {
                    state,
                    reason,
                    count,
                })
                .collect(),
        })
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
            approval: one("approval_id", &request.approval_id)?,
        };
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = mitigations::list(&mut tx, tenant, &filter, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |m| (m.created_at, m.mitigation_id.uuid()))?;
        let mitigations = rows.into_iter().map(|m| convert::mitigation(m, false)).collect();
        Ok(v1::ListMitigationsResponse { mitigations, next_page_token })
    }
}

#[tonic::async_trait]
impl MitigationService for Mitigations {
    async fn plan_mitigation(
        &self,
        request: Request<v1::PlanMitigationRequest>,
    ) -> Result<Response<v1::PlanMitigationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_plan::plan(self, &caller, request.into_inner()).await?))
    }
    async fn request_mitigation(
        &self,
        request: Request<v1::RequestMitigationRequest>,
    ) -> Result<Response<v1::RequestMitigationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_request::named(&self.db, &caller, request.into_inner()).await?))
    }
    async fn bulk_mitigate(
        &self,
        request: Request<v1::BulkMitigateRequest>,
    ) -> Result<Response<v1::BulkMitigateResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_request::bulk(&self.db, &caller, request.into_inner()).await?))
    }
    async fn get_mitigation_progress(
        &self,
        request: Request<v1::GetMitigationProgressRequest>,
    ) -> Result<Response<v1::GetMitigationProgressResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.progress(&caller, id("request_id", &request.get_ref().request_id)?).await?))
    }
    async fn cancel_mitigation(
        &self,
        request: Request<v1::CancelMitigationRequest>,
    ) -> Result<Response<v1::CancelMitigationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_cancel::cancel(self, &caller, request.into_inner()).await?))
    }
    async fn list_pending_approvals(
        &self,
        request: Request<v1::ListPendingApprovalsRequest>,
    ) -> Result<Response<v1::ListPendingApprovalsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_approval::list(&self.db, &caller, request.into_inner()).await?))
    }
    async fn approve(
        &self,
        request: Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::ApproveResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ApproveRequest { id, mitigation_ids, reason } = request.into_inner();
        let approval = mitigation_approval::decide(self, &caller, &id, true, mitigation_ids, &reason).await?;
        Ok(Response::new(v1::ApproveResponse { approval: Some(approval) }))
    }
    async fn reject(
        &self,
        request: Request<v1::RejectRequest>,
    ) -> Result<Response<v1::RejectResponse>, Status> {
        let caller = caller(&request)?;
        let v1::RejectRequest { id, reason } = request.into_inner();
        let approval = mitigation_approval::decide(self, &caller, &id, false, Vec::new(), &reason).await?;
        Ok(Response::new(v1::RejectResponse { approval: Some(approval) }))
    }
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_policy::get(&self.db, &caller).await?))
    }
    async fn update_policy(
        &self,
        request: Request<v1::UpdatePolicyRequest>,
    ) -> Result<Response<v1::UpdatePolicyResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_policy::update(&self.db, &caller, request.into_inner()).await?))
    }
    async fn simulate_policy(
        &self,
        request: Request<v1::SimulatePolicyRequest>,
    ) -> Result<Response<v1::SimulatePolicyResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(mitigation_plan::simulate(self, &caller, request.into_inner()).await?))
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
