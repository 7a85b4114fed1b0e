//! Feed batches and records.

use shared::{
    db::{StoreError, Tx},
    id::{BatchId, FeedRecordId, TenantId},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// A record to store: checked, normalised, its secrets sealed.
#[derive(Clone, Debug)]
pub struct Record {
    /// Id.
    pub id: FeedRecordId,
    /// The feed's id.
    pub external_id: String,
    /// Normalised.
    pub identity: String,
    /// As the feed spells it.
    pub identity_original: String,
    /// `email` or `username`.
    pub identity_kind: &'static str,
    /// Form of the secret.
    pub secret_form: &'static str,
    /// Sealed password.
    pub secret_sealed: Option<Vec<u8>>,
    /// Sealed cookies.
    pub cookies_sealed: Option<Vec<u8>>,
    /// Sealed rest.
    pub extra_sealed: Option<Vec<u8>>,
    /// Algorithms of its hashes.
    pub hashes: serde_json::Value,
    /// Captured at or after.
    pub captured_after: Option<OffsetDateTime>,
    /// Captured at or before.
    pub captured_before: Option<OffsetDateTime>,
    /// Published.
    pub published_at: Option<OffsetDateTime>,
    /// First seen by the feed.
    pub first_seen_at: Option<OffsetDateTime>,
    /// Precision of the capture dates.
    pub date_precision: &'static str,
    /// Source.
    pub source: serde_json::Value,
    /// Where it was used.
    pub targets: serde_json::Value,
    /// Severity.
    pub severity: i32,
    /// In the feed's words.
    pub severity_raw: String,
    /// The feed's own hash.
    pub feed_credential_hash: String,
}

/// A batch to store.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Id.
    pub id: BatchId,
    /// Feed.
    pub feed: &'a str,
    /// The client's id.
    pub client_id: &'a str,
    /// Digest of the request without secrets.
    pub fingerprint: &'a [u8],
    /// Sealed data key.
    pub data_key_sealed: &'a [u8],
    /// Who handed it in.
    pub received_from: &'a str,
}

/// Serialises deliveries of one client batch until the end of the transaction.
pub async fn lock(
    tx: &mut Tx,
    owner: Option<TenantId>,
    feed: &str,
    client_id: &str,
) -> Result<(), StoreError> {
    let owner = owner.map(|t| t.to_string()).unwrap_or_default();
    sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(chr(10), 'feed batch', $1::text, $2::text, $3::text), 0))",
    )
    .bind(owner)
    .bind(feed)
    .bind(client_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Fingerprint and answer of a batch handed in before.
pub async fn answered(
    tx: &mut Tx,
    owner: Option<TenantId>,
    feed: &str,
    client_id: &str,
) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
    let query = match owner {
        Some(tenant) => sqlx::query_as(
            "SELECT fingerprint, answer FROM feed_batches WHERE feed = $1 AND client_batch_id = $2 AND tenant_id = $3",
        )
        .bind(feed)
        .bind(client_id)
        .bind(tenant),
        None => sqlx::query_as(
            "SELECT fingerprint, answer FROM installation_feed_batches WHERE feed = $1 AND client_batch_id = $2",
        )
        .bind(feed)
        .bind(client_id),
    };
    Ok(query.fetch_optional(&mut **tx).await?)
}

/// Stores a batch with its answer.
pub async fn insert_batch(
    tx: &mut Tx,
    owner: Option<TenantId>,
    batch: &Batch<'_>,
    records: i32,
    answer: &[u8],
) -> Result<(), StoreError> {
    let Batch { id, feed, client_id, fingerprint, data_key_sealed, received_from } = batch;
    let query = match owner {
        Some(_) => sqlx::query(
            "INSERT INTO feed_batches (batch_id, feed, client_batch_id, fingerprint, answer, records, data_key_sealed,
                                       received_from, tenant_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        ),
        None => sqlx::query(
            "INSERT INTO installation_feed_batches (batch_id, feed, client_batch_id, fingerprint, answer, records,
                                                    data_key_sealed, received_from)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        ),
    };
    let query = query
        .bind(id)
        .bind(feed)
        .bind(client_id)
        .bind(fingerprint)
        .bind(answer)
        .bind(records)
        .bind(data_key_sealed)
        .bind(received_from);
    match owner {
        Some(tenant) => query.bind(tenant).execute(&mut **tx).await?,
        None => query.execute(&mut **tx).await?,
    };
    Ok(())
}

