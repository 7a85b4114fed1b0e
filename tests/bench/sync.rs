//! Identities synced per second, beside the same pages drained by a bare client and beside `COPY` of the same rows.

use std::time::{Duration, Instant};

use anyhow::ensure;
use parapet::{
    client,
    demo::directory::{Account, rfc3339},
};
use serde::Deserialize;
use serde_json::json;
use shared::{
    provider::entra::USER_PROPERTIES,
    wire::v1::{self as api, integration_service_client::IntegrationServiceClient},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    report::Report,
    stage::{Stage, rate, tenant as tenant_of, until},
};

const CLIENT: &str = "b7d5c9f4-2a61-4b0e-8f7c-93c1a4a7d512";
const SECRET: &str = "bench~7mQ2c9XwT4pLr8Zk";

/// A tenant whose directory is synced.
#[derive(Debug)]
pub struct Tenant {
    /// Tenant id.
    pub id: Uuid,
    /// Its directory, with every account's truth.
    pub directory: String,
    /// The accounts.
    pub accounts: Vec<Account>,
}

impl Tenant {
    /// What a password grant for this directory says of the application.
    pub fn application() -> [(&'static str, &'static str); 2] {
        [("client_id", CLIENT), ("client_secret", SECRET)]
    }
}

/// Makes a directory, syncs it, then drains and copies the same.
pub async fn round(stage: &Stage, report: &mut Report, round: u32, accounts: u32) -> anyhow::Result<Tenant> {
    let (tenant, directory) = (tenant_of(round), Uuid::new_v4().to_string());
    stage.control.put(&specification(&directory, round, accounts)?).await?;
    let identities = count(accounts);

    let run = connect(stage, tenant, &directory).await?;
    let mut db = stage.database().await?;
    let ended = "SELECT count(*) FROM sync.runs WHERE tenant_id = $1 AND state <> 'running'";
    until(&mut db, ended, Some(tenant), 1).await?;
    let (state, message, seconds, created): (String, String, f64, i64) = sqlx::query_as(
        "SELECT state, message, extract(epoch FROM finished_at - started_at)::float8, identities_created
         FROM sync.runs WHERE tenant_id = $1 AND run_id = $2::uuid",
    )
    .bind(tenant)
    .bind(&run)
    .fetch_one(&mut db)
    .await?;
    ensure!(state == "finished", "the sync ended as {state}: {message}");
    ensure!(
        created >= i64::from(accounts) * 9 / 10,
        "only {created} identities were made of {accounts} accounts"
    );
    let ours = rate(usize::try_from(created)?, Duration::from_secs_f64(seconds));

    let began = Instant::now();
    let drained = drain(stage, &directory).await?;
    ensure!(drained == identities, "the bare client drained {drained} of {identities}");
    report.add(
        "identities synced, beside the same pages drained",
        "1/s",
        ours,
        rate(drained, began.elapsed()),
    );

    let (copied, took) = copy(stage, tenant).await?;
    report.add("identities synced, beside COPY of the same rows", "1/s", ours, rate(copied, took));

    let accounts = stage.control.accounts(&directory).await?;
    Ok(Tenant { id: tenant, directory, accounts })
}

fn count(accounts: u32) -> usize {
    usize::try_from(accounts).unwrap_or(usize::MAX)
}

fn specification(directory: &str, round: u32, accounts: u32) -> anyhow::Result<serde_json::Value> {
    Ok(json!({
        "name": format!("round-{round}"),
        "provider": {"entra_id": {
            "tenant_id": directory,
            "domains": [{"name": format!("round-{round}.example")}],
            "apps": [{"client_id": CLIENT, "secrets": [{"value": SECRET}],
                "permissions": ["User.Read.All", "Directory.Read.All"]}],
            "licences": ["P1"],
        }},
        "generated": {"seed": round, "count": accounts, "as_of": rfc3339(OffsetDateTime::now_utc())?},
    }))
}

/// Creates and tests the integration, which starts its first sync; returns the run.
async fn connect(stage: &Stage, tenant: Uuid, directory: &str) -> anyhow::Result<String> {
    let mut integrations = IntegrationServiceClient::new(stage.api(tenant).await?);
    let created = create(&mut integrations, tenant, directory).await?;
    let tested = integrations
        .test_integration(api::TestIntegrationRequest { id: created.id, ..Default::default() })
        .await?
        .into_inner();
    ensure!(tested.passed, "the connection test did not pass: {:?}", tested.results);
    Ok(tested.sync_run_id)
}

