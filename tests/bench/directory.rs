//! A simulated directory of each provider, and the tenant that reads it.

use std::{fmt, time::Duration};

use anyhow::{Context, ensure};
use parapet::{
    client,
    demo::directory::{Account, rfc3339},
};
use serde_json::{Value, json};
use shared::{
    provider::okta::keys::{self, ClientKey},
    wire::v1::{self as api, integration_service_client::IntegrationServiceClient},
};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::stage::{Stage, tenant as tenant_of};

/// Our application in every Entra tenant.
pub const ENTRA_CLIENT: &str = "b7d5c9f4-2a61-4b0e-8f7c-93c1a4a7d512";
/// Its secret.
pub const ENTRA_SECRET: &str = "bench~7mQ2c9XwT4pLr8Zk";
const OKTA_CLIENT: &str = "0oa1parapetBench01x7";
/// The bare program's service app in every Okta org.
pub const OKTA_BARE_CLIENT: &str = "0oa1bareBench0001x57";

/// What a password grant says of our application in Entra ID.
pub fn entra_application() -> [(&'static str, &'static str); 2] {
    [("client_id", ENTRA_CLIENT), ("client_secret", ENTRA_SECRET)]
}

/// A tenant whose directory is synced, with every account's truth.
#[derive(Debug)]
pub struct Tenant {
    /// Tenant id.
    pub id: Uuid,
    /// Its directory.
    pub directory: String,
    /// The accounts.
    pub accounts: Vec<Account>,
}

/// A kind of provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Microsoft Entra ID; pages of 999.
    Entra,
    /// Okta; pages of 200.
    Okta,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Entra, Self::Okta];

    /// Name of a directory, its tenant and its org.
    pub fn directory(self, round: u32, size: &str) -> String {
        let kind = if self == Self::Entra { "entra" } else { "okta" };
        format!("{kind}-{size}-{round}")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Entra { "Entra ID" } else { "Okta" })
    }
}

/// A directory at the simulator and the integration that reads it.
#[derive(Debug)]
pub struct Directory {
    /// Kind of provider.
    pub kind: Kind,
    /// Name of the directory and its tenant.
    pub name: String,
    /// The tenant.
    pub tenant: Uuid,
    /// Immutable id of the directory.
    pub id: String,
    /// How many accounts it holds.
    pub accounts: u32,
    /// The key of the bare program's service app.
    pub key: ClientKey,
    integration: String,
}

/// How a sync run ended.
#[derive(Debug)]
pub struct Run {
    /// How long it took.
    pub took: Duration,
    /// Accounts it read.
    pub seen: usize,
    /// Accounts it changed.
    pub changed: usize,
}

impl Directory {
    /// Makes a directory of generated accounts and an integration that is not tested yet.
    pub async fn create(stage: &Stage, kind: Kind, name: String, accounts: u32) -> anyhow::Result<Self> {
        let id = match kind {
            Kind::Entra => Uuid::new_v4().to_string(),
            Kind::Okta => format!("00o{}", &Uuid::new_v4().simple().to_string()[..17]),
        };
        let key = keys::generate()?;
        let tenant = tenant_of(&name);
        let mut directory = Self { kind, name, tenant, id, accounts, key, integration: String::new() };
        stage.control.put(&directory.specification()?).await?;
        let mut integrations = IntegrationServiceClient::new(stage.api(tenant).await?);
        let created = client::create_integration(&mut integrations, directory.integration()).await?;
        if kind == Kind::Okta {
            let apps = [okta_app(OKTA_CLIENT, "jwks_uri", &json!(created.jwks_url)), directory.bare_app()];
            stage.control.patch(&directory.id, &json!({ "apps": apps })).await?;
        }
        directory.integration = created.id;
        Ok(directory)
    }

    /// Tests the integration, which starts its first sync, and waits for its end.
    pub async fn first_sync(&self, stage: &Stage) -> anyhow::Result<Run> {
        let mut integrations = IntegrationServiceClient::new(stage.api(self.tenant).await?);
        let request = api::TestIntegrationRequest { id: self.integration.clone(), ..Default::default() };
        let tested = integrations.test_integration(request).await?.into_inner();
        ensure!(tested.passed, "the connection test did not pass: {:?}", tested.results);
        self.ended(stage, &tested.sync_run_id).await
    }

    /// Asks for a run and waits for its end.
    pub async fn sync(&self, stage: &Stage, full: bool) -> anyhow::Result<Run> {
        let mut integrations = IntegrationServiceClient::new(stage.api(self.tenant).await?);
        let request = api::StartSyncRequest {
            integration_id: self.integration.clone(),
            full,
            idempotency_key: Uuid::new_v4().to_string(),
        };
        let run = integrations.start_sync(request).await?.into_inner().run_id;
        self.ended(stage, &run).await
    }

