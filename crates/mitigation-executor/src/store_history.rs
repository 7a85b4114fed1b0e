//! What a simulation replays. Every function works in a transaction of the tenant.

use std::collections::HashMap;

use shared::{
    db::{StoreError, Tx},
    id::AccountId,
    policy::ValidKind,
};
use sqlx::Row;
use time::OffsetDateTime;

use crate::store_requests::Proof;

/// Refuses every change from now on.
pub async fn only_read(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query("SET TRANSACTION READ ONLY").execute(&mut **tx).await?;
    Ok(())
}

/// The valid verdicts since then with their accounts, newest first, at most so many.
pub async fn proofs(
    tx: &mut Tx,
    since: OffsetDateTime,
    most: i64,
) -> Result<Vec<(AccountId, Proof)>, StoreError> {
    let rows = sqlx::query(
        "SELECT exposure_id, account_id, verdict, verdict_at, feed FROM validator.exposures_v
         WHERE verdict = ANY ($1) AND verdict_at > $2 ORDER BY verdict_at DESC, exposure_id LIMIT $3",
    )
    .bind(ValidKind::ALL.map(|kind| kind.verdict().name()))
    .bind(since)
    .bind(most)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            let proof = Proof {
                exposure: row.try_get("exposure_id")?,
                kind: ValidKind::of(row.try_get("verdict")?)
                    .ok_or_else(|| StoreError::Corrupt("exposures.verdict has an unknown value".into()))?,
                at: row.try_get("verdict_at")?,
                feed: row.try_get("feed")?,
            };
            Ok((row.try_get("account_id")?, proof))
        })
        .collect()
}

/// Exposures by the hour in which they came, oldest first, with how many there were until the end of it.
pub type Hours = Vec<(OffsetDateTime, i64)>;

/// What these feeds brought since then, history left out.
pub async fn feeds(
    tx: &mut Tx,
    feeds: &[String],
    since: OffsetDateTime,
) -> Result<HashMap<String, Hours>, StoreError> {
    let rows: Vec<(String, OffsetDateTime, i64)> = sqlx::query_as(
        "SELECT feed, hour, (sum(count(*)) OVER (PARTITION BY feed ORDER BY hour))::bigint
         FROM (SELECT feed, date_trunc('hour', received_at) AS hour FROM validator.exposures_v
               WHERE feed = ANY ($1) AND NOT history AND received_at > $2) e
         GROUP BY feed, hour ORDER BY hour",
    )
    .bind(feeds)
    .bind(since)
    .fetch_all(&mut **tx)
    .await?;
    let mut hours: HashMap<String, Hours> = HashMap::new();
    for (feed, hour, so_far) in rows {
        hours.entry(feed).or_default().push((hour, so_far));
    }
    Ok(hours)
}

/// How many accounts the tenant has.
pub async fn accounts(tx: &mut Tx) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM sync.accounts_v WHERE removed_at IS NULL")
        .fetch_one(&mut **tx)
        .await?)
}

/// How many automated mitigations were carried out since then.
pub async fn carried_out(tx: &mut Tx, since: OffsetDateTime) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM mitigations
         WHERE automatic AND undoes IS NULL AND finished_at > $1
           AND state IN ('done', 'verified', 'reverted', 'undone')",
    )
    .bind(since)
    .fetch_one(&mut **tx)
    .await?)
}
