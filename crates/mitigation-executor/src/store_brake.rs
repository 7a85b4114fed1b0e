//! What mitigations stand still for: the brake's counts, who let it go, pauses. Every function works in a transaction of
//! the tenant.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, TenantId},
    integration_store::Integration,
    policy,
};
use sqlx::Row;
use time::OffsetDateTime;

use crate::{
    plan::{Activity, Feed},
    store_requests::Target,
};

/// Lets one transaction at a time count and add automated mitigations of a tenant: two that count at once would both
/// pass the brake.
pub async fn lock_brake(tx: &mut Tx, tenant: TenantId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('mitigation brake ' || $1::text, 0))")
        .bind(tenant)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What was done automatically so far, and whether policy and integration, as they are now, were let run.
///
/// Every automated mitigation asks, one at a time in a tenant: the accounts are counted only when so many were contained
/// that their share matters, and no further than to tell that it is not too large.
pub async fn activity(
    tx: &mut Tx,
    target: &Target,
    integration: &Integration,
    policy: &policy::Current,
) -> Result<Activity, StoreError> {
    let row = sqlx::query(
        "WITH recent AS (
             SELECT account_id, max(created_at) AS last, bool_or(is_admin) AS is_admin FROM mitigations
             WHERE automatic AND released_by IS NULL AND state NOT IN ('held', 'refused')
               AND created_at > statement_timestamp() - interval '1 day'
             GROUP BY account_id),
         others AS (SELECT is_admin, last > statement_timestamp() - interval '1 hour' AS hour FROM recent WHERE account_id <> $1)
         SELECT EXISTS (SELECT FROM recent WHERE account_id = $1 AND last > statement_timestamp() - interval '1 hour') AS counted,
                (SELECT count(*) FILTER (WHERE hour) FROM others) AS hour,
                (SELECT count(*) FILTER (WHERE hour AND is_admin) FROM others) AS administrators,
                (SELECT count(*) FROM others) AS day,
                EXISTS (SELECT FROM armed WHERE integration_id = $2 AND version = $3 AND policy_version = $4) AS armed",
    )
    .bind(target.account)
    .bind(integration.id)
    .bind(integration.version)
    .bind(policy.version)
    .fetch_one(&mut **tx)
    .await?;
    let mut activity = Activity {
        account_counted: row.try_get("counted")?,
        is_admin: target.is_admin,
        accounts_last_hour: row.try_get("hour")?,
        administrators_last_hour: row.try_get("administrators")?,
        accounts_last_day: row.try_get("day")?,
        accounts: 0,
        armed: row.try_get("armed")?,
        feed: Feed::default(),
    };
    let limits = &policy.policy.brake;
    if activity.accounts_last_day >= i64::from(limits.share_from_accounts) {
        let enough =
            (activity.accounts_last_day + 1) * 100 / i64::from(limits.percent_of_accounts.max(1)) + 1;
        activity.accounts = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT FROM sync.accounts_v WHERE removed_at IS NULL LIMIT $1) a",
        )
        .bind(enough)
        .fetch_one(&mut **tx)
        .await?;
    }
    Ok(activity)
}

/// What a feed brought. The two weeks are looked at only when today is no small number, 1,000,000 exposures at most.
pub async fn feed(tx: &mut Tx, feed: &str, policy: &policy::Current) -> Result<Feed, StoreError> {
    let today: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT FROM validator.exposures_v
             WHERE feed = $1 AND NOT history AND received_at > statement_timestamp() - interval '1 day' LIMIT $2) e",
    )
    .bind(feed)
    .bind(i64::from(policy.policy.brake.feed_from_exposures) + 1)
    .fetch_one(&mut **tx)
    .await?;
    if today <= i64::from(policy.policy.brake.feed_from_exposures) {
        return Ok(Feed { today, before: 0 });
    }
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE today) AS today, count(*) FILTER (WHERE NOT today) AS before FROM (
             SELECT received_at > statement_timestamp() - interval '1 day' AS today FROM validator.exposures_v
             WHERE feed = $1 AND NOT history AND received_at > statement_timestamp() - interval '15 days'
             ORDER BY received_at DESC LIMIT 1000000) e",
    )
    .bind(feed)
    .fetch_one(&mut **tx)
    .await?;
    Ok(Feed { today: row.try_get("today")?, before: row.try_get("before")? })
}

/// Remembers that a person let automated mitigations run for these versions of an integration and of the policy.
pub async fn arm(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    version: i64,
    policy_version: i32,
    by: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO armed AS a (tenant_id, integration_id, version, policy_version, armed_by) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, integration_id) DO UPDATE
             SET version = excluded.version, policy_version = excluded.policy_version, armed_by = excluded.armed_by,
                 armed_at = excluded.armed_at
             WHERE (a.version, a.policy_version) <> (excluded.version, excluded.policy_version)",
    )
    .bind(tenant)
    .bind(integration)
    .bind(version)
    .bind(policy_version)
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