macro_rules! insert_records {
    ($table:literal, $column:literal, $value:literal, $key:literal) => {
        concat!(
            "INSERT INTO ", $table, " (", $column, "record_id, batch_id, feed, external_id, identity, identity_original,
                 identity_kind, secret_form, secret_sealed, cookies_sealed, extra_sealed, hashes, captured_after,
                 captured_before, published_at, first_seen_at, date_precision, source, targets, severity, severity_raw,
                 feed_credential_hash)
             SELECT ", $value, "r.id, $1, $2, r.external_id, r.identity, r.original, r.identity_kind, r.form, r.secret,
                    r.cookies, r.extra, r.hashes, r.captured_after, r.captured_before, r.published_at, r.first_seen_at,
                    r.precision, r.source, ARRAY(SELECT jsonb_array_elements_text(r.targets)), r.severity, r.severity_raw,
                    r.feed_hash
             FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::bytea[],
                         $11::bytea[], $12::jsonb[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[],
                         $16::timestamptz[], $17::text[], $18::jsonb[], $19::jsonb[], $20::int[], $21::text[], $22::text[])
                  AS r (id, external_id, identity, original, identity_kind, form, secret, cookies, extra, hashes,
                        captured_after, captured_before, published_at, first_seen_at, precision, source, targets, severity,
                        severity_raw, feed_hash)
             ON CONFLICT (", $key, ") DO NOTHING RETURNING record_id"
        )
    };
}

/// Stores records; the ids of those that were new to the feed.
pub async fn insert_records(
    tx: &mut Tx,
    owner: Option<TenantId>,
    batch: BatchId,
    feed: &str,
    records: &[Record],
) -> Result<Vec<FeedRecordId>, StoreError> {
    let query = match owner {
        Some(_) => sqlx::query_scalar(insert_records!(
            "feed_records",
            "tenant_id, ",
            "$23, ",
            "tenant_id, feed, external_id"
        )),
        None => sqlx::query_scalar(insert_records!("installation_feed_records", "", "", "feed, external_id")),
    };
    let query = query
        .bind(batch)
        .bind(feed)
        .bind(each(records, |r| r.id.uuid()))
        .bind(each(records, |r| r.external_id.as_str()))
        .bind(each(records, |r| r.identity.as_str()))
        .bind(each(records, |r| r.identity_original.as_str()))
        .bind(each(records, |r| r.identity_kind))
        .bind(each(records, |r| r.secret_form))
        .bind(each(records, |r| r.secret_sealed.as_deref()))
        .bind(each(records, |r| r.cookies_sealed.as_deref()))
        .bind(each(records, |r| r.extra_sealed.as_deref()))
        .bind(each(records, |r| &r.hashes))
        .bind(each(records, |r| r.captured_after))
        .bind(each(records, |r| r.captured_before))
        .bind(each(records, |r| r.published_at))
        .bind(each(records, |r| r.first_seen_at))
        .bind(each(records, |r| r.date_precision))
        .bind(each(records, |r| &r.source))
        .bind(each(records, |r| &r.targets))
        .bind(each(records, |r| r.severity))
        .bind(each(records, |r| r.severity_raw.as_str()))
        .bind(each(records, |r| r.feed_credential_hash.as_str()));
    Ok(match owner {
        Some(tenant) => query.bind(tenant).fetch_all(&mut **tx).await?,
        None => query.fetch_all(&mut **tx).await?,
    })
}

fn each<'r, T>(records: &'r [Record], field: impl Fn(&'r Record) -> T) -> Vec<T> {
    records.iter().map(field).collect()
}

/// The stored records with these ids of the feed.
pub async fn stored(
    tx: &mut Tx,
    owner: Option<TenantId>,
    feed: &str,
    external_ids: &[&str],
) -> Result<Vec<(String, Uuid)>, StoreError> {
    let query = match owner {
        Some(tenant) => sqlx::query_as(
            "SELECT external_id, record_id FROM feed_records WHERE feed = $1 AND external_id = ANY ($2) AND tenant_id = $3",
        )
        .bind(feed)
        .bind(external_ids)
        .bind(tenant),
        None => sqlx::query_as(
            "SELECT external_id, record_id FROM installation_feed_records WHERE feed = $1 AND external_id = ANY ($2)",
        )
        .bind(feed)
        .bind(external_ids),
    };
    Ok(query.fetch_all(&mut **tx).await?)
}
