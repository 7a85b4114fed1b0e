//! `parapet integration`

use std::{
    io::{BufRead, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use super::{
    idempotency_key, integration_id,
    integration_keys::RotateKey,
    integration_scope::Preview,
    integration_update::Update,
    integrations, output, providers, removal,
    watch::Watch,
    words::{self, Action, Cloud, Rule, Status},
};
use crate::{cli::Global, client};

/// Connections to the customer's directories
#[derive(Debug, clap::Subcommand)]
pub enum Integration {
    /// Add a connection; it stays disabled until a test passes
    Add(Box<Add>),
    /// Change a connection: what is named changes, everything else stays
    Update(Box<Update>),
    /// Try every capability that is switched on; a passed test activates the connection and starts its first sync
    Test {
        /// Name or id
        integration: String,
    },
    /// What can be connected, and what each kind needs at the provider: permissions, roles, licences, steps
    Providers,
    /// Read what another scope would cover, and show what it would add and remove; changes nothing
    Preview(Preview),
    /// Let a connection work that a person disabled
    Enable {
        /// Name or id
        integration: String,
    },
    /// Stop new work of a connection
    Disable {
        /// Name or id
        integration: String,
        /// Why, for the audit log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Delete a connection and its secret, after telling what goes with it; its audit events and attempt budgets stay
    Delete {
        /// Name or id
        integration: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Replace the key with which Parapet comes to Okta: the next one is published, signs when Okta can know it (a day), and
    /// the old one is destroyed a day after that; `integration show` tells how far it is
    RotateKey(RotateKey),
    /// List the connections of the tenant
    List {
        /// Only of this kind of provider
        #[arg(long, value_enum)]
        provider: Option<words::Provider>,
        /// Only with this status
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Once, or again and again
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one connection
    Show {
        /// Name or id
        integration: String,
    },
}

/// Which provider, and how to reach it.
#[derive(Debug, clap::Args)]
pub struct Add {
    #[command(subcommand)]
    provider: Provider,
    /// Only test it; nothing is saved (not for Okta, whose application needs the saved connection's keys)
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Provider {
    /// Microsoft Entra ID. The client secret is read from a file or asked for, never from the command line
    Entra {
        #[command(flatten)]
        common: AddCommon,
        /// Directory: tenant GUID or a verified domain
        #[arg(long)]
        directory: String,
        /// Application (client) id
        #[arg(long)]
        client_id: String,
        /// Application id for the password check, when it is another one
        #[arg(long, default_value = "")]
        ropc_client_id: String,
        /// File with the client secret's value; standard input when absent
        #[arg(long)]
        secret_file: Option<PathBuf>,
        /// File with a certificate and its private key (PEM), instead of a client secret
        #[arg(long, conflicts_with = "secret_file")]
        certificate_file: Option<PathBuf>,
        /// National cloud
        #[arg(long, value_enum, default_value = "global")]
        cloud: Cloud,
    },
    /// Okta. Prints the JWKS URL that the Okta application needs
    Okta {
        #[command(flatten)]
        common: AddCommon,
        /// Host, for example acme.okta.com
        #[arg(long)]
        host: String,
        /// Client id of the API services application; may follow with `integration update`, since that application
        /// needs the JWKS URL first
        #[arg(long, default_value = "", hide_default_value = true)]
        client_id: String,
    },
}

#[derive(Debug, clap::Args)]
struct AddCommon {
    /// Name for people
    #[arg(long)]
    name: String,
    /// Validate new exposures by itself
    #[arg(long)]
    validate: bool,
    /// Contain accounts with a valid verdict by itself, with these actions
    #[arg(long, value_enum, value_delimiter = ',')]
    mitigate: Vec<Action>,
    /// Let analysts use these actions by hand
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["revoke-sessions", "disable-account"])]
    manual: Vec<Action>,
    /// Attempts per account in any 24 hours; above 3 see `parapet budget raise`
    #[arg(long, default_value_t = 2)]
    daily_max: i32,
    /// Rules of triage to switch off, so that an attempt decides; `parapet validation rules` tells what they are
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true)]
    rules_off: Vec<Rule>,
    /// Percent of the directory's quota of calls that each process takes at most
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(i32).range(1..=100))]
    quota_percent: i32,
    /// Do not make identities and identifiers from synced accounts
    #[arg(long)]
    no_identities: bool,
    /// Only the members of these groups (object ids): begin with a pilot group
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    group: Vec<String>,
}

