//! `RemovalService`: what a person decided about held removals, as integration-api passes it on.

use shared::{
    db::Db,
    wire::internal::{
        ApplyRemovalsRequest, ApplyRemovalsResponse, DropRemovalsRequest, DropRemovalsResponse,
        RemovalDecision, removal_service_server::RemovalService,
    },
};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::removals::{self, DecideError, Decision, Refusal, Wish};

const DOMAIN: &str = "parapet";

#[derive(Debug)]
pub(crate) struct Rpc {
    pub db: Db,
}

impl Rpc {
    async fn decide(&self, decision: Option<RemovalDecision>, wish: Wish) -> Result<(), Status> {
        let (db, decision) = (self.db.clone(), read(decision)?);
        // In a task of its own: a large plan may take longer than its caller waits, who then asks again.
        let done = tokio::spawn(async move { removals::decide(&db, &decision, wish).await }).await;
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(DecideError::Unknown)) => Err(Status::not_found("the tenant has no such plan")),
            Ok(Err(DecideError::Refused(refusal))) => Err(refused(refusal)),
            Ok(Err(DecideError::Store(error))) => Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "a decision about removals was not carried out");
                Err(Status::internal("internal error"))
            }
        }
    }
}

fn read(decision: Option<RemovalDecision>) -> Result<Decision, Status> {
    let RemovalDecision { tenant_id, plan_id, actor_id, actor_name, reason } =
        decision.ok_or_else(|| Status::invalid_argument("decision is missing"))?;
    if actor_id.is_empty() || reason.is_empty() {
        return Err(Status::invalid_argument("decision.actor_id or decision.reason is missing"));
    }
    Ok(Decision {
        tenant: tenant_id.parse().map_err(|_| Status::invalid_argument("tenant_id is not a UUID"))?,
        plan: plan_id.parse().map_err(|_| Status::invalid_argument("plan_id is not a UUID"))?,
        actor_id,
        actor_name,
        reason,
    })
}

fn refused(refusal: Refusal) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(refusal.as_str(), DOMAIN, []);
    Status::with_error_details(Code::FailedPrecondition, refusal.to_string(), details)
}

#[tonic::async_trait]
impl RemovalService for Rpc {
    async fn apply_removals(
        &self,
        request: Request<ApplyRemovalsRequest>,
    ) -> Result<Response<ApplyRemovalsResponse>, Status> {
        self.decide(request.into_inner().decision, Wish::Apply).await?;
        Ok(Response::new(ApplyRemovalsResponse {}))
    }

    async fn drop_removals(
        &self,
        request: Request<DropRemovalsRequest>,
    ) -> Result<Response<DropRemovalsResponse>, Status> {
        self.decide(request.into_inner().decision, Wish::Drop).await?;
        Ok(Response::new(DropRemovalsResponse {}))
    }
}
