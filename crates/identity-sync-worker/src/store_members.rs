//! The SQL of protected groups and roles and of who has them.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, TenantId},
    provider::{Members, Membership},
};
use sqlx::Row;
use time::OffsetDateTime;

/// A group or role whose members are kept, or were tried.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub of: Membership,
    pub tried_at: OffsetDateTime,
}

/// Kind and name, as stored.
fn parts(of: &Membership) -> (&'static str, &str) {
    match of {
        Membership::Group(name) => ("group", name),
        Membership::Role(name) => ("role", name),
    }
}

/// What is kept for an integration.
pub(crate) async fn sets(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<Vec<Set>, StoreError> {
    let rows = sqlx::query(
        "SELECT kind, name, tried_at FROM protected_sets WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .fetch_all(&mut **tx)
    .await?;
    let set = |row: &sqlx::postgres::PgRow| {
        let name: String = row.try_get("name")?;
        let of = match row.try_get::<&str, _>("kind")? {
            "group" => Membership::Group(name),
            _ => Membership::Role(name),
        };
        Ok(Set { of, tried_at: row.try_get("tried_at")? })
    };
    rows.iter().map(set).collect()
}

/// Puts what was read in the place of what was read before.
pub(crate) async fn replace(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    of: &Membership,
    members: Members,
) -> Result<(), StoreError> {
    let (kind, name) = parts(of);
    let Members { object_ids, known } = members;
    let object_ids: Vec<String> = object_ids.into_iter().collect();
    sqlx::query(
        "INSERT INTO protected_sets (tenant_id, integration_id, kind, name, read_at, known)
         VALUES ($1, $2, $3, $4, clock_timestamp(), $5)
         ON CONFLICT (tenant_id, integration_id, kind, name) DO UPDATE
         SET read_at = clock_timestamp(), known = $5, tried_at = clock_timestamp(), problem = NULL",
    )
    .bind(tenant)
    .bind(integration)
    .bind(kind)
    .bind(name)
    .bind(known)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM protected_members m WHERE tenant_id = $1 AND integration_id = $2 AND kind = $3 AND name = $4
           AND NOT EXISTS (SELECT FROM unnest($5::text[]) AS now (object_id) WHERE now.object_id = m.object_id)",
    )
    .bind(tenant)
    .bind(integration)
    .bind(kind)
    .bind(name)
    .bind(&object_ids)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO protected_members (tenant_id, integration_id, object_id, kind, name)
         SELECT $1, $2, object_id, $3, $4 FROM unnest($5::text[]) AS now (object_id) ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(integration)
    .bind(kind)
    .bind(name)
    .bind(&object_ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes why members could not be read; those that were read before stay.
pub(crate) async fn failed(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    of: &Membership,
    problem: &str,
) -> Result<(), StoreError> {
    let (kind, name) = parts(of);
    sqlx::query(
        "INSERT INTO protected_sets (tenant_id, integration_id, kind, name, problem) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id, integration_id, kind, name) DO UPDATE SET tried_at = clock_timestamp(), problem = $5",
    )
    .bind(tenant)
    .bind(integration)
    .bind(kind)
    .bind(name)
    .bind(problem)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets a group or role that the policy names no more.
pub(crate) async fn forget(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    of: &Membership,
) -> Result<(), StoreError> {
    let (kind, name) = parts(of);
    for delete in [
        "DELETE FROM protected_members WHERE tenant_id = $1 AND integration_id = $2 AND kind = $3 AND name = $4",
        "DELETE FROM protected_sets WHERE tenant_id = $1 AND integration_id = $2 AND kind = $3 AND name = $4",
    ] {
        sqlx::query(delete).bind(tenant).bind(integration).bind(kind).bind(name).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Forgets all of an integration that is gone.
pub(crate) async fn forget_all(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<(), StoreError> {
    for set in sets(tx, tenant, integration).await? {
        forget(tx, tenant, integration, &set.of).await?;
    }
    Ok(())
}
