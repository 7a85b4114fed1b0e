//! Verdicts per second, beside a bare loop that consumes, reserves, commits, posts to the simulator on a fresh TLS
//! connection, commits the result and acks. It reserves with the limiter itself, since nothing may be sent without; what is
//! compared is all the rest: work, triage, the look at the account, verdict, memory and audit.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

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
use parapet::demo::directory::Account;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    audit::{Actor, Event, Outcome, names},
    db::Db,
    id::{AttemptId, ProviderKind, TenantId},
    limiter::{self, Answer, Ask, Ended, Limits, OwnerSeen, Reservation, Ticket},
    provider::account_key,
    wire::v1::{
        self as api, bulk_validate_request::Selection, validation_service_client::ValidationServiceClient,
    },
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    directory::{self, Tenant},
    report::Report,
    stage::{CALLER, Stage, VALIDATOR, rate, until},
};

/// What credential-validator handles at once, as shipped.
const CONCURRENCY: u16 = 16;
const QUEUE: &str = "bench.verdicts";
/// What a thousand verdicts may take at the most.
const PATIENCE: Duration = Duration::from_mins(5);

/// Tries a wrong password for each of so many accounts, and then, for others, in a bare loop. Returns the rate.
pub async fn round(
    stage: &Stage,
    report: &mut Report,
    tenant: &Tenant,
    ours: &[&str],
    bare: &[&Account],
) -> anyhow::Result<f64> {
    let exposed = expose(stage, tenant, ours).await?;
    let ours = validate(stage, tenant, &exposed).await?;
    let limit = bare_loop(stage, tenant, bare).await?;
    report.add("verdicts, beside a bare loop", "1/s", ours, limit);
    Ok(ours)
}

/// Imports a wrong password for each, and returns the exposures once all of them are matched and every service has seen how
/// its tables have grown: it looks every ten seconds, and what that costs after a first import is no part of a verdict.
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
    tokio::time::sleep(Duration::from_secs(12)).await;
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

/// Waits until every exposure of the tenant has been decided by an attempt; looks rarely, since it reads them all.
pub async fn decided(stage: &Stage, tenant: &Tenant) -> anyhow::Result<()> {
    let mut db = stage.database().await?;
    let open = "SELECT count(*) FROM validator.exposures WHERE tenant_id = $1 AND verdict IS DISTINCT FROM 'invalid'";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let open: i64 = sqlx::query_scalar(open).bind(tenant.id).fetch_one(&mut db).await?;
        if open == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{open} exposures were not decided");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Verdicts per second over these exposures, asked for at once: from the first to the last, since the bare loop, too, finds
/// its queue filled.
pub async fn validate(stage: &Stage, tenant: &Tenant, exposures: &[Uuid]) -> anyhow::Result<f64> {
    ask(stage, tenant, exposures).await?;
    decided(stage, tenant).await?;
    let span = "SELECT extract(epoch FROM max(verdict_at) - min(verdict_at))::float8 FROM validator.exposures
                WHERE exposure_id = ANY ($1)";
    let seconds: f64 =
        sqlx::query_scalar(span).bind(exposures).fetch_one(&mut stage.database().await?).await?;
    Ok(rate(exposures.len() - 1, Duration::from_secs_f64(seconds)))
}

fn wrong(login: &str) -> String {
    format!("Wrong-{}-horse", login.len())
}

#[derive(Debug, Deserialize, Serialize)]
struct Try {
    attempt: Uuid,
    object: String,
    login: String,
    password: String,
}

/// What every attempt of the bare loop needs.
struct World {
    http: reqwest::Client,
    db: Db,
    tenant: TenantId,
    directory: String,
}

async fn bare_loop(stage: &Stage, tenant: &Tenant, accounts: &[&Account]) -> anyhow::Result<f64> {
    let channel = stage.broker().await?.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, quorum).await?;
    for account in accounts {
        let body = serde_json::to_vec(&Try {
            attempt: Uuid::now_v7(),
            object: account.id.clone(),
            login: account.login.clone(),
            password: wrong(&account.login),
        })?;
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let publish =
            channel.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), &body, persistent);
        ensure!(
            matches!(publish.await?.await?, Confirmation::Ack(None)),
            "the broker did not take a message"
        );
    }
    let world = Arc::new(World {
        http: stage.fresh.clone(),
        db: Db::connect(&stage.database_of(VALIDATOR)?).await?,
        tenant: TenantId(tenant.id),
        directory: tenant.directory.clone(),
    });

    channel.basic_qos(CONCURRENCY, BasicQosOptions::default()).await?;
    let began = Instant::now();
    let consumer = channel
        .basic_consume(QUEUE.into(), "bench".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    consumer
        .take(accounts.len())
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(usize::from(CONCURRENCY), |delivery| {
            let world = Arc::clone(&world);
            async move {
                world.attempt(&delivery.data).await?;
                delivery.ack(BasicAckOptions::default()).await?;
                Ok(())
            }
        })
        .await?;
    Ok(rate(accounts.len(), began.elapsed()))
}

impl World {
    async fn attempt(&self, body: &[u8]) -> anyhow::Result<()> {
        let Try { attempt, object, login, password } = serde_json::from_slice(body)?;
        let ticket = self.reserve(AttemptId(attempt), &object, &login).await?;
        let [id, secret] = directory::entra_application();
        let grant = [
            ("grant_type", "password"),
            ("scope", "openid"),
            id,
            secret,
            ("username", &login),
            ("password", &password),
        ];
        let url = format!("https://login.microsoftonline.com/{}/oauth2/v2.0/token", self.directory);
        let answer: serde_json::Value = self.http.post(url).form(&grant).send().await?.json().await?;
        let code = answer.get("error").and_then(serde_json::Value::as_str);
        let code = code.context("a wrong password was taken")?;
        let mut tx = self.db.tenant_by_key(self.tenant).await?;
        let ended = Ended { answered: true, result: "invalid", code: Some(code), locked: false };
        ensure!(limiter::settle(&mut tx, &ticket, &ended).await?, "the reaper was first");
        Ok(tx.commit().await?)
    }

    async fn reserve(&self, attempt: AttemptId, object: &str, login: &str) -> anyhow::Result<Ticket> {
        let kind = Actor::Service("bench");
        let intent =
            Event::new(Some(self.tenant), names::VALIDATION_ATTEMPT, kind, Outcome::Intent, "A bare attempt")
                .user(object, login);
        let mut reservation = Reservation::begin(&self.db, self.tenant).await?;
        let answer = reservation
            .ask(&Ask {
                attempt,
                account: &account_key(ProviderKind::EntraId, &self.directory, object),
                limits: Limits {
                    daily_max: 2,
                    threshold: None,
                    us_gov: false,
                    ad_backed: false,
                    low_threshold_opt_in: false,
                },
                owner: OwnerSeen {
                    sign_in_at: None,
                    password_changed_at: None,
                    locked: false,
                    failures: None,
                },
                intent: &intent,
                turn: None,
            })
            .await?;
        ensure!(answer == Answer::Granted, "the limiter said {answer:?}");
        let (_permit, ticket) = reservation.commit().await?.context("a granted attempt has a permit")?;
        Ok(ticket)
    }
}
