//! How the commands reach the public API, and how they tell what it refused.

mod failure;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use shared::wire::v1::{
    CreateIntegrationRequest, Integration, integration_service_client::IntegrationServiceClient,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use uuid::Uuid;

pub use failure::Failure;

use crate::cli::Global;
use crate::{bootstrap, login};

/// A channel to the public API that carries the caller's token and tenant. Every generated client takes it.
pub type Api = InterceptedService<Channel, Credentials>;

/// Where the local stack answers. The supervisor writes it, the commands read it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Endpoints {
    /// The public gRPC API.
    pub api: String,
    /// The authority that vouches for it.
    pub api_ca: Option<PathBuf>,
    /// The token issuer.
    pub issuer: String,
    /// The simulator's HTTPS port on 127.0.0.1.
    pub simulator: String,
    /// The simulator's control port.
    pub simulator_control: String,
}

impl Endpoints {
    /// Those of the local stack.
    pub fn load(global: &Global) -> anyhow::Result<Self> {
        let file = global.data()?.endpoints();
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "no local stack in {}; start one with `parapet up`, or name an installation with --api",
                file.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))
    }
}

/// What goes with every call.
#[derive(Debug, Clone)]
pub struct Credentials {
    authorization: MetadataValue<Ascii>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Credentials {
    /// A caller's token and, when it has several, the tenant it means.
    pub fn new(token: &str, tenant: Option<Uuid>) -> anyhow::Result<Self> {
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().context("the access token has characters that no token has")?;
        authorization.set_sensitive(true);
        let tenant = tenant.map(|tenant| tenant.to_string().parse()).transpose()?;
        Ok(Self { authorization, tenant })
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.authorization.clone());
        if let Some(tenant) = &self.tenant {
            metadata.insert("x-parapet-tenant", tenant.clone());
        }
        Ok(request)
    }
}

/// Connects to the public API as the caller that is logged in.
pub async fn connect(global: &Global) -> anyhow::Result<Api> {
    let channel = channel(global).await?;
    let token = login::token(global).await?;
    let tenant = match &global.tenant {
        Some(named) => Some(tenant_id(global, named)?),
        None => None,
    };
    Ok(InterceptedService::new(channel, Credentials::new(&token, tenant)?))
}

/// How long a new tenant's sealing keys may be in the making.
const KEYS_WITHIN: Duration = Duration::from_secs(30);

/// Creates an integration; right after its tenant the keys that seal its secret may still be in the making. The
/// idempotency key makes the repetition harmless.
pub async fn create_integration(
    integrations: &mut IntegrationServiceClient<Api>,
    request: CreateIntegrationRequest,
) -> anyhow::Result<Integration> {
    let deadline = Instant::now() + KEYS_WITHIN;
    loop {
        match integrations.create_integration(request.clone()).await {
            Ok(created) => return created.into_inner().integration.context("no integration in the answer"),
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Connects to the public API without saying who calls.
pub async fn channel(global: &Global) -> anyhow::Result<Channel> {
    let (url, ca) = if let Some(url) = &global.api {
        (url.clone(), global.api_ca.clone())
    } else {
        let local = Endpoints::load(global)?;
        (local.api, global.api_ca.clone().or(local.api_ca))
    };
    let mut endpoint = Endpoint::from_shared(url.clone())
        .with_context(|| format!("{url} is not a URL"))?
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true);
    if url.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        tls = match ca {
            Some(file) => {
                let pem = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => bail!("name the authorities that vouch for {url} with --api-ca FILE"),
        };
        endpoint = endpoint.tls_config(tls)?;
    }
    endpoint.connect().await.with_context(|| format!("cannot reach the integration-api at {url}"))
}

/// A tenant is named by its id, or by a name that `parapet bootstrap` has used from here.
fn tenant_id(global: &Global, named: &str) -> anyhow::Result<Uuid> {
    if let Ok(id) = named.parse() {
        return Ok(id);
    }
    let known = bootstrap::tenant_names(&global.data()?);
    known.get(named).copied().with_context(|| {
        let all: Vec<&str> = known.keys().map(String::as_str).collect();
        format!("no tenant called {named} is known here ({}); give its id", all.join(", "))
    })
}