async fn create(
    integrations: &mut IntegrationServiceClient<client::Api>,
    tenant: Uuid,
    directory: &str,
) -> anyhow::Result<api::Integration> {
    let config = api::EntraConfig {
        cloud: api::EntraCloud::Global.into(),
        tenant: directory.to_owned(),
        client_id: CLIENT.into(),
        ropc_client_id: String::new(),
    };
    let settings = api::IntegrationSettings {
        identity_creation: true,
        validation: Some(api::ValidationSettings { manual: true, daily_max: 2, ..Default::default() }),
        // The limit it is measured against drains the directory without any.
        quota_percent: 100,
        ..Default::default()
    };
    let secret = api::EntraCredentials { client_secret: SECRET.into(), ..Default::default() };
    let request = api::CreateIntegrationRequest {
        integration: Some(api::Integration {
            name: "bench".into(),
            provider: api::ProviderKind::EntraId.into(),
            settings: Some(settings),
            config: Some(api::integration::Config::Entra(config)),
            ..Default::default()
        }),
        credentials: Some(api::IntegrationCredentials {
            credentials: Some(api::integration_credentials::Credentials::Entra(secret)),
        }),
        idempotency_key: format!("bench-{tenant}"),
    };
    client::create_integration(integrations, request).await
}

/// The least that reads every account: token, first page, next links.
async fn drain(stage: &Stage, directory: &str) -> anyhow::Result<usize> {
    #[derive(Deserialize)]
    struct Token {
        access_token: String,
    }
    #[derive(Deserialize)]
    struct Page {
        value: Vec<serde_json::Value>,
        #[serde(rename = "@odata.nextLink")]
        next: Option<String>,
    }
    let grant = [
        ("grant_type", "client_credentials"),
        ("scope", "https://graph.microsoft.com/.default"),
        ("client_id", CLIENT),
        ("client_secret", SECRET),
    ];
    let url = format!("https://login.microsoftonline.com/{directory}/oauth2/v2.0/token");
    let token: Token = stage.http.post(url).form(&grant).send().await?.error_for_status()?.json().await?;
    let mut next = Some(format!("https://graph.microsoft.com/v1.0/users?$select={USER_PROPERTIES}&$top=999"));
    let mut drained = 0;
    while let Some(url) = next {
        let answer = stage.http.get(url).bearer_auth(&token.access_token).send().await?;
        let page: Page = answer.error_for_status()?.json().await?;
        drained += page.value.len();
        next = page.next;
    }
    Ok(drained)
}

/// The least that stores the same rows with the same indexes.
async fn copy(stage: &Stage, tenant: Uuid) -> anyhow::Result<(usize, Duration)> {
    const TABLES: [&str; 3] = ["accounts", "identities", "identifiers"];
    let mut db = stage.database().await?;
    let mut rows = Vec::new();
    for table in TABLES {
        let statement = format!(
            "CREATE SCHEMA IF NOT EXISTS bench;
             CREATE TABLE IF NOT EXISTS bench.{table} (LIKE sync.{table} INCLUDING ALL);
             TRUNCATE bench.{table};"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut db).await?;
        let query = format!(
            "COPY (SELECT * FROM sync.{table} WHERE tenant_id = '{tenant}') TO STDOUT (FORMAT binary)"
        );
        let mut out = db.copy_out_raw(&query).await?;
        let mut bytes = Vec::new();
        while let Some(part) = futures::StreamExt::next(&mut out).await {
            bytes.extend_from_slice(&part?);
        }
        drop(out);
        rows.push((table, bytes));
    }
    let (began, mut copied) = (Instant::now(), 0);
    for (table, bytes) in rows {
        let mut copy = db.copy_in_raw(&format!("COPY bench.{table} FROM STDIN (FORMAT binary)")).await?;
        copy.send(bytes).await?;
        let count = copy.finish().await?;
        if table == "identities" {
            copied = usize::try_from(count)?;
        }
    }
    Ok((copied, began.elapsed()))
}