    async fn ended(&self, stage: &Stage, run: &str) -> anyhow::Result<Run> {
        let mut db = stage.database().await?;
        let ended = "SELECT count(*) FROM sync.runs WHERE run_id = $1 AND state <> 'running'";
        crate::stage::until(&mut db, ended, Some(run.parse()?), 1).await?;
        let row = sqlx::query(
            "SELECT state, message, extract(epoch FROM finished_at - started_at)::float8 AS seconds, accounts_seen,
                    accounts_changed
             FROM sync.runs WHERE run_id = $1::uuid",
        )
        .bind(run)
        .fetch_one(&mut db)
        .await?;
        let (state, message): (String, String) = (row.try_get("state")?, row.try_get("message")?);
        ensure!(state == "finished", "the sync ended as {state}: {message}");
        Ok(Run {
            took: Duration::from_secs_f64(row.try_get("seconds")?),
            seen: usize::try_from(row.try_get::<i64, _>("accounts_seen")?)?,
            changed: usize::try_from(row.try_get::<i64, _>("accounts_changed")?)?,
        })
    }

    /// Changes the name and an address of so many accounts, those from the given one on.
    pub async fn change(&self, stage: &Stage, from: u64, count: usize) -> anyhow::Result<()> {
        let (mut position, mut left) = (Some(from), count);
        while left > 0 {
            let (accounts, next) = stage
                .control
                .page(&self.id, position.context("the directory has too few accounts to change")?)
                .await?;
            for account in accounts.iter().filter(|a| a.status == "active").take(left) {
                let patch = json!({
                    "display_name": format!("{} (changed)", account.login),
                    "other_emails": [format!("changed.{}", account.login)],
                });
                stage.control.change(&self.id, &account.id, &patch).await?;
                left -= 1;
            }
            position = next;
        }
        Ok(())
    }

    fn specification(&self) -> anyhow::Result<Value> {
        let provider = match self.kind {
            Kind::Entra => json!({"entra_id": {
                "tenant_id": self.id,
                "domains": [{"name": format!("{}.example", self.name)}],
                "apps": [{"client_id": ENTRA_CLIENT, "secrets": [{"value": ENTRA_SECRET}],
                    "permissions": ["User.Read.All", "Directory.Read.All", "User.EnableDisableAccount.All"],
                    "roles": ["Privileged Authentication Administrator"]}],
                "licences": ["P1"],
            }}),
            // Without the limits of a real org: they, and not the programs, would be measured.
            Kind::Okta => json!({"okta": {
                "org_id": self.id,
                "subdomain": self.name,
                "mail_domain": format!("{}.example", self.name),
                "buckets": null,
                "apps": [self.bare_app()],
            }}),
        };
        let seed =
            self.name.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        // A directory that has been quiet for a day.
        let as_of = rfc3339(OffsetDateTime::now_utc() - time::Duration::days(1))?;
        Ok(json!({
            "name": self.name,
            "provider": provider,
            "generated": {"seed": seed, "count": self.accounts, "as_of": as_of},
        }))
    }

    fn bare_app(&self) -> Value {
        okta_app(OKTA_BARE_CLIENT, "jwks", &keys::jwks(std::slice::from_ref(&self.key.public)))
    }

    fn integration(&self) -> api::CreateIntegrationRequest {
        let (provider, config, secret) = match self.kind {
            Kind::Entra => (
                api::ProviderKind::EntraId,
                api::integration::Config::Entra(api::EntraConfig {
                    cloud: api::EntraCloud::Global.into(),
                    tenant: self.id.clone(),
                    client_id: ENTRA_CLIENT.into(),
                    ropc_client_id: String::new(),
                }),
                Some(api::EntraCredentials { client_secret: ENTRA_SECRET.into(), ..Default::default() }),
            ),
            Kind::Okta => (
                api::ProviderKind::Okta,
                api::integration::Config::Okta(api::OktaConfig {
                    host: format!("{}.okta.com", self.name),
                    client_id: OKTA_CLIENT.into(),
                }),
                None,
            ),
        };
        let settings = api::IntegrationSettings {
            identity_creation: true,
            validation: Some(api::ValidationSettings { manual: true, daily_max: 2, ..Default::default() }),
            mitigation: Some(api::MitigationSettings {
                disable_account: Some(api::ActionSwitch {
                    manual: self.kind == Kind::Entra,
                    automated: false,
                }),
                ..Default::default()
            }),
            // The program it is measured beside drains the directory without any limit.
            quota_percent: 100,
            ..Default::default()
        };
        let credentials = secret.map(|secret| api::IntegrationCredentials {
            credentials: Some(api::integration_credentials::Credentials::Entra(secret)),
        });
        api::CreateIntegrationRequest {
            integration: Some(api::Integration {
                name: "bench".into(),
                provider: provider.into(),
                settings: Some(settings),
                config: Some(config),
                ..Default::default()
            }),
            credentials,
            idempotency_key: format!("bench-{}", self.tenant),
        }
    }
}

/// A service app without proofs of possession: the bare program and Parapet pay alike for a page.
fn okta_app(client: &str, key: &str, of: &Value) -> Value {
    json!({"client_id": client, key: of, "dpop": "off", "roles": ["SUPER_ADMIN"],
        "scopes": ["okta.users.read", "okta.policies.read", "okta.roles.read"]})
}
