//! IntegrationService: wire in, wire out.

use shared::wire::v1::{self, integration_service_server::IntegrationService};
use tonic::{Request, Response, Status};

use super::{id, integration::Integrations, integration_draft::Preview, is_text, watch};
use crate::{auth::caller, error::ApiError};

#[tonic::async_trait]
impl IntegrationService for Integrations {
    type WatchSyncStream = watch::Progress;
    type PreviewScopeStream = Preview;

    async fn list_providers(
        &self,
        request: Request<v1::ListProvidersRequest>,
    ) -> Result<Response<v1::ListProvidersResponse>, Status> {
        Ok(Response::new(self.providers(&caller(&request)?).await?))
    }
    async fn create_integration(
        &self,
        request: Request<v1::CreateIntegrationRequest>,
    ) -> Result<Response<v1::CreateIntegrationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.create(&caller, request.into_inner()).await?))
    }
    async fn get_integration(
        &self,
        request: Request<v1::GetIntegrationRequest>,
    ) -> Result<Response<v1::GetIntegrationResponse>, Status> {
        let tenant = caller(&request)?.tenant()?;
        let integration = Some(self.get(tenant, id("id", &request.get_ref().id)?).await?);
        Ok(Response::new(v1::GetIntegrationResponse { integration }))
    }
    async fn list_integrations(
        &self,
        request: Request<v1::ListIntegrationsRequest>,
    ) -> Result<Response<v1::ListIntegrationsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }
    async fn update_integration(
        &self,
        request: Request<v1::UpdateIntegrationRequest>,
    ) -> Result<Response<v1::UpdateIntegrationResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.update(&caller, request.into_inner()).await?))
    }
    async fn test_integration(
        &self,
        request: Request<v1::TestIntegrationRequest>,
    ) -> Result<Response<v1::TestIntegrationResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        Ok(Response::new(match &request.integration {
            None => self.test(&caller, id("id", &request.id)?).await?,
            Some(_) => self.test_draft(&caller, request).await?,
        }))
    }
    async fn preview_scope(
        &self,
        request: Request<v1::PreviewScopeRequest>,
    ) -> Result<Response<Self::PreviewScopeStream>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.preview(&caller, request.into_inner()).await?))
    }
    async fn enable_integration(
        &self,
        request: Request<v1::EnableIntegrationRequest>,
    ) -> Result<Response<v1::EnableIntegrationResponse>, Status> {
        let caller = caller(&request)?;
        let integration = self.switch(&caller, id("id", &request.get_ref().id)?, None).await?;
        Ok(Response::new(v1::EnableIntegrationResponse { integration: Some(integration) }))
    }
    async fn disable_integration(
        &self,
        request: Request<v1::DisableIntegrationRequest>,
    ) -> Result<Response<v1::DisableIntegrationResponse>, Status> {
        let caller = caller(&request)?;
        let v1::DisableIntegrationRequest { id: text, reason } = request.into_inner();
        if !reason.is_empty() && !is_text(&reason, 500) {
            return Err(ApiError::field("reason", "give at most 500 printable characters").into());
        }
        let integration = self.switch(&caller, id("id", &text)?, Some(reason)).await?;
        Ok(Response::new(v1::DisableIntegrationResponse { integration: Some(integration) }))
    }
    async fn get_overview(
        &self,
        request: Request<v1::GetOverviewRequest>,
    ) -> Result<Response<v1::GetOverviewResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.overview(&caller, request.into_inner()).await?))
    }
    async fn prepare_deletion(
        &self,
        request: Request<v1::PrepareDeletionRequest>,
    ) -> Result<Response<v1::PrepareDeletionResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.prepare_deletion(&caller, request.into_inner()).await?))
    }
    async fn delete_integration(
        &self,
        request: Request<v1::DeleteIntegrationRequest>,
    ) -> Result<Response<v1::DeleteIntegrationResponse>, Status> {
        let caller = caller(&request)?;
        self.delete(&caller, request.into_inner()).await?;
        Ok(Response::new(v1::DeleteIntegrationResponse {}))
    }
    async fn request_daily_max(
        &self,
        request: Request<v1::RequestDailyMaxRequest>,
    ) -> Result<Response<v1::RequestDailyMaxResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.request_daily_max(&caller, request.into_inner()).await?))
    }
    async fn approve_daily_max(
        &self,
        request: Request<v1::ApproveDailyMaxRequest>,
    ) -> Result<Response<v1::ApproveDailyMaxResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.approve_daily_max(&caller, request.into_inner()).await?))
    }
    async fn decline_daily_max(
        &self,
        request: Request<v1::DeclineDailyMaxRequest>,
    ) -> Result<Response<v1::DeclineDailyMaxResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.decline_daily_max(&caller, request.into_inner()).await?))
    }
    async fn list_daily_max_requests(
        &self,
        request: Request<v1::ListDailyMaxRequestsRequest>,
    ) -> Result<Response<v1::ListDailyMaxRequestsResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.daily_max_requests(&caller, request.into_inner()).await?))
    }
    async fn rotate_client_key(
        &self,
        request: Request<v1::RotateClientKeyRequest>,
    ) -> Result<Response<v1::RotateClientKeyResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.rotate_client_key(&caller, request.into_inner()).await?))
    }
    async fn start_sync(
        &self,
        request: Request<v1::StartSyncRequest>,
    ) -> Result<Response<v1::StartSyncResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.start_sync(&caller, request.into_inner()).await?))
    }
    async fn watch_sync(
        &self,
        request: Request<v1::WatchSyncRequest>,
    ) -> Result<Response<Self::WatchSyncStream>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.watch(&caller, request.into_inner()).await?))
    }
}
