//! Feed records as integration-api keeps them, and whom they concern.

use shared::{
    db::{StoreError, Tx, parse},
    id::{AccountId, BatchId, FeedRecordId, IdentifierId, IdentityId, IntegrationId, ProviderKind, TenantId},
};
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::turn::account_facts;
use crate::triage::AccountFacts;

/// A leaked-credential record, still sealed.
#[derive(Clone, Debug)]
pub struct Record {
    pub record: FeedRecordId,
    pub batch: BatchId,
    /// `None`: a feed of the installation.
    pub tenant: Option<TenantId>,
    pub feed: String,
    pub identity: String,
    pub secret_form: String,
    pub secret: Option<Vec<u8>>,
    pub cookies: Option<Vec<u8>>,
    pub captured_after: Option<OffsetDateTime>,
    pub captured_before: Option<OffsetDateTime>,
    pub published_at: Option<OffsetDateTime>,
    pub first_seen_at: Option<OffsetDateTime>,
    pub precision: String,
    pub source: serde_json::Value,
    pub targets: Vec<String>,
    pub severity: i32,
    pub received_at: OffsetDateTime,
}

impl Record {
    /// How the credential got out, in the word it is stored with; empty: not known.
    pub fn source_kind(&self) -> &str {
        self.source.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default()
    }
}

const RECORD: &str = "SELECT record_id, batch_id, tenant_id, feed, identity, secret_form, secret_sealed, cookies_sealed,
    captured_after, captured_before, published_at, first_seen_at, date_precision, source, targets, severity, received_at
    FROM api.feed_records_v";

fn record(row: &PgRow) -> Result<Record, StoreError> {
    Ok(Record {
        record: FeedRecordId(row.try_get("record_id")?),
        batch: BatchId(row.try_get("batch_id")?),
        tenant: row.try_get::<Option<Uuid>, _>("tenant_id")?.map(TenantId),
        feed: row.try_get("feed")?,
        identity: row.try_get("identity")?,
        secret_form: row.try_get("secret_form")?,
        secret: row.try_get("secret_sealed")?,
        cookies: row.try_get("cookies_sealed")?,
        captured_after: row.try_get("captured_after")?,
        captured_before: row.try_get("captured_before")?,
        published_at: row.try_get("published_at")?,
        first_seen_at: row.try_get("first_seen_at")?,
        precision: row.try_get("date_precision")?,
        source: row.try_get("source")?,
        targets: row.try_get("targets")?,
        severity: row.try_get("severity")?,
        received_at: row.try_get("received_at")?,
    })
}

/// How many records a batch holds: at most 500.
pub async fn size(tx: &mut Tx, batch: BatchId) -> Result<u64, StoreError> {
    let size: i64 = sqlx::query_scalar("SELECT count(*) FROM api.feed_records_v WHERE batch_id = $1")
        .bind(batch)
        .fetch_one(&mut **tx)
        .await?;
    Ok(size.unsigned_abs())
}

/// The records of a batch that are about any of these identities.
pub async fn batch(tx: &mut Tx, batch: BatchId, identities: &[String]) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{RECORD} WHERE batch_id = $1 AND identity = ANY ($2) ORDER BY record_id"
    )))
    .bind(batch)
    .bind(identities)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(record).collect()
}

/// The next page of kept records about any of these identities, the tenant's own and the installation's.
pub async fn about(
    tx: &mut Tx,
    identities: &[String],
    after: Option<FeedRecordId>,
    page: i64,
) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{RECORD} WHERE identity = ANY ($1) AND ($2::uuid IS NULL OR record_id > $2) ORDER BY record_id LIMIT $3"
    )))
    .bind(identities)
    .bind(after)
    .bind(page)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(record).collect()
}

/// The sealed data keys of batches.
pub async fn data_keys(
    tx: &mut Tx,
    batches: &[BatchId],
) -> Result<Vec<(BatchId, Option<TenantId>, Vec<u8>)>, StoreError> {
    let rows = sqlx::query(
        "SELECT batch_id, tenant_id, sealed FROM api.feed_batch_keys_v WHERE batch_id = ANY ($1)",
    )
    .bind(batches.iter().map(|b| b.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok((
                BatchId(row.try_get("batch_id")?),
                row.try_get::<Option<Uuid>, _>("tenant_id")?.map(TenantId),
                row.try_get("sealed")?,
            ))
        })
        .collect()
}

/// Which tenants know the identities of a batch, and as which identifiers: the one look-up across tenants. Most
/// records are about nobody, so they are not read for it.
pub async fn matches(
    tx: &mut Tx,
    batch: BatchId,
) -> Result<Vec<(String, TenantId, IdentifierId)>, StoreError> {
    let rows = sqlx::query(
        "SELECT value, tenant_id, identifier_id FROM sync.match_identifiers(
             ARRAY(SELECT DISTINCT identity FROM api.feed_records_v WHERE batch_id = $1))",
    )
    .bind(batch)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok((
                row.try_get("value")?,
                TenantId(row.try_get("tenant_id")?),
                IdentifierId(row.try_get("identifier_id")?),
            ))
        })
        .collect()
}

/// What identifiers say; those that are gone are left out.
pub async fn identifier_values(
    tx: &mut Tx,
    ids: &[IdentifierId],
) -> Result<Vec<(IdentifierId, String)>, StoreError> {
    let rows =
        sqlx::query("SELECT identifier_id, value FROM sync.identifiers_v WHERE identifier_id = ANY ($1)")
            .bind(ids.iter().map(|i| i.uuid()).collect::<Vec<_>>())
            .fetch_all(&mut **tx)
            .await?;
    rows.into_iter()
        .map(|row| Ok((IdentifierId(row.try_get("identifier_id")?), row.try_get("value")?)))
        .collect()
}

/// An account that a matched identifier leads to.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub identifier: IdentifierId,
    pub identifier_since: OffsetDateTime,
    pub identity: IdentityId,
    pub account: AccountId,
    pub integration: IntegrationId,
    pub provider: ProviderKind,
    pub directory: String,
    pub object: String,
    pub login: String,
    pub is_admin: bool,
    pub facts: AccountFacts,
}

/// Every account of the identities behind these identifiers.
pub async fn candidates(tx: &mut Tx, identifiers: &[IdentifierId]) -> Result<Vec<Candidate>, StoreError> {
    let rows = sqlx::query(
        "SELECT i.identifier_id, i.created_at AS identifier_since, a.identity_id, a.account_id, a.integration_id, a.provider,
                a.directory_id, a.object_id, a.login, a.is_admin, a.state, a.kind, a.authority, a.hybrid, a.password_changed_at,
                a.created_at_directory, a.under_policy_since, a.removed_at IS NOT NULL AS removed
         FROM sync.identifiers_v i JOIN sync.accounts_v a ON a.identity_id = i.identity_id
         WHERE i.identifier_id = ANY ($1) AND a.removed_at IS NULL
         ORDER BY i.created_at, a.account_id",
    )
    .bind(identifiers.iter().map(|i| i.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Candidate {
                identifier: IdentifierId(row.try_get("identifier_id")?),
                identifier_since: row.try_get("identifier_since")?,
                identity: IdentityId(row.try_get("identity_id")?),
                account: AccountId(row.try_get("account_id")?),
                integration: IntegrationId(row.try_get("integration_id")?),
                provider: parse("sync.accounts.provider", row.try_get("provider")?)?,
                directory: row.try_get("directory_id")?,
                object: row.try_get("object_id")?,
                login: row.try_get("login")?,
                is_admin: row.try_get("is_admin")?,
                facts: account_facts(row)?,
            })
        })
        .collect()
}
