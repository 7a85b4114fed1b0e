//! InstallationService: the kill switch of attempts, their gate and their auditor.

use shared::{
    db::Db,
    wire::v1::{self, installation_service_server::InstallationService},
};
use tonic::{Request, Response, Status};

use super::{budget, stops};
use crate::auth::caller;

/// The service.
#[derive(Clone, Debug)]
pub struct Installation {
    db: Db,
}

impl Installation {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

#[tonic::async_trait]
impl InstallationService for Installation {
    async fn get_attempt_gate(
        &self,
        _: Request<v1::GetAttemptGateRequest>,
    ) -> Result<Response<v1::GetAttemptGateResponse>, Status> {
        Ok(Response::new(budget::gate(&self.db).await?))
    }
    async fn close_attempt_gate(
        &self,
        request: Request<v1::CloseAttemptGateRequest>,
    ) -> Result<Response<v1::CloseAttemptGateResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(budget::close_gate(&self.db, &caller, request.into_inner()).await?))
    }
    async fn audit_attempts(
        &self,
        request: Request<v1::AuditAttemptsRequest>,
    ) -> Result<Response<v1::AuditAttemptsResponse>, Status> {
        Ok(Response::new(budget::audit_attempts(&self.db, request.into_inner()).await?))
    }
    async fn stop_all_attempts(
        &self,
        request: Request<v1::StopAllAttemptsRequest>,
    ) -> Result<Response<v1::StopAllAttemptsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(stops::stop_all(&self.db, &caller, request.into_inner()).await?))
    }
    async fn resume_all_attempts(
        &self,
        request: Request<v1::ResumeAllAttemptsRequest>,
    ) -> Result<Response<v1::ResumeAllAttemptsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(stops::resume_all(&self.db, &caller, request.into_inner()).await?))
    }
}
