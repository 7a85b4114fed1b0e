//! ValidationService: wire in, wire out.

use shared::wire::v1::{self, validation_service_server::ValidationService};
use tonic::{Request, Response, Status};

use super::{
    id, stops, triage,
    validation::{Steer, Validations},
};
use crate::auth::caller;

#[tonic::async_trait]
impl ValidationService for Validations {
    async fn validate(
        &self,
        request: Request<v1::ValidateRequest>,
    ) -> Result<Response<v1::ValidateResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.one(&caller, request.into_inner()).await?))
    }
    async fn bulk_validate(
        &self,
        request: Request<v1::BulkValidateRequest>,
    ) -> Result<Response<v1::BulkValidateResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.bulk(&caller, request.into_inner()).await?))
    }
    async fn get_validation(
        &self,
        request: Request<v1::GetValidationRequest>,
    ) -> Result<Response<v1::GetValidationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.get(&caller, request.into_inner()).await?))
    }
    async fn list_validations(
        &self,
        request: Request<v1::ListValidationsRequest>,
    ) -> Result<Response<v1::ListValidationsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }
    async fn pause_validation(
        &self,
        request: Request<v1::PauseValidationRequest>,
    ) -> Result<Response<v1::PauseValidationResponse>, Status> {
        let caller = caller(&request)?;
        let validation = Some(self.steer(&caller, &request.get_ref().id, Steer::Pause).await?);
        Ok(Response::new(v1::PauseValidationResponse { validation }))
    }
    async fn resume_validation(
        &self,
        request: Request<v1::ResumeValidationRequest>,
    ) -> Result<Response<v1::ResumeValidationResponse>, Status> {
        let caller = caller(&request)?;
        let validation = Some(self.steer(&caller, &request.get_ref().id, Steer::Resume).await?);
        Ok(Response::new(v1::ResumeValidationResponse { validation }))
    }
    async fn cancel_validation(
        &self,
        request: Request<v1::CancelValidationRequest>,
    ) -> Result<Response<v1::CancelValidationResponse>, Status> {
        let caller = caller(&request)?;
        let validation = Some(self.steer(&caller, &request.get_ref().id, Steer::Cancel).await?);
        Ok(Response::new(v1::CancelValidationResponse { validation }))
    }
    async fn get_triage_statistics(
        &self,
        request: Request<v1::GetTriageStatisticsRequest>,
    ) -> Result<Response<v1::GetTriageStatisticsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(triage::statistics(&self.db, &caller, request.into_inner()).await?))
    }
    async fn get_attempt_budget(
        &self,
        request: Request<v1::GetAttemptBudgetRequest>,
    ) -> Result<Response<v1::GetAttemptBudgetResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.budget(&caller, id("account_id", &request.get_ref().account_id)?).await?))
    }
    async fn stop_attempts(
        &self,
        request: Request<v1::StopAttemptsRequest>,
    ) -> Result<Response<v1::StopAttemptsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(stops::stop(&self.db, &caller, request.into_inner()).await?))
    }
    async fn resume_attempts(
        &self,
        request: Request<v1::ResumeAttemptsRequest>,
    ) -> Result<Response<v1::ResumeAttemptsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(stops::resume(&self.db, &caller, request.into_inner()).await?))
    }
    async fn list_attempt_stops(
        &self,
        request: Request<v1::ListAttemptStopsRequest>,
    ) -> Result<Response<v1::ListAttemptStopsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(stops::list(&self.db, &caller, request.into_inner()).await?))
    }
}