impl AddCommon {
    fn settings(&self) -> api::IntegrationSettings {
        let switch = |action| {
            let automated = self.mitigate.contains(&action);
            Some(api::ActionSwitch { automated, manual: automated || self.manual.contains(&action) })
        };
        api::IntegrationSettings {
            identity_creation: !self.no_identities,
            validation: Some(api::ValidationSettings {
                automated: self.validate,
                manual: true,
                daily_max: self.daily_max,
                rules_off: self.rules_off.iter().map(|rule| rule.wire()).collect(),
                ..Default::default()
            }),
            mitigation: Some(api::MitigationSettings {
                revoke_sessions: switch(Action::RevokeSessions),
                disable_account: switch(Action::DisableAccount),
                mark_compromised: switch(Action::MarkCompromised),
            }),
            scope: Some(api::SyncScope { group_ids: self.group.clone() }),
            quota_percent: self.quota_percent,
        }
    }
}

impl Provider {
    fn request(self) -> anyhow::Result<api::CreateIntegrationRequest> {
        let (common, provider, config, credentials) = match self {
            Self::Entra {
                common,
                directory,
                client_id,
                ropc_client_id,
                secret_file,
                certificate_file,
                cloud,
            } => {
                let config =
                    api::EntraConfig { cloud: cloud.wire(), tenant: directory, client_id, ropc_client_id };
                let entra = match certificate_file {
                    Some(file) => certificate(&file)?,
                    None => {
                        api::EntraCredentials { client_secret: secret(secret_file)?, ..Default::default() }
                    }
                };
                let credentials = api::integration_credentials::Credentials::Entra(entra);
                (
                    common,
                    api::ProviderKind::EntraId,
                    api::integration::Config::Entra(config),
                    Some(credentials),
                )
            }
            Self::Okta { common, host, client_id } => {
                let config = api::OktaConfig { host, client_id };
                (common, api::ProviderKind::Okta, api::integration::Config::Okta(config), None)
            }
        };
        Ok(api::CreateIntegrationRequest {
            integration: Some(api::Integration {
                settings: Some(common.settings()),
                name: common.name,
                provider: provider.into(),
                config: Some(config),
                ..Default::default()
            }),
            credentials: credentials.map(|c| api::IntegrationCredentials { credentials: Some(c) }),
            idempotency_key: idempotency_key(),
        })
    }
}

/// Reads a certificate with its key.
pub(super) fn certificate(file: &Path) -> anyhow::Result<api::EntraCredentials> {
    let certificate_pem =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(api::EntraCredentials { certificate_pem, ..Default::default() })
}

/// Reads a client secret from a file, or from standard input.
pub(super) fn secret(file: Option<PathBuf>) -> anyhow::Result<String> {
    let text = if let Some(file) = file {
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?
    } else {
        let input = std::io::stdin();
        if input.is_terminal() {
            eprint!("client secret (the value, not its id; it is shown as you type): ");
        }
        let mut line = String::new();
        input.lock().read_line(&mut line)?;
        line
    };
    let text = text.trim().to_owned();
    if text.is_empty() {
        bail!("the client secret is empty; give it on standard input or with --secret-file");
    }
    Ok(text)
}

