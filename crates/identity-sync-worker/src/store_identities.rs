//! The SQL of identities and identifiers, those that wait for a higher cap included. Every transaction here is a
//! tenant's; everything is written in bulk, from arrays.

use std::collections::HashMap;

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, IdentifierId, IdentityId, IntegrationId, TenantId},
};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    page::{Kind, Write},
    store_accounts::column,
};

/// The identities of accounts that are there and have these sign-in names.
pub(crate) async fn identities_by_login(
    tx: &mut Tx,
    tenant: TenantId,
    keys: &[&str],
) -> Result<HashMap<String, IdentityId>, StoreError> {
    sqlx::query(
        "SELECT DISTINCT ON (login_key) login_key, identity_id FROM accounts
         WHERE tenant_id = $1 AND login_key = ANY ($2) AND identity_id IS NOT NULL AND removed_at IS NULL
         ORDER BY login_key, first_seen_at",
    )
    .bind(tenant)
    .bind(keys)
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(|row| Ok((row.try_get("login_key")?, row.try_get("identity_id")?)))
    .collect()
}

/// Adds identities.
pub(crate) async fn insert_identities(
    tx: &mut Tx,
    tenant: TenantId,
    identities: &[(IdentityId, String)],
) -> Result<(), StoreError> {
    if identities.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO identities (tenant_id, identity_id, display_name)
         SELECT $1, n.identity_id, n.display_name FROM unnest($2::uuid[], $3::text[]) AS n (identity_id, display_name)",
    )
    .bind(tenant)
    .bind(column!(identities, i => i.0.uuid()))
    .bind(column!(identities, i => i.1.as_str()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Lets identities follow their accounts: a new display name, or back from removal.
pub(crate) async fn follow_identities(
    tx: &mut Tx,
    tenant: TenantId,
    writes: &[Write],
) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE identities AS i SET display_name = n.display_name, removed_at = NULL
         FROM unnest($2::uuid[], $3::text[]) AS n (identity_id, display_name)
         WHERE i.tenant_id = $1 AND i.identity_id = n.identity_id
           AND (i.display_name <> n.display_name OR i.removed_at IS NOT NULL)",
    )
    .bind(tenant)
    .bind(column!(writes, w => w.identity.map(IdentityId::uuid)))
    .bind(column!(writes, w => w.account.display_name.as_str()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// An identifier that an account has, or that waits for a higher cap (no id).
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub account: AccountId,
    pub value: String,
    pub id: Option<IdentifierId>,
}

/// The identifiers that these accounts have, and those that wait.
pub(crate) async fn held(
    tx: &mut Tx,
    tenant: TenantId,
    accounts: &[AccountId],
) -> Result<Vec<Held>, StoreError> {
    sqlx::query(
        "SELECT account_id, value, identifier_id FROM identifiers WHERE tenant_id = $1 AND account_id = ANY ($2)
         UNION ALL
         SELECT account_id, value, NULL FROM identifiers_skipped WHERE tenant_id = $1 AND account_id = ANY ($2)",
    )
    .bind(tenant)
    .bind(column!(accounts, a => a.uuid()))
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(|row| {
        Ok(Held {
            account: row.try_get("account_id")?,
            value: row.try_get("value")?,
            id: row.try_get("identifier_id")?,
        })
    })
    .collect()
}

/// An identifier to be made, or to be remembered.
#[derive(Clone, Debug)]
pub(crate) struct NewIdentifier {
    pub account: AccountId,
    pub identity: IdentityId,
    pub kind: Kind,
    pub value: String,
}

/// Makes identifiers; the lookup and the count follow by trigger.
pub(crate) async fn insert_identifiers(
    tx: &mut Tx,
    tenant: TenantId,
    new: &[NewIdentifier],
) -> Result<Vec<IdentifierId>, StoreError> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<IdentifierId> = new.iter().map(|_| IdentifierId::new()).collect();
    sqlx::query(
        "INSERT INTO identifiers (tenant_id, identifier_id, identity_id, account_id, value, kind)
         SELECT $1, n.* FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[])
              AS n (identifier_id, identity_id, account_id, value, kind)",
    )
    .bind(tenant)
    .bind(column!(ids, id => id.uuid()))
    .bind(column!(new, n => n.identity.uuid()))
    .bind(column!(new, n => n.account.uuid()))
    .bind(column!(new, n => n.value.as_str()))
    .bind(column!(new, n => n.kind.as_str()))
    .execute(&mut **tx)
    .await?;
    Ok(ids)
}

