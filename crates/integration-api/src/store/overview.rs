//! Counts by day, through the owners' views; days that are over are kept.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
};
use sqlx::FromRow;
use time::Date;

/// Days an overview goes back, today included.
pub const DAYS: i32 = 30;

/// What happened on one day of a tenant.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Day {
    /// The day, in the tenant's time zone.
    pub day: Date,
    /// Exposures made.
    pub exposures: i64,
    /// Verdicts of the three kinds of valid.
    pub valid: i64,
    /// Verdicts `invalid`.
    pub invalid: i64,
    /// Other verdicts.
    pub undecided: i64,
    /// Mitigations planned on that day that were carried out.
    pub mitigations: i64,
    /// Attempts.
    pub attempts: i64,
    /// Verdicts of triage.
    pub attempts_saved: i64,
}

/// The last [`DAYS`] days of a tenant, oldest first, each of them.
///
/// Counts from the first day that is not kept, one index entry for each exposure, verdict, mitigation and attempt since
/// then, and keeps those that are over for a day. What changes later about such a day is not seen: a verdict counts on the
/// day it was given.
pub async fn days(tx: &mut Tx, tenant: TenantId, zone: &str) -> Result<Vec<Day>, StoreError> {
    let (today, from): (Date, Date) = sqlx::query_as(
        "SELECT t.today, (SELECT min(d)::date FROM generate_series(t.today - $3 + 1, t.today, interval '1 day') d
                          WHERE NOT EXISTS (SELECT FROM overview_days o
                                            WHERE o.tenant_id = $1 AND o.time_zone = $2 AND o.day = d::date))
         FROM (SELECT (statement_timestamp() AT TIME ZONE $2)::date AS today) t",
    )
    .bind(tenant)
    .bind(zone)
    .bind(DAYS)
    .fetch_one(&mut **tx)
    .await?;
    let counted: Vec<Day> = sqlx::query_as(
        "WITH since AS (SELECT $3::date::timestamp AT TIME ZONE $2 AS at),
         found AS (
             SELECT (created_at AT TIME ZONE $2)::date AS day, count(*) AS exposures, 0 AS valid, 0 AS invalid,
                    0 AS undecided, 0 AS mitigations, 0 AS attempts, 0 AS saved
             FROM validator.exposures_v WHERE tenant_id = $1 AND created_at >= (SELECT at FROM since) GROUP BY 1
             UNION ALL
             SELECT (verdict_at AT TIME ZONE $2)::date, 0, count(*) FILTER (WHERE verdict LIKE 'valid%'),
                    count(*) FILTER (WHERE verdict = 'invalid'),
                    count(*) FILTER (WHERE verdict NOT LIKE 'valid%' AND verdict <> 'invalid'), 0, 0,
                    count(*) FILTER (WHERE decided_without_attempt AND decided_by <> 'retention')
             FROM validator.exposures_v
             WHERE tenant_id = $1 AND verdict_at >= (SELECT at FROM since) AND state = 'decided' GROUP BY 1
             UNION ALL
             SELECT (created_at AT TIME ZONE $2)::date, 0, 0, 0, 0, count(*), 0, 0
             FROM mitigation.mitigations_v
             WHERE tenant_id = $1 AND created_at >= (SELECT at FROM since) AND undoes IS NULL
               AND state IN ('done', 'verified', 'reverted', 'undone') GROUP BY 1
             UNION ALL
             SELECT day, 0, 0, 0, 0, 0, attempts, 0
             FROM validator.attempts_by_day($2, (SELECT at FROM since)))
         SELECT d::date AS day, coalesce(sum(exposures), 0)::bigint AS exposures, coalesce(sum(valid), 0)::bigint AS valid,
                coalesce(sum(invalid), 0)::bigint AS invalid, coalesce(sum(undecided), 0)::bigint AS undecided,
                coalesce(sum(mitigations), 0)::bigint AS mitigations, coalesce(sum(attempts), 0)::bigint AS attempts,
                coalesce(sum(saved), 0)::bigint AS attempts_saved
         FROM generate_series($3::date, $4::date, interval '1 day') d LEFT JOIN found f ON f.day = d::date
         GROUP BY d ORDER BY d",
    )
    .bind(tenant)
    .bind(zone)
    .bind(from)
    .bind(today)
    .fetch_all(&mut **tx)
    .await?;
    let over = counted.iter().filter(|day| (today - day.day).whole_days() >= 2);
    for Day { day, exposures, valid, invalid, undecided, mitigations, attempts, attempts_saved } in over {
        sqlx::query(
            "INSERT INTO overview_days (tenant_id, time_zone, day, exposures, valid, invalid, undecided, mitigations, attempts,
                 attempts_saved)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(zone)
        .bind(day)
        .bind(exposures)
        .bind(valid)
        .bind(invalid)
        .bind(undecided)
        .bind(mitigations)
        .bind(attempts)
        .bind(attempts_saved)
        .execute(&mut **tx)
        .await?;
    }
    sqlx::query("DELETE FROM overview_days WHERE tenant_id = $1 AND (day <= $2 - $3 OR time_zone <> $4)")
        .bind(tenant)
        .bind(today)
        .bind(DAYS)
        .bind(zone)
        .execute(&mut **tx)
        .await?;
    let mut days: Vec<Day> = sqlx::query_as(
        "SELECT day, exposures, valid, invalid, undecided, mitigations, attempts, attempts_saved FROM overview_days
         WHERE tenant_id = $1 AND time_zone = $2 AND day < $3 ORDER BY day",
    )
    .bind(tenant)
    .bind(zone)
    .bind(from)
    .fetch_all(&mut **tx)
    .await?;
    days.extend(counted);
    Ok(days)
}
