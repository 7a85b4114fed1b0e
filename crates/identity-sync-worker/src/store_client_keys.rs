//! The SQL of client keys' rotation.

use std::str::FromStr;

use shared::{
    db::{StoreError, Tx, parse},
    id::{IntegrationId, TenantId},
    provider::okta::keys::{ClientKey, PublicJwk},
};
use sqlx::{Row, types::Json};
use time::OffsetDateTime;

/// A step that was claimed is due again after so many seconds, unless it was done.
const LEASE_SECONDS: f64 = 30.0;

/// Which step of its rotation an integration's client key has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One key, in use.
    Idle,
    /// The next key is published.
    Published,
    /// The next key signs, the one before it is still published.
    Activated,
    /// A new key signs that the directory has not accepted yet.
    Emergency,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Published => "published",
            Self::Activated => "activated",
            Self::Emergency => "emergency",
        }
    }
}

impl FromStr for Step {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Idle, Self::Published, Self::Activated, Self::Emergency]
            .into_iter()
            .find(|step| step.as_str() == text)
            .ok_or(())
    }
}

/// A rotation whose next step is due, and was claimed.
#[derive(Debug)]
pub(crate) struct Due {
    pub tenant: TenantId,
    pub integration: IntegrationId,
    pub step: Step,
    /// When it is due again: no two claims have the same.
    leased: OffsetDateTime,
}

/// A key that is not stored yet.
#[derive(Debug)]
pub(crate) struct Made {
    pub version: u32,
    pub key: ClientKey,
    pub sealed: Vec<u8>,
}

/// Has keys in use replaced when they are so many days old; 0: never.
pub(crate) async fn schedule(tx: &mut Tx, days: u32) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE client_key_rotations r SET due_at = w.at
         FROM (SELECT integration_id, CASE WHEN $1 > 0 THEN rotated_at + make_interval(days => $1) END AS at
               FROM client_key_rotations WHERE step = 'idle') w
         WHERE r.integration_id = w.integration_id AND r.step = 'idle' AND r.due_at IS DISTINCT FROM w.at
               AND (w.at IS NULL OR r.due_at IS NULL OR w.at > clock_timestamp()
                    OR r.due_at > clock_timestamp() + make_interval(secs => $2))",
    )
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .bind(LEASE_SECONDS)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Claims the rotation whose next step is due for longest, and that nobody else is claiming.
pub(crate) async fn claim(tx: &mut Tx) -> Result<Option<Due>, StoreError> {
    let row = sqlx::query(
        "UPDATE client_key_rotations SET due_at = clock_timestamp() + make_interval(secs => $1)
         WHERE integration_id = (SELECT integration_id FROM client_key_rotations WHERE due_at <= clock_timestamp()
                                 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING tenant_id, integration_id, step, due_at",
    )
    .bind(LEASE_SECONDS)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| {
        Ok(Due {
            tenant: row.try_get("tenant_id")?,
            integration: row.try_get("integration_id")?,
            step: parse("client_key_rotations.step", row.try_get("step")?)?,
            leased: row.try_get("due_at")?,
        })
    })
    .transpose()
}