impl Integration {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = IntegrationServiceClient::new(api.clone());
        match self {
            Self::Add(add) if add.dry_run => {
                let api::CreateIntegrationRequest { integration, credentials, .. } =
                    add.provider.request()?;
                let request = api::TestIntegrationRequest { integration, credentials, ..Default::default() };
                tried(global, client.test_integration(request).await?.get_ref(), "nothing was saved")
            }
            Self::Add(add) => {
                let integration = client::create_integration(&mut client, add.provider.request()?).await?;
                let incomplete = matches!(
                    &integration.config,
                    Some(api::integration::Config::Okta(okta)) if okta.client_id.is_empty()
                );
                output::show(global, &output::json("Integration", &integration)?)?;
                if !global.json {
                    if !integration.jwks_url.is_empty() {
                        eprintln!(
                            "\nGive your Okta application this URL for its keys: {}",
                            integration.jwks_url
                        );
                    }
                    if incomplete {
                        eprintln!("Then: parapet integration update '{}' --client-id ID", integration.name);
                    }
                    eprintln!("\nnext: parapet integration test '{}'", integration.name);
                }
                Ok(())
            }
            Self::Update(update) if update.dry_run => {
                let tested = update.test(&api).await?;
                tried(global, &tested, "nothing was changed")
            }
            Self::Update(update) => print(global, Some(update.run(&api).await?)),
            Self::Providers => {
                let request = api::ListProvidersRequest {};
                providers::print(global, &client.list_providers(request).await?.into_inner().providers)
            }
            Self::Preview(preview) => preview.run(global, &api).await,
            Self::Test { integration } => {
                let id = integration_id(&api, &integration).await?;
                let request = api::TestIntegrationRequest { id, ..Default::default() };
                let tested = client.test_integration(request).await?.into_inner();
                let next = format!("follow the first sync with: parapet sync watch '{integration}'");
                tried(global, &tested, &next)
            }
            Self::Enable { integration } => {
                let id = integration_id(&api, &integration).await?;
                let done =
                    client.enable_integration(api::EnableIntegrationRequest { id }).await?.into_inner();
                print(global, done.integration)
            }
            Self::Disable { integration, reason } => {
                let id = integration_id(&api, &integration).await?;
                let done = client
                    .disable_integration(api::DisableIntegrationRequest { id, reason })
                    .await?
                    .into_inner();
                print(global, done.integration)
            }
            Self::Delete { integration, yes } => {
                let id = integration_id(&api, &integration).await?;
                let request = api::PrepareDeletionRequest { id: id.clone() };
                let api::PrepareDeletionResponse { integration: shown, confirmation, .. } =
                    client.prepare_deletion(request).await?.into_inner();
                if !yes {
                    asked(&shown.unwrap_or_default())?;
                }
                let request = api::DeleteIntegrationRequest { id, confirmation, ..Default::default() };
                client.delete_integration(request).await?;
                if !global.json {
                    println!("deleted {integration}; its audit events and attempt budgets stay");
                }
                Ok(())
            }
            Self::RotateKey(rotate) => rotate.run(global, &api).await,
            Self::List { provider, status, watch } => {
                let which = api::ListIntegrationsRequest {
                    provider: provider.map(words::Provider::wire).unwrap_or_default(),
                    status: status.map(Status::wire).unwrap_or_default(),
                    ..Default::default()
                };
                let columns = [
                    ("NAME", "name"),
                    ("PROVIDER", "provider"),
                    ("STATUS", "status"),
                    ("REASON", "status_reason"),
                    ("SINCE", "status_since"),
                    ("CONNECTION", "connection"),
                    ("ACCOUNTS", "counts.accounts"),
                    ("TRIED TODAY", "counts.attempts_today"),
                    ("DEFERRED", "counts.deferred"),
                    ("TO APPROVE", "counts.approvals"),
                    ("LAST SYNC", "sync_health.last_success_at"),
                    ("NEXT SYNC", "sync_health.next_due_at"),
                    ("WARNINGS", "warnings.*.reason"),
                    ("ID", "id"),
                ];
                watch
                    .each(global, async || {
                        let rows = output::rows("Integration", &integrations(&api, which.clone()).await?)?;
                        output::list(
                            global,
                            &columns,
                            &rows,
                            "no integrations; `parapet integration add` makes one",
                        )
                    })
                    .await
            }
            Self::Show { integration } => {
                let id = integration_id(&api, &integration).await?;
                let shown = client.get_integration(api::GetIntegrationRequest { id }).await?.into_inner();
                let integration = shown.integration.unwrap_or_default();
                let last = integration.last_sync.as_ref().map(api::SyncProgress::phase).unwrap_or_default();
                output::show(global, &output::json("Integration", &integration)?)?;
                removal::hint(global, &api, last, &integration.id).await;
                Ok(())
            }
        }
    }
}

/// Shows what a test found; one that did not pass is a failure.
fn tried(global: &Global, tested: &api::TestIntegrationResponse, next: &str) -> anyhow::Result<()> {
    let rows = output::rows("CapabilityHealth", &tested.results)?;
    let columns =
        [("CAPABILITY", "capability"), ("RESULT", "state"), ("REASON", "reason"), ("WHAT TO DO", "message")];
    output::list(global, &columns, &rows, "nothing was tested")?;
    if !global.json {
        if !tested.edition.is_empty() {
            eprintln!("answered by {}", tested.edition);
        }
        for warning in &tested.warnings {
            eprintln!("warning: {}: {}", warning.reason, warning.message);
        }
    }
    if !tested.passed {
        bail!("the connection test did not pass");
    }
    if !global.json {
        eprintln!("\npassed; {next}");
    }
    Ok(())
}

/// Tells what goes with a connection, and has its name typed.
fn asked(integration: &api::Integration) -> anyhow::Result<()> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("deleting asks for the name; where nobody can type it, give --yes");
    }
    let counts = integration.counts.unwrap_or_default();
    eprintln!(
        "{} is deleted with its credentials, {} accounts, {} identities and {} identifiers; audit events and attempt budgets stay",
        integration.name, counts.accounts, counts.identities, counts.identifiers
    );
    eprint!("type its name to delete it: ");
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    if line.trim() != integration.name {
        bail!("not deleted");
    }
    Ok(())
}

fn print(global: &Global, integration: Option<api::Integration>) -> anyhow::Result<()> {
    output::show(global, &output::json("Integration", &integration.unwrap_or_default())?)
}
