//! What the demo does, step by step, the way a user would.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::json;
use shared::wire::v1::{
    self as api, exposure_service_client::ExposureServiceClient,
    integration_service_client::IntegrationServiceClient,
};
use time::OffsetDateTime;
use tokio::process::Command;

use super::{
    Stage,
    directory::{self, Account, Control, Created},
    feeds::{self, Feeds},
};
use crate::{bootstrap::ids, cli::Global, client};

const ORGANIZATION: &str = "acme";
const SAMPLE: &str = include_str!("../../../../deploy/local/bootstrap.toml");
pub(super) const PAGE: i32 = 1000;

/// One tenant of the demo.
#[derive(Debug, Clone)]
pub struct Side {
    /// Name for people.
    pub name: &'static str,
    /// Tenant id.
    pub tenant: uuid::Uuid,
    /// The directory at the simulator.
    pub directory: Created,
}

/// A demo under way.
#[derive(Debug)]
pub struct Run {
    /// How to reach the stack.
    pub global: Global,
    /// The simulator's control port.
    pub control: Control,
    /// Both tenants.
    pub sides: Vec<Side>,
    /// When the run began.
    pub began: OffsetDateTime,
    /// Client secrets of the run: they must never be found anywhere.
    pub client_secrets: Vec<String>,
    /// Since when the clock of the report runs.
    pub stage: Stage,
    seed: u64,
}

/// What an import said about its records.
#[derive(Debug, Default, Clone, Deserialize, serde::Serialize)]
pub struct Imported {
    /// Records found in the file.
    pub records: u64,
    /// Stored.
    pub accepted: u64,
    /// Known already.
    pub duplicates: u64,
    /// Refused with a reason.
    pub rejected: u64,
}

/// Both directories' accounts, with their truth.
pub type Synced = Vec<(String, Vec<Account>)>;

/// What Parapet says at the end, per tenant.
#[derive(Debug)]
pub struct Told {
    /// The tenant.
    pub side: Side,
    /// Every exposure.
    pub exposures: Vec<api::Exposure>,
    /// Every mitigation.
    pub mitigations: Vec<api::Mitigation>,
}

