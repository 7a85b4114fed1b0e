//! What mitigations stand still for: the brake's counts, who let it go, pauses. Every function works in a transaction of
//! the tenant.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, IntegrationId, TenantId},
};
use sqlx::Row;
use time::OffsetDateTime;

use crate::plan::{Activity, Hold};

/// Lets one transaction at a time count and add automated mitigations of a tenant: two that count at once would both
/// pass the brake.
pub async fn lock_brake(tx: &mut Tx, tenant: TenantId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('mitigation brake ' || $1::text, 0))")
        .bind(tenant)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What was done automatically so far, and whether the integration's present version was let run.
pub async fn activity(
    tx: &mut Tx,
    account: AccountId,
    integration: IntegrationId,
    version: i64,
) -> Result<Activity, StoreError> {
    let row = sqlx::query(
        "WITH recent AS (
             SELECT account_id, max(created_at) AS last FROM mitigations
             WHERE automatic AND released_by IS NULL AND state NOT IN ('held', 'refused')
               AND created_at > statement_timestamp() - interval '1 day'
             GROUP BY account_id)
         SELECT EXISTS (SELECT FROM recent WHERE account_id = $1 AND last > statement_timestamp() - interval '1 hour') AS counted,
                (SELECT count(*) FROM recent WHERE account_id <> $1 AND last > statement_timestamp() - interval '1 hour') AS hour,
                (SELECT count(*) FROM recent WHERE account_id <> $1) AS day,
                (SELECT count(*) FROM sync.accounts_v WHERE removed_at IS NULL) AS accounts,
                EXISTS (SELECT FROM armed WHERE integration_id = $2 AND version = $3) AS armed",
    )
    .bind(account)
    .bind(integration)
    .bind(version)
    .fetch_one(&mut **tx)
    .await?;
    Ok(Activity {
        account_counted: row.try_get("counted")?,
        accounts_last_hour: row.try_get("hour")?,
        accounts_last_day: row.try_get("day")?,
        accounts: row.try_get("accounts")?,
        armed: row.try_get("armed")?,
    })
}

/// Remembers that a person let automated mitigations run for this version of an integration.
pub async fn arm(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    version: i64,
    by: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO armed AS a (tenant_id, integration_id, version, armed_by) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id, integration_id) DO UPDATE
             SET version = excluded.version, armed_by = excluded.armed_by, armed_at = excluded.armed_at
             WHERE a.version < excluded.version",
    )
    .bind(tenant)
    .bind(integration)
    .bind(version)
    .bind(by)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What makes mitigation stand still for an integration: the reason, and until when if that is known.
pub async fn pause(
    tx: &mut Tx,
    integration: IntegrationId,
) -> Result<Option<(String, Option<OffsetDateTime>)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT reason, until FROM pauses
         WHERE integration_id IN ($1, '00000000-0000-0000-0000-000000000000')
           AND (until IS NULL OR until > statement_timestamp())
         ORDER BY until DESC NULLS FIRST LIMIT 1",
    )
    .bind(integration)
    .fetch_optional(&mut **tx)
    .await?)
}

/// Whether the tenant has mitigations stopped by this hold already.
pub async fn holds(tx: &mut Tx, by: Hold) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM mitigations WHERE state = 'held' AND held_by = $1)")
        .bind(by.as_str())
        .fetch_one(&mut **tx)
        .await?)
}
