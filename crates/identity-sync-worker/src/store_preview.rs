//! The SQL of scope previews.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, TenantId},
    wire::v1::PreviewScopeResponse,
};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    preview::Seen,
    store_accounts::{column, expect_many},
};

/// Remembers what a page held.
pub(crate) async fn remember(
    tx: &mut Tx,
    tenant: TenantId,
    preview: Uuid,
    seen: &[Seen],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO scope_preview_accounts (tenant_id, preview_id, object_id, login, identifiers)
         SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::integer[])
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(preview)
    .bind(column!(seen, s => s.object_id.as_str()))
    .bind(column!(seen, s => s.login.as_str()))
    .bind(column!(seen, s => s.identifiers))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Compares what a preview read with the accounts of the integration.
pub(crate) async fn compare(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    preview: Uuid,
) -> Result<PreviewScopeResponse, StoreError> {
    expect_many(tx).await?;
    let covered = sqlx::query(
        "WITH covered AS (
             SELECT p.login, p.identifiers, a.account_id IS NULL AS new
             FROM scope_preview_accounts p
             LEFT JOIN accounts a ON a.tenant_id = $1 AND a.integration_id = $2 AND a.object_id = p.object_id
                                 AND a.removed_at IS NULL
             WHERE p.tenant_id = $1 AND p.preview_id = $3)
         SELECT count(*) FILTER (WHERE new) AS added, count(*) FILTER (WHERE NOT new) AS kept,
                coalesce(sum(identifiers) FILTER (WHERE new), 0)::bigint AS identifiers,
                ARRAY(SELECT login FROM covered WHERE new ORDER BY login LIMIT 20) AS sample
         FROM covered",
    )
    .bind(tenant)
    .bind(integration)
    .bind(preview)
    .fetch_one(&mut **tx)
    .await?;
    let left_out = sqlx::query(
        "WITH gone AS (
             SELECT a.account_id, a.login FROM accounts a
             LEFT JOIN scope_preview_accounts p
                    ON p.tenant_id = $1 AND p.preview_id = $3 AND p.object_id = a.object_id
             WHERE a.tenant_id = $1 AND a.integration_id = $2 AND a.removed_at IS NULL AND p.object_id IS NULL)
         SELECT (SELECT count(*) FROM gone) AS accounts,
                (SELECT count(*) FROM identifiers i JOIN gone USING (account_id) WHERE i.tenant_id = $1) AS identifiers,
                ARRAY(SELECT login FROM gone ORDER BY login LIMIT 20) AS sample,
                coalesce((SELECT u.identifiers FROM usage u WHERE u.tenant_id = $1), 0) AS used",
    )
    .bind(tenant)
    .bind(integration)
    .bind(preview)
    .fetch_one(&mut **tx)
    .await?;
    Ok(PreviewScopeResponse {
        accounts_added: covered.try_get("added")?,
        accounts_kept: covered.try_get("kept")?,
        identifiers_added: covered.try_get("identifiers")?,
        added_sample: covered.try_get("sample")?,
        accounts_removed: left_out.try_get("accounts")?,
        identifiers_removed: left_out.try_get("identifiers")?,
        removed_sample: left_out.try_get("sample")?,
        identifiers_used: left_out.try_get("used")?,
        ..PreviewScopeResponse::default()
    })
}

/// Forgets a preview, and those that were left behind by a worker that died.
pub(crate) async fn forget(tx: &mut Tx, tenant: TenantId, preview: Uuid) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM scope_preview_accounts
         WHERE tenant_id = $1 AND (preview_id = $2 OR read_at < statement_timestamp() - interval '1 day')",
    )
    .bind(tenant)
    .bind(preview)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
