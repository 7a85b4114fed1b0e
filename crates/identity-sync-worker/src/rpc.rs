//! `DirectoryService`: what integration-api needs of a directory while a caller waits.

use std::{sync::Arc, time::Duration};

use shared::{
    db::{Db, Tx},
    id::{IntegrationId, TenantId},
    integration::{Connection, SyncScope},
    integration_store::{self, Integration, Sealed},
    provider::{
        Capability, CapabilityTest, ProviderError, TestReport, Warning,
        directory::{ConnectError, Directories},
    },
    sealing::SealError,
    wire::{
        internal::{
            CapabilityResult, Draft, EnsureClientKeyRequest, EnsureClientKeyResponse, PreviewScopeRequest,
            PreviewScopeResponse, RotateClientKeyRequest, RotateClientKeyResponse, TestConnectionRequest,
            TestConnectionResponse, directory_service_server::DirectoryService,
        },
        v1::ConnectionWarning,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{client_keys::ClientKeys, keys::KeyError, preview::Preview};

/// A test asks several things of the directory; it ends before the caller's deadline.
const PATIENCE: Duration = Duration::from_secs(25);

#[derive(Debug)]
pub(crate) struct Rpc {
    pub db: Db,
    pub directories: Arc<Directories>,
    pub client_keys: Arc<ClientKeys>,
}

#[tonic::async_trait]
impl DirectoryService for Rpc {
    async fn test_connection(
        &self,
        request: Request<TestConnectionRequest>,
    ) -> Result<Response<TestConnectionResponse>, Status> {
        let TestConnectionRequest { tenant_id, integration_id, draft } = request.into_inner();
        let (tenant, id) = ids(&tenant_id, &integration_id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let (integration, provider) = match draft {
            None => {
                let integration = saved(&mut tx, id).await?;
                if let Connection::Okta(_) = integration.connection {
                    tx.rollback().await?;
                    // The tenant's own keys may have been in the making when the integration was created.
                    let made = self.client_keys.ensure(tenant, id).await;
                    made.map_err(|error| not_made(tenant, id, error))?;
                    tx = self.db.tenant(tenant).await?;
                }
                let provider = self.directories.connect(&mut tx, &integration).await;
                (integration, provider)
            }
            Some(draft) => {
                let (draft, secret) = read_draft(tenant, id, draft)?;
                let provider = self.directories.connect_draft(&mut tx, &draft, secret).await;
                (draft, provider)
            }
        };
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

    type PreviewScopeStream = ReceiverStream<Result<PreviewScopeResponse, Status>>;

    async fn preview_scope(
        &self,
        request: Request<PreviewScopeRequest>,
    ) -> Result<Response<Self::PreviewScopeStream>, Status> {
        let PreviewScopeRequest { tenant_id, integration_id, group_ids } = request.into_inner();
        let (tenant, id) = ids(&tenant_id, &integration_id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let mut draft = saved(&mut tx, id).await?;
        draft.settings.scope = SyncScope { group_ids };
        let provider = self.directories.connect_draft(&mut tx, &draft, None).await;
        tx.rollback().await?;
        let provider = provider.map_err(|error| match error {
            ConnectError::Store(error) => error.into(),
            error => Status::failed_precondition(error.to_string()),
        })?;
        let preview = Preview::of(&self.db, &draft).await?;
        let (sender, answers) = mpsc::channel(4);
        tokio::spawn(preview.run(provider, sender));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn ensure_client_key(
        &self,
        request: Request<EnsureClientKeyRequest>,
    ) -> Result<Response<EnsureClientKeyResponse>, Status> {
        let EnsureClientKeyRequest { tenant_id, integration_id } = request.into_inner();
        let (tenant, id) = ids(&tenant_id, &integration_id)?;
        let jwks = self.client_keys.ensure(tenant, id).await.map_err(|error| not_made(tenant, id, error))?;
        Ok(Response::new(EnsureClientKeyResponse { jwks_json: jwks.to_string() }))
    }

    async fn rotate_client_key(
        &self,
        request: Request<RotateClientKeyRequest>,
    ) -> Result<Response<RotateClientKeyResponse>, Status> {
        let RotateClientKeyRequest { tenant_id, integration_id, emergency } = request.into_inner();
        let (tenant, id) = ids(&tenant_id, &integration_id)?;
        let begun = if emergency {
            self.client_keys.replace(tenant, id).await.map(|()| true)
        } else {
            self.client_keys.publish(tenant, id, "request").await
        };
        let begun = begun.map_err(|error| not_made(tenant, id, error))?;
        Ok(Response::new(RotateClientKeyResponse { begun }))
    }
}

fn not_made(tenant: TenantId, id: IntegrationId, error: KeyError) -> Status {
    match error {
        KeyError::NotPrepared => Status::unavailable("keys are being prepared; try again"),
        KeyError::Seal(SealError::Away { .. } | SealError::NotLoaded { .. }) => {
            Status::unavailable("the keys cannot be used now; try again")
        }
        KeyError::Changed => Status::unavailable("the keys were changed meanwhile; try again"),
        KeyError::Gone => Status::not_found("no such integration"),
        KeyError::Store(error) => error.into(),
        KeyError::Seal(_) | KeyError::Generate => {
            tracing::error!(%tenant, integration = %id, %error, "client key not made");
            Status::internal("internal error")
        }
    }
}

async fn saved(tx: &mut Tx, id: IntegrationId) -> Result<Integration, Status> {
    let integration = integration_store::integration(tx, id).await?;
    integration.ok_or_else(|| Status::not_found("no such integration"))
}

/// What a draft would be if it were saved, and its own secret. It is bound to version 0, which no saved secret has.
fn read_draft(
    tenant: TenantId,
    id: IntegrationId,
    draft: Draft,
) -> Result<(Integration, Option<Sealed>), Status> {
    let Draft { connection_json, settings_json, sealed_secret } = draft;
    let unreadable = |_| Status::invalid_argument("the draft cannot be read");
    let connection: Connection = serde_json::from_str(&connection_json).map_err(unreadable)?;
    let integration = Integration {
        tenant,
        id,
        name: String::new(),
        provider: connection.provider(),
        connection,
        settings: serde_json::from_str(&settings_json).map_err(unreadable)?,
        status: integration_store::Status::Disabled,
        directory_id: None,
        version: 0,
    };
    let secret = Sealed { version: 0, kid: String::new(), envelope: sealed_secret, unproven: false };
    Ok((integration, Some(secret).filter(|secret| !secret.envelope.is_empty())))
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
    let TestReport { mut capabilities, directory_id, directory_name, edition, warnings } = report;
    capabilities.sort_by_key(|test| test.capability);
    TestConnectionResponse {
        results: capabilities.into_iter().map(result).collect(),
        directory_id: directory_id.unwrap_or_default(),
        directory_name: directory_name.unwrap_or_default(),
        edition: edition.unwrap_or_default().to_owned(),
        warnings: warnings
            .into_iter()
            .map(|Warning { reason, message }| ConnectionWarning { reason: reason.to_owned(), message })
            .collect(),
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
