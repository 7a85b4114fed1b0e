//! RemovalService: plans are read through the sync worker's views, decisions are carried out by the worker itself.

use shared::{
    db::Db,
    id::{RemovalPlanId, TenantId},
    wire::{
        internal::RemovalDecision,
        v1::{self, removal_service_server::RemovalService},
    },
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{convert, id, is_text, optional_id};
use crate::{
    auth::{Caller, caller},
    error::{ApiError, Check},
    page::{self, Scope},
    peers::Peers,
    store::removals::{self, Account, Plan},
};

/// The service.
#[derive(Clone, Debug)]
pub struct Removals {
    db: Db,
    peers: Peers,
}

impl Removals {
    /// On this database, with these peers.
    pub fn new(db: Db, peers: Peers) -> Self {
        Self { db, peers }
    }

    async fn list(
        &self,
        caller: &Caller,
        mut request: v1::ListRemovalPlansRequest,
    ) -> Result<v1::ListRemovalPlansResponse, ApiError> {
        let tenant = caller.tenant()?;
        let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
        request.page_size = 0;
        let scope = Scope::of("removal plans", &request);
        let after = scope.read::<(OffsetDateTime, Uuid)>(&token)?.map(|(at, id)| (at, RemovalPlanId(id)));
        let integration = optional_id("integration_id", &request.integration_id)?;
        if request.states.len() > 100 {
            return Err(ApiError::field("states", "give at most 100 values per field"));
        }
        let states = request.states.into_iter().map(state_in).collect::<Result<Vec<_>, _>>()?;
        let states = Some(states).filter(|s| !s.is_empty());
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = removals::list(&mut tx, tenant, integration, states, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |p| (p.created_at, p.plan_id.uuid()))?;
        Ok(v1::ListRemovalPlansResponse { plans: rows.into_iter().map(plan).collect(), next_page_token })
    }

    async fn get(
        &self,
        caller: &Caller,
        mut request: v1::GetRemovalPlanRequest,
    ) -> Result<v1::GetRemovalPlanResponse, ApiError> {
        let tenant = caller.tenant()?;
        let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
        request.page_size = 0;
        let scope = Scope::of("removal plan", &request);
        let after = scope.read::<Uuid>(&token)?;
        let of = id("id", &request.id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let row = removals::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound(PLAN))?;
        let mut accounts = removals::accounts(&mut tx, tenant, of, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut accounts, size, |a| a.account_id.uuid())?;
        Ok(v1::GetRemovalPlanResponse {
            plan: Some(plan(row)),
            accounts: accounts.into_iter().map(account).collect(),
            next_page_token,
        })
    }

    /// The plan as the worker left it.
    async fn decided(&self, tenant: TenantId, of: RemovalPlanId) -> Result<v1::RemovalPlan, ApiError> {
        let mut tx = self.db.tenant(tenant).await?;
        let row = removals::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound(PLAN))?;
        tx.rollback().await?;
        Ok(plan(row))
    }
}

const PLAN: &str = "removal plan";