/// Locks the rotation of an integration; its step, if it has a key.
pub(crate) async fn lock(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<Option<Step>, StoreError> {
    let step: Option<String> = sqlx::query_scalar(
        "SELECT step FROM client_key_rotations WHERE tenant_id = $1 AND integration_id = $2 FOR UPDATE",
    )
    .bind(tenant)
    .bind(integration)
    .fetch_optional(&mut **tx)
    .await?;
    step.map(|step| parse("client_key_rotations.step", &step)).transpose()
}

/// Locks the rotation whose step was claimed; false when the step was taken, or claimed by somebody else, meanwhile.
// INVARIANT: a step that outlived its claim is not taken: the rotation it meant may be over, and the next one be at this step.
pub(crate) async fn lock_claimed(tx: &mut Tx, due: &Due) -> Result<bool, StoreError> {
    let ours: Option<bool> = sqlx::query_scalar(
        "SELECT step = $3 AND due_at = $4 FROM client_key_rotations
         WHERE tenant_id = $1 AND integration_id = $2 FOR UPDATE",
    )
    .bind(due.tenant)
    .bind(due.integration)
    .bind(due.step.as_str())
    .bind(due.leased)
    .fetch_optional(&mut **tx)
    .await?
    .flatten();
    Ok(ours == Some(true))
}

/// The newest version of an integration's key; 0: it has none.
pub(crate) async fn newest(tx: &mut Tx, integration: IntegrationId) -> Result<u32, StoreError> {
    let newest: i32 =
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM client_keys WHERE integration_id = $1")
            .bind(integration)
            .fetch_one(&mut **tx)
            .await?;
    u32::try_from(newest).map_err(|_| StoreError::Corrupt("a client key's version is negative".into()))
}

/// Stores a key in this state, and publishes its public half.
pub(crate) async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    made: &Made,
    state: &str,
) -> Result<(), StoreError> {
    let Made { version, key: ClientKey { kid, pkcs8: _, public }, sealed } = made;
    sqlx::query(
        "INSERT INTO client_keys (tenant_id, integration_id, version, kid, sealed_private, state)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(tenant)
    .bind(integration)
    .bind(i64::from(*version))
    .bind(kid)
    .bind(sealed)
    .bind(state)
    .execute(&mut **tx)
    .await?;
    sqlx::query("INSERT INTO public_client_keys (integration_id, kid, jwk) VALUES ($1, $2, $3)")
        .bind(integration)
        .bind(kid)
        .bind(Json::<&PublicJwk>(public))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The first key was made.
pub(crate) async fn first(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO client_key_rotations (integration_id, tenant_id) VALUES ($1, $2)
         ON CONFLICT (integration_id) DO UPDATE
         SET step = 'idle', due_at = NULL, rotated_at = clock_timestamp(), tries = 0, last_error = NULL",
    )
    .bind(integration)
    .bind(tenant)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A locked rotation has come to a step; the next one is due in so many seconds.
pub(crate) async fn enter(
    tx: &mut Tx,
    integration: IntegrationId,
    step: Step,
    seconds: f64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE client_key_rotations
         SET step = $2, due_at = clock_timestamp() + make_interval(secs => $3), tries = 0, last_error = NULL,
             rotated_at = CASE WHEN $2 IN ('published', 'emergency') THEN clock_timestamp() ELSE rotated_at END
         WHERE integration_id = $1",
    )
    .bind(integration)
    .bind(step.as_str())
    .bind(seconds)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A locked rotation has ended; the next one is due when the key is so many days old, or never (0).
pub(crate) async fn idle(tx: &mut Tx, integration: IntegrationId, days: u32) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE client_key_rotations
         SET step = 'idle', due_at = CASE WHEN $2 > 0 THEN rotated_at + make_interval(days => $2) END, tries = 0,
             last_error = NULL
         WHERE integration_id = $1",
    )
    .bind(integration)
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes that a step failed, unless it was taken meanwhile; how often it has.
pub(crate) async fn failed(
    tx: &mut Tx,
    due: &Due,
    error: &str,
    first_seconds: f64,
    most_seconds: f64,
) -> Result<Option<i32>, StoreError> {
    Ok(sqlx::query_scalar(
        "UPDATE client_key_rotations
         SET tries = tries + 1, last_error = $3,
             due_at = clock_timestamp() + make_interval(secs => least($4 * power(2, least(tries, 20)), $5))
         WHERE integration_id = $1 AND step = $2 AND due_at = $6 RETURNING tries",
    )
    .bind(due.integration)
    .bind(due.step.as_str())
    .bind(error)
    .bind(first_seconds)
    .bind(most_seconds)
    .bind(due.leased)
    .fetch_optional(&mut **tx)
    .await?)
}

/// Has this key sign instead of the one that does; false when it is not the next one.
pub(crate) async fn activate(
    tx: &mut Tx,
    integration: IntegrationId,
    version: u32,
) -> Result<bool, StoreError> {
    sqlx::query(
        "UPDATE client_keys SET state = 'old' WHERE integration_id = $1 AND state IN ('signing', 'unproven')",
    )
    .bind(integration)
    .execute(&mut **tx)
    .await?;
    become_signing(tx, integration, version, "next").await
}

/// Notes that the directory has accepted this key; false when it does not wait for that.
pub(crate) async fn accept(
    tx: &mut Tx,
    integration: IntegrationId,
    version: u32,
) -> Result<bool, StoreError> {
    become_signing(tx, integration, version, "unproven").await
}

async fn become_signing(
    tx: &mut Tx,
    integration: IntegrationId,
    version: u32,
    before: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE client_keys SET state = 'signing' WHERE integration_id = $1 AND version = $2 AND state = $3",
    )
    .bind(integration)
    .bind(i64::from(version))
    .bind(before)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Destroys the keys of an integration that are in this state, both halves; returns what they were called.
pub(crate) async fn remove(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    state: &str,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar(
        "WITH gone AS (DELETE FROM client_keys WHERE tenant_id = $1 AND integration_id = $2 AND state = $3 RETURNING kid),
              unpublished AS (DELETE FROM public_client_keys p USING gone
                              WHERE p.integration_id = $2 AND p.kid = gone.kid)
         SELECT kid FROM gone",
    )
    .bind(tenant)
    .bind(integration)
    .bind(state)
    .fetch_all(&mut **tx)
    .await?)
}

/// Forgets the rotation of a deleted integration.
pub(crate) async fn forget(tx: &mut Tx, integration: IntegrationId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM client_key_rotations WHERE integration_id = $1")
        .bind(integration)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