/// Runs this program again, as a user would type it.
pub async fn parapet(global: &Global, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut command = Command::new(program);
    if let Some(folder) = &global.data_dir {
        command.arg("--data-dir").arg(folder);
    }
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot start this program again")?;
    ensure!(
        output.status.success(),
        "`parapet {}` failed: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("the output is not text")
}

impl Run {
    /// Starts the stack, creates the directories and the tenants.
    pub async fn start(global: &Global, stage: Stage, seed: u64) -> anyhow::Result<Self> {
        let began = OffsetDateTime::now_utc();
        stage.say("starting PostgreSQL, RabbitMQ, the simulator, the token issuer and the five services");
        let checks = ["--check-after-seconds", directory::CHECK_AFTER_SECONDS];
        parapet(global, &[&["up", "--detach", "--keep-spans"], checks.as_slice()].concat()).await?;
        let endpoints = client::Endpoints::load(global)?;
        let control = Control::new(endpoints.simulator_control.trim_start_matches("http://").parse()?)?;
        stage.say("the simulated directories: Entra ID with 5,000 accounts, Okta with 2,000");
        let secret = format!("demo~{}", hex::encode(rand::random::<[u8; 20]>()));
        let entra = control.put(&directory::entra(seed, began, &secret)?).await?;
        let okta = control.put(&directory::okta(seed, began)?).await?;
        stage.say("an organization with one tenant for each, through `parapet bootstrap`");
        let folder = global.data_dir.as_ref().context("the demo has a directory")?;
        let file = folder.join("bootstrap.toml");
        std::fs::write(&file, SAMPLE)?;
        parapet(global, &["--as", "operator", "bootstrap", &file.display().to_string()]).await?;
        let side = |name: &'static str, tenant, directory| Side {
            name,
            tenant: ids::tenant(ORGANIZATION, tenant),
            directory,
        };
        let sides = vec![side("Entra ID", "acme-entra", entra), side("Okta", "acme-okta", okta)];
        Ok(Self { global: global.clone(), control, sides, began, client_secrets: vec![secret], stage, seed })
    }

    /// Seconds since the start.
    pub fn elapsed_s(&self) -> f64 {
        self.stage.0.elapsed().as_secs_f64()
    }

    /// The stack as one caller in one tenant sees it.
    pub async fn api(&self, caller: &str, side: &Side) -> anyhow::Result<client::Api> {
        let mut global = self.global.clone();
        global.caller = Some(caller.to_owned());
        global.tenant = Some(side.tenant.to_string());
        client::connect(&global).await
    }

    /// Creates, tests and enables both integrations and waits for their first sync.
    pub async fn connect_and_sync(&self) -> anyhow::Result<Synced> {
        let mut runs = Vec::new();
        for side in &self.sides {
            self.stage.say(format_args!("{}: creating and testing the integration", side.name));
            let mut integrations = IntegrationServiceClient::new(self.api("admin", side).await?);
            let created = client::create_integration(&mut integrations, self.integration(side)).await?;
            if !created.jwks_url.is_empty() {
                self.register_okta_application(side, &created.jwks_url).await?;
            }
            let tested = integrations
                .test_integration(api::TestIntegrationRequest {
                    id: created.id.clone(),
                    ..Default::default()
                })
                .await?
                .into_inner();
            for result in tested.results.iter().filter(|r| r.state() != api::CapabilityState::Working) {
                eprintln!("        {:?}: {}", result.capability(), result.message);
            }
            ensure!(tested.passed, "the connection test of {} did not pass", side.name);
            runs.push((side, created.id, tested.sync_run_id));
        }
        for (side, integration, run) in runs {
            self.watch(side, integration, run).await?;
        }
        let mut synced = Vec::new();
        for side in &self.sides {
            synced.push((side.directory.id.clone(), self.control.accounts(&side.directory.id).await?));
        }
        Ok(synced)
    }

    fn integration(&self, side: &Side) -> api::CreateIntegrationRequest {
        let both = Some(api::ActionSwitch { automated: true, manual: true });
        let by_hand = Some(api::ActionSwitch { automated: false, manual: true });
        let okta = side.name == "Okta";
        let settings = api::IntegrationSettings {
            identity_creation: true,
            validation: Some(api::ValidationSettings {
                automated: true,
                manual: true,
                daily_max: 2,
                ..Default::default()
            }),
            mitigation: Some(api::MitigationSettings {
                revoke_sessions: both,
                disable_account: both,
                mark_compromised: if okta { None } else { by_hand },
            }),
            ..Default::default()
        };
        let (provider, config, credentials) = if okta {
            let config = api::OktaConfig {
                host: "fabrikam.okta.com".into(),
                client_id: directory::OKTA_CLIENT.into(),
            };
            (api::ProviderKind::Okta, api::integration::Config::Okta(config), None)
        } else {
            let config = api::EntraConfig {
                cloud: api::EntraCloud::Global.into(),
                tenant: directory::ENTRA_TENANT.into(),
                client_id: directory::ENTRA_CLIENT.into(),
                ropc_client_id: String::new(),
            };
            let client_secret = self.client_secrets.first().cloned().unwrap_or_default();
            let secret = api::integration_credentials::Credentials::Entra(api::EntraCredentials {
                client_secret,
                ..Default::default()
            });
            let credentials = api::IntegrationCredentials { credentials: Some(secret) };
            (api::ProviderKind::EntraId, api::integration::Config::Entra(config), Some(credentials))
        };
        api::CreateIntegrationRequest {
            integration: Some(api::Integration {
                name: side.name.to_owned(),
                provider: provider.into(),
                settings: Some(settings),
                config: Some(config),
                ..Default::default()
            }),
            credentials,
            idempotency_key: format!("demo-{}", side.tenant),
        }
    }

    /// What the customer's administrator does in the Okta console once the JWKS URL is known.
    ///
    /// An organization administrator may act on users. Who is an administrator takes more: a custom role with
    /// `okta.iam.read`, and its scope. Acting on administrators takes a super administrator, which we do not ask for.
    async fn register_okta_application(&self, side: &Side, jwks_url: &str) -> anyhow::Result<()> {
        let application = json!({
            "client_id": directory::OKTA_CLIENT,
            "jwks_uri": jwks_url,
            "scopes": ["okta.users.read", "okta.users.manage", "okta.logs.read", "okta.policies.read", "okta.roles.read"],
            "dpop": "nonce",
            "roles": ["ORG_ADMIN", "okta.iam.read"],
        });
        self.control.patch(&side.directory.id, &json!({"apps": [application]})).await
    }

    async fn watch(&self, side: &Side, integration_id: String, run_id: String) -> anyhow::Result<()> {
        let mut integrations = IntegrationServiceClient::new(self.api("admin", side).await?);
        let mut progress =
            integrations.watch_sync(api::WatchSyncRequest { integration_id, run_id }).await?.into_inner();
        let (mut last, mut said) = (api::SyncProgress::default(), Instant::now());
        while let Some(update) = progress.message().await? {
            last = update.progress.unwrap_or_default();
            if said.elapsed() > Duration::from_secs(2) {
                said = Instant::now();
                self.stage.say(format_args!("{}: {} accounts read", side.name, last.accounts_read));
            }
        }
        ensure!(
            last.phase() == api::SyncPhase::Done,
            "the sync of {} ended as {:?}: {}",
            side.name,
            last.phase(),
            last.message
        );
        self.stage.say(format_args!(
            "{}: synced {} accounts, {} identities, {} identifiers",
            side.name, last.accounts_read, last.identities_created, last.identifiers_created
        ));
        Ok(())
    }

    /// Writes the feed files. The accounts are synced by now, so what the feeds saw today is new to Parapet.
    pub fn make_feeds(&self, synced: &Synced) -> anyhow::Result<Feeds> {
        let folder = self.global.data_dir.as_ref().context("the demo has a directory")?.join("feeds");
        let populations: Vec<feeds::Population<'_>> =
            synced.iter().map(|(directory, accounts)| (directory.as_str(), accounts.as_slice())).collect();
        let feeds = feeds::generate(&folder, self.seed, OffsetDateTime::now_utc(), &populations)?;
        self.stage.say(format_args!(
            "wrote {} feed files with {} records; {} of their passwords really work",
            feeds.files.len(),
            feeds.records,
            feeds.expected.len()
        ));
        Ok(feeds)
    }

    /// Imports each file with `parapet feed import`, as a feed of the installation: it is matched against all tenants.
    pub async fn import(&self, feeds: &Feeds) -> anyhow::Result<BTreeMap<String, Imported>> {
        let mut all = BTreeMap::new();
        for file in &feeds.files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.stage.say(format_args!("importing {name}"));
            let path = file.display().to_string();
            let said = parapet(
                &self.global,
                &["--json", "--as", "installation-feeds", "feed", "import", "--installation", &path],
            )
            .await?;
            all.insert(name, imported(&said)?);
        }
        Ok(all)
    }

    /// Waits until every exposure is decided, or waits for a slot of its account's budget that is far away.
    pub async fn wait_for_verdicts(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_mins(6);
        let (mut quiet, mut before, mut said) = (0, 0, Instant::now());
        while quiet < 3 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (mut total, mut open) = (0, 0);
            for side in &self.sides {
                let exposures = self.exposures(side).await?;
                total += exposures.len();
                open += exposures.iter().filter(|e| is_open(e)).count();
            }
            quiet = if open == 0 && total == before && total > 0 { quiet + 1 } else { 0 };
            before = total;
            if said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                self.stage.say(format_args!("{total} exposures so far, {open} still open"));
            }
            if Instant::now() > deadline {
                self.stage.say(format_args!("{open} exposures are still open; going on without them"));
                break;
            }
        }
        Ok(())
    }

    /// Everything Parapet says.
    pub async fn collect(&self) -> anyhow::Result<Vec<Told>> {
        let mut told = Vec::new();
        for side in &self.sides {
            told.push(Told {
                side: side.clone(),
                exposures: self.exposures(side).await?,
                mitigations: self.mitigations(side).await?,
            });
        }
        Ok(told)
    }

    pub(super) async fn exposures(&self, side: &Side) -> anyhow::Result<Vec<api::Exposure>> {
        let mut client = ExposureServiceClient::new(self.api("analyst", side).await?)
            .max_decoding_message_size(16 * 1024 * 1024);
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = api::ListExposuresRequest { page_size: PAGE, page_token, ..Default::default() };
            let page = client.list_exposures(request).await?.into_inner();
            all.extend(page.exposures);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }
}

fn imported(said: &str) -> anyhow::Result<Imported> {
    serde_json::from_str(said.trim()).with_context(|| "`parapet feed import --json` did not print a summary")
}

/// Neither decided nor waiting for a far-away slot.
fn is_open(exposure: &api::Exposure) -> bool {
    let Some(verdict) = &exposure.verdict else { return true };
    match verdict.kind() {
        api::VerdictKind::Unspecified | api::VerdictKind::Pending => true,
        api::VerdictKind::Deferred => {
            let soon = OffsetDateTime::now_utc().unix_timestamp() + 45;
            !matches!(verdict.reason.as_str(), "spacing" | "window" | "in_flight" | "reserve")
                || verdict.deferred_until.is_none_or(|until| until.seconds < soon)
        }
        _ => false,
    }
}
