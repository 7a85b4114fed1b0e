//! `DirectoryService`: what integration-api needs of a directory while a caller waits.

use std::{sync::Arc, time::Duration};

use shared::{
    db::Db,
    id::{IntegrationId, TenantId},
    integration_store,
    provider::{
        Capability, CapabilityTest, ProviderError, TestReport,
        directory::{ConnectError, Directories},
    },
    wire::internal::{
        CapabilityResult, EnsureClientKeyRequest, EnsureClientKeyResponse, TestConnectionRequest,
        TestConnectionResponse, directory_service_server::DirectoryService,
    },
};
use tonic::{Request, Response, Status};

use crate::keys::{self, KeyError};

/// A test asks several things of the directory; it ends before the caller's deadline.
const PATIENCE: Duration = Duration::from_secs(25);

#[derive(Debug)]
pub(crate) struct Rpc {
    pub db: Db,
    pub directories: Arc<Directories>,
}

#[tonic::async_trait]
impl DirectoryService for Rpc {
    async fn test_connection(
        &self,
        request: Request<TestConnectionRequest>,
    ) -> Result<Response<TestConnectionResponse>, Status> {
        let TestConnectionRequest { tenant_id, integration_id } = request.into_inner();
        let (tenant, id) = ids(&tenant_id, &integration_id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let integration = integration_store::integration(&mut tx, id).await?;
        let integration = integration.ok_or_else(|| Status::not_found("no such integration"))?;
        let provider = self.directories.connect(&mut tx, &integration).await;
        tx.rollback().await?;
        let provider = match provider {
            Ok(provider) => provider,
            Err(ConnectError::Store(error)) => return Err(error.into()),
            Err(ConnectError::NoCredentials) => {
                return Ok(failed(
                    "credentials_missing",
                    "the integration has no credentials yet; save them",
                ));
            }
            Err(ConnectError::Provider(ProviderError::Refused(missing))) => {
                return Ok(failed(missing.reason, &missing.message));
            }
            Err(error) => {
                tracing::warn!(%tenant, integration = %id, %error, "connection not tested");
                return Err(Status::unavailable("the integration's secret cannot be opened now; try again"));
            }
        };
        let wanted = integration.settings.capabilities();
        let report = tokio::time::timeout(PATIENCE, provider.test(&wanted))
            .await
            .map_err(|_| Status::unavailable("the directory did not answer in time; try again"))?;
        Ok(Response::new(answer(report)))
    }

    async fn ensure_client_key(
        &self,
        request: Request<EnsureClientKeyRequest>,
    ) -> Result<Response<EnsureClientKeyResponse>, Status> {
        let EnsureClientKeyRequest { tenant_id, integration_id } = request.into_inner();
        let (tenant, id) = ids(&tenant_id, &integration_id)?;
        match keys::ensure_client_key(&self.db, &self.directories, tenant, id).await {
            Ok(jwks) => Ok(Response::new(EnsureClientKeyResponse { jwks_json: jwks.to_string() })),
            Err(KeyError::NotPrepared) => Err(Status::unavailable("keys are being prepared; try again")),
            Err(KeyError::Gone) => Err(Status::not_found("no such integration")),
            Err(KeyError::Store(error)) => Err(error.into()),
            Err(error) => {
                tracing::error!(%tenant, integration = %id, %error, "client key not made");
                Err(Status::internal("internal error"))
            }
        }
    }
}

fn ids(tenant: &str, integration: &str) -> Result<(TenantId, IntegrationId), Status> {
    let tenant = tenant.parse().map_err(|_| Status::invalid_argument("tenant_id is not a UUID"))?;
    let integration =
        integration.parse().map_err(|_| Status::invalid_argument("integration_id is not a UUID"))?;
    Ok((tenant, integration))
}

fn failed(reason: &str, message: &str) -> Response<TestConnectionResponse> {
    let read = CapabilityResult {
        capability: Capability::Read.as_str().to_owned(),
        result: "failed".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    Response::new(TestConnectionResponse { results: vec![read], ..TestConnectionResponse::default() })
}

fn answer(report: TestReport) -> TestConnectionResponse {
    let TestReport { mut capabilities, directory_id, directory_name } = report;
    capabilities.sort_by_key(|test| test.capability);
    TestConnectionResponse {
        results: capabilities.into_iter().map(result).collect(),
        directory_id: directory_id.unwrap_or_default(),
        directory_name: directory_name.unwrap_or_default(),
    }
}

fn result(test: CapabilityTest) -> CapabilityResult {
    let capability = test.capability.as_str().to_owned();
    match test.result {
        Ok(()) => CapabilityResult { capability, result: "passed".to_owned(), ..CapabilityResult::default() },
        Err(missing) => CapabilityResult {
            capability,
            result: if missing.not_granted { "not_granted" } else { "failed" }.to_owned(),
            reason: missing.reason.to_owned(),
            message: missing.message,
        },
    }
}
