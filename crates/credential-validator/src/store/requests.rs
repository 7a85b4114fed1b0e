//! What people and changed accounts ask for.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, ExposureId, TenantId, ValidationId},
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

/// An exposure that is to have its turn, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopened {
    pub exposure: ExposureId,
    pub directory: String,
}

fn reopened(rows: Vec<PgRow>) -> Result<Vec<Reopened>, StoreError> {
    rows.into_iter()
        .map(|row| {
            Ok(Reopened {
                exposure: ExposureId(row.try_get("exposure_id")?),
                directory: row.try_get("directory_id")?,
            })
        })
        .collect()
}

/// Whether a validation request decides again what is decided; `None`: there is no such request.
pub async fn force(tx: &mut Tx, validation: ValidationId) -> Result<Option<bool>, StoreError> {
    Ok(sqlx::query_scalar("SELECT force FROM api.validation_requests_v WHERE validation_id = $1")
        .bind(validation)
        .fetch_optional(&mut **tx)
        .await?)
}

/// The next page of a request's exposures.
pub async fn items(
    tx: &mut Tx,
    validation: ValidationId,
    after: Option<ExposureId>,
    page: i64,
) -> Result<Vec<ExposureId>, StoreError> {
    let ids = sqlx::query_scalar(
        "SELECT exposure_id FROM api.validation_items_v
         WHERE validation_id = $1 AND ($2::uuid IS NULL OR exposure_id > $2) ORDER BY exposure_id LIMIT $3",
    )
    .bind(validation)
    .bind(after)
    .bind(page)
    .fetch_all(&mut **tx)
    .await?;
    Ok(ids.into_iter().map(ExposureId).collect())
}

/// Marks exposures as asked for by a person. Those that wait go on waiting; those nobody wanted wait now; decided
/// ones only when forced, each in a new round, and never one whose proven password is destroyed.
pub async fn request(
    tx: &mut Tx,
    tenant: TenantId,
    exposures: &[ExposureId],
    force: bool,
) -> Result<Vec<Reopened>, StoreError> {
    let rows = sqlx::query(
        "WITH mine AS (
             SELECT exposure_id FROM exposures
             WHERE tenant_id = $1 AND exposure_id = ANY ($2)
               AND (state IN ('idle', 'waiting')
                    OR ($3 AND state = 'decided' AND NOT (attempts > 0 AND secret_sealed IS NULL)))
             ORDER BY exposure_id FOR UPDATE)
         UPDATE exposures e SET requested = true, wanted = true,
             round = round + CASE WHEN state = 'waiting' THEN 0 ELSE 1 END,
             verdict = CASE WHEN state = 'waiting' THEN verdict END,
             verdict_reason = CASE WHEN state = 'waiting' THEN verdict_reason END,
             deferred_until = CASE WHEN state = 'waiting' THEN deferred_until END,
             decided_without_attempt = false, state = 'waiting'
         FROM mine WHERE e.tenant_id = $1 AND e.exposure_id = mine.exposure_id
         RETURNING e.exposure_id, e.directory_id",
    )
    .bind(tenant)
    .bind(uuids(exposures))
    .bind(force)
    .fetch_all(&mut **tx)
    .await?;
    reopened(rows)
}

/// Exposures that a change of these accounts may decide or reopen: those that wait, and those that could not be
/// tested because of the account.
pub async fn affected(
    tx: &mut Tx,
    tenant: TenantId,
    accounts: &[AccountId],
) -> Result<Vec<Reopened>, StoreError> {
    let rows = sqlx::query(
        "WITH mine AS (
             SELECT exposure_id FROM exposures
             WHERE tenant_id = $1 AND account_id = ANY ($2)
               AND (state = 'waiting' OR (state = 'decided' AND verdict = 'not_testable' AND verdict_reason IN
                    ('account_disabled', 'account_locked', 'account_gone', 'account_state', 'guest', 'passwordless',
                     'federated', 'ad_backed', 'reserve', 'threshold_too_low')))
             ORDER BY exposure_id FOR UPDATE)
         UPDATE exposures e SET state = 'waiting', round = round + CASE WHEN state = 'waiting' THEN 0 ELSE 1 END
         FROM mine WHERE e.tenant_id = $1 AND e.exposure_id = mine.exposure_id
         RETURNING e.exposure_id, e.directory_id",
    )
    .bind(tenant)
    .bind(accounts.iter().map(|a| a.uuid()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    reopened(rows)
}

/// Every tenant there is.
pub async fn tenants(tx: &mut Tx) -> Result<Vec<TenantId>, StoreError> {
    let ids = sqlx::query_scalar("SELECT tenant_id FROM api.tenants_v").fetch_all(&mut **tx).await?;
    Ok(ids.into_iter().map(TenantId).collect())
}

fn uuids(exposures: &[ExposureId]) -> Vec<Uuid> {
    exposures.iter().map(|e| e.uuid()).collect()
}