fn decision(
    caller: &Caller,
    plan: &str,
    reason: &str,
) -> Result<(TenantId, RemovalPlanId, RemovalDecision), ApiError> {
    let tenant = caller.tenant()?;
    let mut check = Check::default();
    let plan = check.take(id::<RemovalPlanId>("id", plan))?.unwrap_or(RemovalPlanId(Uuid::nil()));
    check.require(is_text(reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    let decision = RemovalDecision {
        tenant_id: tenant.to_string(),
        plan_id: plan.to_string(),
        actor_id: caller.claims.subject.clone(),
        actor_name: caller.claims.name.clone(),
        reason: reason.trim().to_owned(),
    };
    Ok((tenant, plan, decision))
}

fn state_in(value: i32) -> Result<&'static str, ApiError> {
    match v1::RemovalPlanState::try_from(value) {
        Ok(v1::RemovalPlanState::Held) => Ok("held"),
        Ok(v1::RemovalPlanState::Applied) => Ok("applied"),
        Ok(v1::RemovalPlanState::Dropped) => Ok("dropped"),
        Ok(v1::RemovalPlanState::Superseded) => Ok("superseded"),
        Ok(v1::RemovalPlanState::Unspecified) | Err(_) => Err(ApiError::field("states", "give known states")),
    }
}

fn plan(row: Plan) -> v1::RemovalPlan {
    let Plan {
        plan_id,
        integration_id,
        run_id,
        state,
        reason,
        accounts_known,
        accounts_gone,
        accounts_admin,
        accounts_back,
        identifiers,
        created_at,
        ended_at,
        superseded_by,
        decided_by,
        decided_by_name,
        decision_reason,
        accounts_removed,
        identities_removed,
        identifiers_removed,
    } = row;
    let state = match state.as_str() {
        "held" => v1::RemovalPlanState::Held,
        "applied" => v1::RemovalPlanState::Applied,
        "dropped" => v1::RemovalPlanState::Dropped,
        "superseded" => v1::RemovalPlanState::Superseded,
        _ => v1::RemovalPlanState::Unspecified,
    };
    let reason = match reason.as_str() {
        "empty" => v1::RemovalPlanReason::Empty,
        "shrunk" => v1::RemovalPlanReason::Shrunk,
        _ => v1::RemovalPlanReason::Unspecified,
    };
    v1::RemovalPlan {
        id: plan_id.to_string(),
        integration_id: integration_id.to_string(),
        run_id: run_id.to_string(),
        state: state.into(),
        reason: reason.into(),
        accounts_known,
        accounts_missing: accounts_gone,
        administrators: accounts_admin,
        identifiers,
        accounts_came_back: accounts_back,
        created_at: Some(convert::timestamp(created_at)),
        ended_at: ended_at.map(convert::timestamp),
        superseded_by_run_id: superseded_by.map(|run| run.to_string()).unwrap_or_default(),
        decided_by: decided_by.unwrap_or_default(),
        decided_by_name: decided_by_name.unwrap_or_default(),
        decision_reason: decision_reason.unwrap_or_default(),
        accounts_removed,
        identities_removed,
        identifiers_removed,
    }
}

fn account(row: Account) -> v1::RemovalPlanAccount {
    let Account {
        account_id,
        object_id,
        login,
        display_name,
        is_admin,
        missing_since,
        seen_at,
        removed_at,
        identifiers,
        exposures,
    } = row;
    v1::RemovalPlanAccount {
        account_id: account_id.to_string(),
        object_id,
        login,
        display_name,
        administrator: is_admin,
        missing_since: missing_since.map(convert::timestamp),
        came_back_at: seen_at.map(convert::timestamp),
        removed_at: removed_at.map(convert::timestamp),
        identifiers,
        exposures,
    }
}

#[tonic::async_trait]
impl RemovalService for Removals {
    async fn list_removal_plans(
        &self,
        request: Request<v1::ListRemovalPlansRequest>,
    ) -> Result<Response<v1::ListRemovalPlansResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }
    async fn get_removal_plan(
        &self,
        request: Request<v1::GetRemovalPlanRequest>,
    ) -> Result<Response<v1::GetRemovalPlanResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.get(&caller, request.into_inner()).await?))
    }
    async fn apply_removal_plan(
        &self,
        request: Request<v1::ApplyRemovalPlanRequest>,
    ) -> Result<Response<v1::ApplyRemovalPlanResponse>, Status> {
        let caller = caller(&request)?;
        let v1::ApplyRemovalPlanRequest { id, reason } = request.get_ref();
        let (tenant, plan, decision) = decision(&caller, id, reason)?;
        self.peers.apply_removals(decision).await?;
        Ok(Response::new(v1::ApplyRemovalPlanResponse { plan: Some(self.decided(tenant, plan).await?) }))
    }
    async fn drop_removal_plan(
        &self,
        request: Request<v1::DropRemovalPlanRequest>,
    ) -> Result<Response<v1::DropRemovalPlanResponse>, Status> {
        let caller = caller(&request)?;
        let v1::DropRemovalPlanRequest { id, reason } = request.get_ref();
        let (tenant, plan, decision) = decision(&caller, id, reason)?;
        self.peers.drop_removals(decision).await?;
        Ok(Response::new(v1::DropRemovalPlanResponse { plan: Some(self.decided(tenant, plan).await?) }))
    }
}
