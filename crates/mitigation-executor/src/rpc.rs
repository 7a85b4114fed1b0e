//! `ContainmentService`: what only the planner can tell, and what a person decided about what is held, as integration-api
//! passes it on.

use shared::{
    db::Db,
    wire::internal::{
        DecideRequest, DecideResponse, PlanRequest, PlanResponse, SimulateRequest, SimulateResponse,
        containment_service_server::ContainmentService,
    },
};
use tonic::{Request, Response, Status};

#[derive(Debug)]
pub(crate) struct Rpc {
    pub db: Db,
}

#[tonic::async_trait]
impl ContainmentService for Rpc {
    async fn plan(&self, _request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn simulate(
        &self,
        _request: Request<SimulateRequest>,
    ) -> Result<Response<SimulateResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn decide(&self, _request: Request<DecideRequest>) -> Result<Response<DecideResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
