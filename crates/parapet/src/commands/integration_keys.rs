//! `parapet integration rotate-key`

use std::time::Duration;

use anyhow::bail;
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};
use tokio::time::Instant;

use super::{integration_id, output};
use crate::{cli::Global, client::Api};

/// What to rotate.
#[derive(Debug, clap::Args)]
pub struct RotateKey {
    /// Name or id
    integration: String,
    /// Somebody else may know the keys: destroy them and sign with a new one at once. Until Okta has fetched it, nothing is
    /// read or done at Okta
    #[arg(long)]
    emergency: bool,
    /// Wait at most so many seconds until the rotation has ended (a planned one takes two days)
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
}

impl RotateKey {
    pub(super) async fn run(self, global: &Global, api: &Api) -> anyhow::Result<()> {
        let mut client = IntegrationServiceClient::new(api.clone());
        let id = integration_id(api, &self.integration).await?;
        let request = api::RotateClientKeyRequest { id: id.clone(), emergency: self.emergency };
        let answer = client.rotate_client_key(request).await?.into_inner();
        if !answer.begun && !global.json {
            eprintln!("a rotation is under way already; it goes on");
        }
        let mut keys = keys_of(answer.integration);
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        while self.wait > 0 && keys.step() != api::ClientKeyStep::Idle {
            if Instant::now() > deadline {
                bail!(
                    "the rotation has not ended yet; see `parapet integration show '{}'`",
                    self.integration
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let request = api::GetIntegrationRequest { id: id.clone() };
            keys = keys_of(client.get_integration(request).await?.into_inner().integration);
        }
        let mut told = output::json("ClientKeys", &keys)?;
        if let Some(fields) = told.as_object_mut() {
            fields.insert("begun".into(), answer.begun.into());
        }
        output::show(global, &told)
    }
}

fn keys_of(integration: Option<api::Integration>) -> api::ClientKeys {
    integration.and_then(|integration| integration.client_keys).unwrap_or_default()
}
