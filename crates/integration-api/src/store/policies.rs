//! Mitigation policies: every version is kept, the highest is in force.

use shared::{
    db::{StoreError, Tx},
    id::TenantId,
    policy::MitigationPolicy,
};
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;

/// A policy that somebody made.
#[derive(Clone, Debug, FromRow)]
pub struct Version {
    /// Grows with every change.
    pub version: i32,
    /// It.
    pub policy: Json<MitigationPolicy>,
    /// Who made it, for display.
    pub updater_name: String,
    /// When.
    pub created_at: OffsetDateTime,
}

/// The policy in force; none when the tenant has the defaults.
pub async fn newest(tx: &mut Tx, tenant: TenantId) -> Result<Option<Version>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT version, policy, updater_name, created_at FROM mitigation_policies
         WHERE tenant_id = $1 ORDER BY version DESC LIMIT 1",
    )
    .bind(tenant)
    .fetch_optional(&mut **tx)
    .await?)
}

/// Kinds and names of protected groups and roles that were looked for, and that no directory of the tenant knew.
pub async fn unknown(tx: &mut Tx, tenant: TenantId) -> Result<Vec<(String, String)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT kind, name FROM sync.protected_sets_v WHERE tenant_id = $1
         GROUP BY kind, name HAVING bool_and(read_at IS NOT NULL AND NOT known) ORDER BY kind, name",
    )
    .bind(tenant)
    .fetch_all(&mut **tx)
    .await?)
}

/// Puts a version in force; false when somebody else has made it meanwhile.
pub async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    version: i32,
    policy: &MitigationPolicy,
    reason: &str,
    (subject, name): (&str, &str),
) -> Result<bool, StoreError> {
    let made = sqlx::query(
        "INSERT INTO mitigation_policies (tenant_id, version, policy, reason, updated_by, updater_name)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(version)
    .bind(Json(policy))
    .bind(reason)
    .bind(subject)
    .bind(name)
    .execute(&mut **tx)
    .await?;
    Ok(made.rows_affected() == 1)
}
