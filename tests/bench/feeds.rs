//! Feed records taken in per second, and matched per second, each beside a bare program: one that parses the same file and
//! stores its records, and one that joins the stored records with the identifiers.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};

use anyhow::Context;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    directory::Tenant,
    report::Report,
    stage::{Stage, rate, until},
};

/// One record in so many is about a known account.
const KNOWN: usize = 100;
/// Records of a batch.
const BATCH: usize = 500;

/// Imports a file as a feed of the installation while the validator stands still, then lets it match what is stored; then
/// does the least of both.
pub async fn round(
    stage: &Stage,
    report: &mut Report,
    round: u32,
    records: u32,
    tenants: &[Tenant],
) -> anyhow::Result<()> {
    let records = usize::try_from(records)?;
    let file = tempfile::Builder::new().suffix(".ndjson").tempfile()?;
    std::fs::write(file.path(), lines(round, records, tenants)?)?;
    let mut db = stage.database().await?;
    let done = "SELECT count(*) FROM validator.inbox
        WHERE consumer = 'feed.batch_received' AND status = 'done' AND $1::uuid IS NULL";
    let before: i64 = sqlx::query_scalar(done).bind(None::<Uuid>).fetch_one(&mut db).await?;

    stage.signal("credential-validator", Signal::STOP)?;
    let began = Instant::now();
    let path = file.path().display().to_string();
    stage.parapet("installation-feeds", None, &["feed", "import", "--installation", &path]).await?;
    let ingested = rate(records, began.elapsed());
    let sent = "SELECT count(*) FROM (SELECT WHERE NOT EXISTS (SELECT FROM api.outbox) AND $1::uuid IS NULL) AS sent";
    until(&mut db, sent, None, 1).await?;
    let began = Instant::now();
    stage.signal("credential-validator", Signal::CONT)?;
    let batches = i64::try_from(records.div_ceil(BATCH))?;
    until(&mut db, done, None, before + batches).await?;
    let matched = rate(records, began.elapsed());

    let (stored, joined) = bare(stage, file.path(), records).await?;
    report.add("feed records taken in and sealed, beside parse and insert", "1/s", ingested, stored);
    report.add("stored feed records matched (1 % match), beside a join", "1/s", matched, joined);
    Ok(())
}

/// Gives the first tenant identifiers of nobody until there are so many in all. Returns how many there are.
pub async fn fill(stage: &Stage, tenants: &[Tenant], wanted: i64) -> anyhow::Result<i64> {
    let tenant = tenants.first().context("there is a tenant")?;
    let mut db = stage.database().await?;
    sqlx::query(
        "INSERT INTO sync.identifiers (tenant_id, identifier_id, identity_id, account_id, value, kind)
         SELECT $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), md5(n::text) || '@filler.example', 'alias'
         FROM generate_series((SELECT count(*) FROM sync.identifier_lookup) + 1, $2) AS n",
    )
    .bind(tenant.id)
    .bind(wanted)
    .execute(&mut db)
    .await?;
    for settle in ["VACUUM (ANALYZE) sync.identifiers, sync.identifier_lookup", "CHECKPOINT"] {
        sqlx::raw_sql(settle).execute(&mut db).await?;
    }
    stage.count("SELECT count(*) FROM sync.identifier_lookup").await
}

fn lines(round: u32, records: usize, tenants: &[Tenant]) -> anyhow::Result<String> {
    let now = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let mut known = tenants.iter().flat_map(|tenant| &tenant.accounts).map(|account| account.login.as_str());
    let mut lines = String::new();
    for n in 0..records {
        let login = if n % KNOWN == 0 { known.nth(usize::try_from(round)?) } else { None };
        let email = login.map_or_else(|| format!("nobody.{round}.{n}@elsewhere.example"), str::to_owned);
        let password = format!("Leaked-{round}-{n}");
        let record = json!({
            "document_id": Uuid::new_v4(), "source_id": 1, "spycloud_publish_date": now, "email": email,
            "password": password, "password_type": "plaintext", "password_plaintext": password,
        });
        writeln!(lines, "{record}")?;
    }
    Ok(lines)
}

/// Records stored per second, and joined per second.
async fn bare(stage: &Stage, file: &Path, records: usize) -> anyhow::Result<(f64, f64)> {
    #[derive(Deserialize)]
    struct Record {
        document_id: Uuid,
        email: String,
        password: String,
    }
    let mut db = stage.database().await?;
    let statements = "CREATE SCHEMA IF NOT EXISTS bench;
        CREATE TABLE IF NOT EXISTS bench.records (record uuid PRIMARY KEY, email text NOT NULL, password text NOT NULL);
        CREATE TABLE IF NOT EXISTS bench.exposures
            (record uuid NOT NULL, tenant_id uuid NOT NULL, identifier_id uuid NOT NULL, PRIMARY KEY (record, tenant_id, identifier_id));";
    sqlx::raw_sql(statements).execute(&mut db).await?;
    let began = Instant::now();
    let mut lines = BufReader::new(File::open(file)?).lines();
    let mut batches = Vec::new();
    loop {
        let (mut ids, mut emails, mut passwords) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines.by_ref().take(BATCH) {
            let Record { document_id, email, password } = serde_json::from_str(&line?)?;
            ids.push(document_id);
            emails.push(email.to_lowercase());
            passwords.push(password);
        }
        if ids.is_empty() {
            break;
        }
        sqlx::query("INSERT INTO bench.records SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[])")
            .bind(&ids)
            .bind(&emails)
            .bind(&passwords)
            .execute(&mut db)
            .await?;
        batches.push(ids);
    }
    let stored = rate(records, began.elapsed());
    let began = Instant::now();
    for batch in batches {
        sqlx::query(
            "INSERT INTO bench.exposures SELECT r.record, l.tenant_id, l.identifier_id
             FROM bench.records r JOIN sync.identifier_lookup l ON l.value = r.email WHERE r.record = ANY ($1)",
        )
        .bind(batch)
        .execute(&mut db)
        .await?;
    }
    Ok((stored, rate(records, began.elapsed())))
}
