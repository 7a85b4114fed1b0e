//! Verdicts per second, beside a bare loop that consumes, reserves, commits, posts to the simulator on a fresh TLS
//! connection, commits the result and acks.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use lapin::{
    BasicProperties, Confirmation,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::wire::v1::{
    self as api, bulk_validate_request::Selection, validation_service_client::ValidationServiceClient,
};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    directory::{self, Tenant},
    report::Report,
    stage::{CALLER, Stage, rate, until},
};

/// What credential-validator handles at once, as shipped.
const CONCURRENCY: u16 = 16;
const QUEUE: &str = "bench.verdicts";

/// Tries a wrong password for each of so many accounts, and then, for others, in a bare loop. Returns the rate.
pub async fn round(
    stage: &Stage,
    report: &mut Report,
    tenant: &Tenant,
    ours: &[&str],
    bare: &[&str],
) -> anyhow::Result<f64> {
    let exposed = expose(stage, tenant, ours).await?;
    let ours = validate(stage, tenant, &exposed).await?;
    let limit = bare_loop(stage, tenant, bare.iter().copied()).await?;
    report.add("verdicts, beside a bare loop", "1/s", ours, limit);
    Ok(ours)
}

/// Imports a wrong password for each, and returns the exposures once all of them are matched.
pub async fn expose(stage: &Stage, tenant: &Tenant, logins: &[&str]) -> anyhow::Result<Vec<Uuid>> {
    let mut lines = String::new();
    let now = OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339)?;
    for login in logins {
        let record = json!({
            "document_id": Uuid::new_v4(), "source_id": 1, "spycloud_publish_date": now, "email": login,
            "password": wrong(login), "password_type": "plaintext", "password_plaintext": wrong(login),
        });
        writeln!(lines, "{record}")?;
    }
    let file = tempfile::Builder::new().suffix(".ndjson").tempfile()?;
    std::fs::write(file.path(), lines)?;
    let path = file.path().display().to_string();
    stage.parapet(CALLER, Some(tenant.id), &["feed", "import", &path]).await?;
    let (mut db, wanted) = (stage.database().await?, i64::try_from(logins.len())?);
    let matched = "SELECT count(*) FROM validator.exposures WHERE tenant_id = $1 AND state = 'idle'";
    until(&mut db, matched, Some(tenant.id), wanted).await?;
    let ids = "SELECT exposure_id FROM validator.exposures WHERE tenant_id = $1 AND state = 'idle'";
    Ok(sqlx::query_scalar(ids).bind(tenant.id).fetch_all(&mut db).await?)
}

/// Asks for verdicts of these exposures in one request.
pub async fn ask(stage: &Stage, tenant: &Tenant, exposures: &[Uuid]) -> anyhow::Result<()> {
    let exposure_ids = exposures.iter().map(Uuid::to_string).collect();
    let mut validations = ValidationServiceClient::new(stage.api(tenant.id).await?);
    validations
        .bulk_validate(api::BulkValidateRequest {
            selection: Some(Selection::Exposures(api::ExposureSelection { exposure_ids })),
            force: false,
            idempotency_key: Uuid::new_v4().to_string(),
        })
        .await?;
    Ok(())
}

/// Waits until every exposure of the tenant has been decided by an attempt.
pub async fn decided(stage: &Stage, tenant: &Tenant) -> anyhow::Result<()> {
    let mut db = stage.database().await?;
    let done = "SELECT (NOT EXISTS (SELECT FROM validator.exposures
            WHERE tenant_id = $1 AND verdict IS DISTINCT FROM 'invalid'))::int::bigint";
    until(&mut db, done, Some(tenant.id), 1).await
}

/// Verdicts per second over these exposures, asked for at once.
pub async fn validate(stage: &Stage, tenant: &Tenant, exposures: &[Uuid]) -> anyhow::Result<f64> {
    let began = Instant::now();
    ask(stage, tenant, exposures).await?;
    decided(stage, tenant).await?;
    Ok(rate(exposures.len(), began.elapsed()))
}

fn wrong(login: &str) -> String {
    format!("Wrong-{}-horse", login.len())
}

#[derive(Debug, Deserialize, Serialize)]
struct Try {
    attempt: Uuid,
    login: String,
    password: String,
}

async fn bare_loop(
    stage: &Stage,
    tenant: &Tenant,
    logins: impl Iterator<Item = &str>,
) -> anyhow::Result<f64> {
    let channel = stage.broker().await?.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, quorum).await?;
    let mut tries = 0;
    for login in logins {
        let body = serde_json::to_vec(&Try {
            attempt: Uuid::now_v7(),
            login: login.to_owned(),
            password: wrong(login),
        })?;
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let publish =
            channel.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), &body, persistent);
        ensure!(
            matches!(publish.await?.await?, Confirmation::Ack(None)),
            "the broker did not take a message"
        );
        tries += 1;
    }
    let pool = pool(stage).await?;
    let world = Arc::new((stage.fresh.clone(), pool, tenant.directory.clone()));

    channel.basic_qos(CONCURRENCY, BasicQosOptions::default()).await?;
    let began = Instant::now();
    let consumer = channel
        .basic_consume(QUEUE.into(), "bench".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    consumer
        .take(tries)
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(usize::from(CONCURRENCY), |delivery| {
            let world = Arc::clone(&world);
            async move {
                let (http, pool, directory) = &*world;
                attempt(http, pool, directory, &delivery.data).await?;
                delivery.ack(BasicAckOptions::default()).await?;
                Ok(())
            }
        })
        .await?;
    Ok(rate(tries, began.elapsed()))
}

async fn pool(stage: &Stage) -> anyhow::Result<PgPool> {
    let statements = "CREATE SCHEMA IF NOT EXISTS bench;
        CREATE TABLE IF NOT EXISTS bench.attempts (attempt uuid PRIMARY KEY, login text NOT NULL, result text);";
    sqlx::raw_sql(statements).execute(&mut stage.database().await?).await?;
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(CONCURRENCY.into());
    Ok(pool.connect_with(stage.database_options()?).await?)
}

/// One statement is one transaction: sqlx leaves the rest to the server.
async fn attempt(http: &reqwest::Client, pool: &PgPool, directory: &str, body: &[u8]) -> anyhow::Result<()> {
    let Try { attempt, login, password } = serde_json::from_slice(body)?;
    sqlx::query("INSERT INTO bench.attempts (attempt, login) VALUES ($1, $2)")
        .bind(attempt)
        .bind(&login)
        .execute(pool)
        .await?;
    let [id, secret] = directory::entra_application();
    let grant = [
        ("grant_type", "password"),
        ("scope", "openid"),
        id,
        secret,
        ("username", &login),
        ("password", &password),
    ];
    let url = format!("https://login.microsoftonline.com/{directory}/oauth2/v2.0/token");
    let answer: serde_json::Value = http.post(url).form(&grant).send().await?.json().await?;
    let result =
        answer.get("error").and_then(serde_json::Value::as_str).context("a wrong password was taken")?;
    sqlx::query("UPDATE bench.attempts SET result = $2 WHERE attempt = $1")
        .bind(attempt)
        .bind(result)
        .execute(pool)
        .await?;
    Ok(())
}