/// Remembers identifiers that the cap leaves no room for.
pub(crate) async fn insert_skipped(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    skipped: &[NewIdentifier],
) -> Result<(), StoreError> {
    if skipped.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO identifiers_skipped (tenant_id, integration_id, account_id, value, kind)
         SELECT $1, $2, n.* FROM unnest($3::uuid[], $4::text[], $5::text[]) AS n (account_id, value, kind)",
    )
    .bind(tenant)
    .bind(integration)
    .bind(column!(skipped, n => n.account.uuid()))
    .bind(column!(skipped, n => n.value.as_str()))
    .bind(column!(skipped, n => n.kind.as_str()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes away identifiers their accounts no longer have; returns how many were made and how many were waiting.
pub(crate) async fn delete_held(
    tx: &mut Tx,
    tenant: TenantId,
    gone: &[Held],
) -> Result<(i64, i64), StoreError> {
    let made: Vec<Uuid> = gone.iter().filter_map(|h| h.id.map(IdentifierId::uuid)).collect();
    let waiting: Vec<&Held> = gone.iter().filter(|h| h.id.is_none()).collect();
    if !made.is_empty() {
        sqlx::query("DELETE FROM identifiers WHERE tenant_id = $1 AND identifier_id = ANY ($2)")
            .bind(tenant)
            .bind(&made)
            .execute(&mut **tx)
            .await?;
    }
    if !waiting.is_empty() {
        sqlx::query(
            "DELETE FROM identifiers_skipped s USING unnest($2::uuid[], $3::text[]) AS g (account_id, value)
             WHERE s.tenant_id = $1 AND s.account_id = g.account_id AND s.value = g.value",
        )
        .bind(tenant)
        .bind(column!(waiting, h => h.account.uuid()))
        .bind(column!(waiting, h => h.value.as_str()))
        .execute(&mut **tx)
        .await?;
    }
    Ok((count(made.len()), count(waiting.len())))
}

/// How many identifiers of an integration wait for a higher cap.
pub(crate) async fn count_skipped(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM identifiers_skipped WHERE tenant_id = $1 AND integration_id = $2",
    )
    .bind(tenant)
    .bind(integration)
    .fetch_one(&mut **tx)
    .await?)
}

/// Takes some identifiers off the waiting list, logins first, for the caller to make.
pub(crate) async fn take_skipped(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    limit: i64,
) -> Result<Vec<NewIdentifier>, StoreError> {
    sqlx::query(
        "WITH taken AS (
             SELECT s.account_id, s.value FROM identifiers_skipped s
             JOIN accounts a ON a.tenant_id = s.tenant_id AND a.account_id = s.account_id AND a.identity_id IS NOT NULL
             WHERE s.tenant_id = $1 AND s.integration_id = $2
             ORDER BY array_position(ARRAY['login', 'email', 'alias'], s.kind), s.account_id, s.value LIMIT $3)
         DELETE FROM identifiers_skipped s USING taken t, accounts a
         WHERE s.tenant_id = $1 AND s.account_id = t.account_id AND s.value = t.value
           AND a.tenant_id = $1 AND a.account_id = t.account_id
         RETURNING s.account_id, s.value, s.kind, a.identity_id",
    )
    .bind(tenant)
    .bind(integration)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(|row| {
        let kind = match row.try_get("kind")? {
            "login" => Kind::Login,
            "email" => Kind::Email,
            _ => Kind::Alias,
        };
        Ok(NewIdentifier {
            account: row.try_get("account_id")?,
            identity: row.try_get("identity_id")?,
            kind,
            value: row.try_get("value")?,
        })
    })
    .collect()
}

/// Ends identities whose last account was removed; returns how many.
pub(crate) async fn end_identities(
    tx: &mut Tx,
    tenant: TenantId,
    removed: &[AccountId],
) -> Result<u64, StoreError> {
    Ok(sqlx::query(
        "UPDATE identities i SET removed_at = clock_timestamp()
         WHERE i.tenant_id = $1 AND i.removed_at IS NULL
           AND i.identity_id IN (SELECT identity_id FROM accounts WHERE tenant_id = $1 AND account_id = ANY ($2))
           AND NOT EXISTS (SELECT FROM accounts a WHERE a.tenant_id = $1 AND a.identity_id = i.identity_id
                           AND a.removed_at IS NULL)",
    )
    .bind(tenant)
    .bind(column!(removed, a => a.uuid()))
    .execute(&mut **tx)
    .await?
    .rows_affected())
}

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
