//! Answers remembered by the caller's idempotency key.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
};

/// What is known of a key.
#[derive(Debug)]
pub enum Begun {
    /// Nothing: do the work, then [`finish`] in the same transaction.
    First,
    /// The same request was answered before.
    Answered(Vec<u8>),
    /// The key belongs to another request.
    Taken,
}

/// Claims a key; waits for a request under way with the same key.
pub async fn begin(
    tx: &mut Tx,
    tenant: TenantId,
    method: &str,
    key: &str,
    fingerprint: &[u8],
) -> Result<Begun, StoreError> {
    sqlx::query(
        "DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM idempotency
             WHERE tenant_id = $1 AND created_at < statement_timestamp() - interval '2 days' LIMIT 100))",
    )
    .bind(tenant)
    .execute(&mut **tx)
    .await?;
    let first = sqlx::query(
        "INSERT INTO idempotency (tenant_id, method, key, fingerprint) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(method)
    .bind(key)
    .bind(fingerprint)
    .execute(&mut **tx)
    .await?
    .rows_affected()
        == 1;
    if first {
        return Ok(Begun::First);
    }
    let (known, answer): (Vec<u8>, Option<Vec<u8>>) = sqlx::query_as(
        "SELECT fingerprint, answer FROM idempotency WHERE tenant_id = $1 AND method = $2 AND key = $3",
    )
    .bind(tenant)
    .bind(method)
    .bind(key)
    .fetch_one(&mut **tx)
    .await?;
    if known != fingerprint {
        return Ok(Begun::Taken);
    }
    answer.map(Begun::Answered).ok_or_else(|| StoreError::Corrupt("idempotency.answer is missing".into()))
}

/// Remembers the answer.
pub async fn finish(
    tx: &mut Tx,
    tenant: TenantId,
    method: &str,
    key: &str,
    answer: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE idempotency SET answer = $4 WHERE tenant_id = $1 AND method = $2 AND key = $3")
        .bind(tenant)
        .bind(method)
        .bind(key)
        .bind(answer)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
