//! `parapet integration update`: what is named changes, everything else stays.

use std::path::PathBuf;

use anyhow::{Context, bail};
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use super::{
    integration::{certificate, secret},
    integration_id,
    integration_scope::Scope,
    words::{Action, Rule},
};
use crate::client::Api;

/// What to change; what is not given stays.
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Name or id
    integration: String,
    /// New name for people
    #[arg(long)]
    name: Option<String>,
    /// Application (client) id. Another one has to pass a test again
    #[arg(long)]
    client_id: Option<String>,
    /// File with a new client secret's value, `-` for standard input (Entra ID). It has to pass a test again
    #[arg(long)]
    secret_file: Option<PathBuf>,
    /// File with a new certificate and its private key (Entra ID). It has to pass a test again
    #[arg(long, conflicts_with = "secret_file")]
    certificate_file: Option<PathBuf>,
    /// Validate new exposures by itself
    #[arg(long)]
    validate: Option<bool>,
    /// Contain accounts with a valid verdict by itself, with exactly these actions
    #[arg(long, value_enum, value_delimiter = ',')]
    mitigate: Vec<Action>,
    /// Contain nothing by itself
    #[arg(long, conflicts_with = "mitigate")]
    no_mitigate: bool,
    /// Attempts per account in any 24 hours; above 3 see `parapet budget raise`
    #[arg(long)]
    daily_max: Option<i32>,
    /// Switch off exactly these rules of triage, so that an attempt decides; `parapet validation rules` tells what they are
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    rules_off: Vec<Rule>,
    /// Switch all rules of triage on
    #[arg(long, conflicts_with = "rules_off")]
    all_rules: bool,
    /// Percent of the directory's quota of calls that each process takes at most
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100))]
    quota_percent: Option<i32>,
    /// Make identities and identifiers from synced accounts
    #[arg(long)]
    identities: Option<bool>,
    #[command(flatten)]
    scope: Scope,
    /// Only test the change; nothing is stored and nothing stops working
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Update {
    /// Reads the integration, changes what was named and sends that; fails when somebody else changed it meanwhile.
    pub async fn run(self, api: &Api) -> anyhow::Result<api::Integration> {
        let mut client = IntegrationServiceClient::new(api.clone());
        let id = integration_id(api, &self.integration).await?;
        let found = client.get_integration(api::GetIntegrationRequest { id }).await?.into_inner();
        let request = self.request(found.integration.context("no integration in the answer")?)?;
        let updated = client.update_integration(request).await?.into_inner();
        updated.integration.context("no integration in the answer")
    }

    /// Tests the change without making it.
    pub async fn test(self, api: &Api) -> anyhow::Result<api::TestIntegrationResponse> {
        let mut client = IntegrationServiceClient::new(api.clone());
        let id = integration_id(api, &self.integration).await?;
        let found = client.get_integration(api::GetIntegrationRequest { id: id.clone() }).await?.into_inner();
        let api::UpdateIntegrationRequest { integration, update_mask, credentials } =
            self.request(found.integration.context("no integration in the answer")?)?;
        let request = api::TestIntegrationRequest { id, integration, update_mask, credentials };
        Ok(client.test_integration(request).await?.into_inner())
    }

    fn request(self, mut to: api::Integration) -> anyhow::Result<api::UpdateIntegrationRequest> {
        let mut paths = Vec::new();
        if let Some(name) = self.name {
            to.name = name;
            paths.push("name");
        }
        if let Some(client_id) = self.client_id {
            match &mut to.config {
                Some(api::integration::Config::Entra(entra)) => {
                    entra.client_id = client_id;
                    paths.push("entra.client_id");
                }
                Some(api::integration::Config::Okta(okta)) => {
                    okta.client_id = client_id;
                    paths.push("okta.client_id");
                }
                None => bail!("this version does not know the integration's kind of provider"),
            }
        }
        let mut credentials = None;
        let entra = match (self.secret_file, self.certificate_file) {
            (Some(file), _) => {
                let client_secret = secret(Some(file).filter(|file| file.as_os_str() != "-"))?;
                Some(api::EntraCredentials { client_secret, ..Default::default() })
            }
            (None, Some(file)) => Some(certificate(&file)?),
            (None, None) => None,
        };
        if let Some(entra) = entra {
            let entra = api::integration_credentials::Credentials::Entra(entra);
            credentials = Some(api::IntegrationCredentials { credentials: Some(entra) });
            paths.push("credentials");
        }
        let settings = to.settings.get_or_insert_default();
        if let Some(identities) = self.identities {
            settings.identity_creation = identities;
            paths.push("settings.identity_creation");
        }
        if let Some(percent) = self.quota_percent {
            settings.quota_percent = percent;
            paths.push("settings.quota_percent");
        }
        if let Some(scope) = self.scope.named() {
            settings.scope = Some(scope);
            paths.push("settings.scope");
        }
        let validation = settings.validation.get_or_insert_default();
        if let Some(automated) = self.validate {
            validation.automated = automated;
            paths.push("settings.validation.automated");
        }
        if let Some(daily_max) = self.daily_max {
            validation.daily_max = daily_max;
            paths.push("settings.validation.daily_max");
        }
        if self.all_rules || !self.rules_off.is_empty() {
            validation.rules_off = self.rules_off.iter().map(|rule| rule.wire()).collect();
            paths.push("settings.validation.rules_off");
        }
        if self.no_mitigate || !self.mitigate.is_empty() {
            let mitigation = settings.mitigation.get_or_insert_default();
            for (action, switch) in [
                (Action::RevokeSessions, &mut mitigation.revoke_sessions),
                (Action::DisableAccount, &mut mitigation.disable_account),
                (Action::MarkCompromised, &mut mitigation.mark_compromised),
            ] {
                let automated = self.mitigate.contains(&action);
                let switch = switch.get_or_insert_default();
                // What runs by itself can be asked for by hand as well; switching off leaves that as it was.
                *switch = api::ActionSwitch { automated, manual: automated || switch.manual };
            }
            paths.push("settings.mitigation");
        }
        if paths.is_empty() {
            bail!("nothing was named that should change; see `parapet integration update --help`");
        }
        Ok(api::UpdateIntegrationRequest {
            integration: Some(to),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.into_iter().map(str::to_owned).collect(),
            }),
            credentials,
        })
    }
}
