//! The SQL of accounts. Every transaction here is a tenant's; everything is written in bulk, from arrays.

use std::collections::HashMap;

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, IdentityId, IntegrationId, SyncRunId, TenantId},
    provider::{Account, AccountKind, AccountState, PasswordAuthority},
};
use sqlx::{Row, postgres::PgRow};

use crate::page::{GONE, Known, Write};

/// Separates the addresses of an account on their way in; addresses hold no control characters.
const SEPARATOR: &str = "\n";

macro_rules! column {
    ($rows:expr, $row:ident => $value:expr) => {
        $rows.iter().map(|$row| $value).collect::<Vec<_>>()
    };
}
pub(crate) use column;

/// Locks the tenant's usage for the rest of the transaction and returns its number of identifiers. Pages of one
/// tenant wait for each other here, so that the cap holds exactly and a person gets one identity.
pub(crate) async fn lock_usage(tx: &mut Tx, tenant: TenantId) -> Result<i64, StoreError> {
    const LOCK: &str = "SELECT identifiers FROM usage WHERE tenant_id = $1 FOR UPDATE";
    if let Some(identifiers) = sqlx::query_scalar(LOCK).bind(tenant).fetch_optional(&mut **tx).await? {
        return Ok(identifiers);
    }
    sqlx::query("INSERT INTO usage (tenant_id) VALUES ($1) ON CONFLICT (tenant_id) DO NOTHING")
        .bind(tenant)
        .execute(&mut **tx)
        .await?;
    Ok(sqlx::query_scalar(LOCK).bind(tenant).fetch_one(&mut **tx).await?)
}

/// What is stored of these objects of a directory.
pub(crate) async fn known(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    objects: &[&str],
) -> Result<HashMap<String, Known>, StoreError> {
    sqlx::query(
        "SELECT * FROM accounts WHERE tenant_id = $1 AND integration_id = $2 AND object_id = ANY ($3)",
    )
    .bind(tenant)
    .bind(integration)
    .bind(objects)
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(|row| read(row).map(|known| (known.account.object_id.clone(), known)))
    .collect()
}

/// Some accounts of an integration that are there and have no identity yet.
pub(crate) async fn without_identity(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    limit: i64,
) -> Result<Vec<Account>, StoreError> {
    sqlx::query(
        "SELECT * FROM accounts WHERE tenant_id = $1 AND integration_id = $2 AND identity_id IS NULL
           AND removed_at IS NULL AND missing_since IS NULL LIMIT $3",
    )
    .bind(tenant)
    .bind(integration)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(|row| read(row).map(|known| known.account))
    .collect()
}

fn read(row: &PgRow) -> Result<Known, StoreError> {
    let unknown =
        |column: &str| StoreError::Corrupt(format!("column sync.accounts.{column} has an unknown value"));
    Ok(Known {
        id: row.try_get("account_id")?,
        identity: row.try_get("identity_id")?,
        missing: row.try_get::<Option<time::OffsetDateTime>, _>("missing_since")?.is_some(),
        removed: row.try_get::<Option<time::OffsetDateTime>, _>("removed_at")?.is_some(),
        account: Account {
            object_id: row.try_get("object_id")?,
            login: row.try_get("login")?,
            display_name: row.try_get("display_name")?,
            addresses: row.try_get("addresses")?,
            state: AccountState::parse(row.try_get("state")?).ok_or_else(|| unknown("state"))?,
            kind: AccountKind::parse(row.try_get("kind")?).ok_or_else(|| unknown("kind"))?,
            authority: PasswordAuthority::parse(row.try_get("authority")?)
                .ok_or_else(|| unknown("authority"))?,
            hybrid: row.try_get("hybrid")?,
            under_policy: Some(
                row.try_get::<Option<time::OffsetDateTime>, _>("under_policy_since")?.is_some(),
            ),
            is_admin: row.try_get("is_admin")?,
            password_changed_at: row.try_get("password_changed_at")?,
            last_sign_in_at: row.try_get("last_sign_in_at")?,
            created_at: row.try_get("created_at_directory")?,
            removed: false,
        },
    })
}

/// Where accounts belong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub tenant: TenantId,
    pub integration: IntegrationId,
    pub provider: &'static str,
    pub directory: &'a str,
}

/// Adds accounts.
pub(crate) async fn insert(tx: &mut Tx, place: Place<'_>, writes: &[Write]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(
        "INSERT INTO accounts (tenant_id, integration_id, provider, directory_id, account_id, identity_id, object_id, login,
                               login_key, display_name, addresses, state, kind, authority, is_admin, hybrid,
                               password_changed_at, last_sign_in_at, created_at_directory, under_policy_since)
         SELECT $1, $2, $3, $4, n.account_id, n.identity_id, n.object_id, n.login, n.login_key, n.display_name,
                string_to_array(n.addresses, E'\\n'), n.state, n.kind, n.authority, n.is_admin, n.hybrid,
                n.password_changed_at, n.last_sign_in_at, n.created_at_directory,
                CASE WHEN n.under_policy THEN clock_timestamp() END
         FROM unnest($5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                     $13::text[], $14::text[], $15::boolean[], $16::boolean[], $17::timestamptz[], $18::timestamptz[],
                     $19::timestamptz[], $20::boolean[])
              AS n (account_id, identity_id, object_id, login, login_key, display_name, addresses, state, kind, authority,
                    is_admin, hybrid, password_changed_at, last_sign_in_at, created_at_directory, under_policy)",
    );
    bind(query, place, writes).execute(&mut **tx).await?;
    Ok(())
}

/// Rewrites accounts that changed or came back. One that was away may have been anything meanwhile: since when its
/// passwords are under the directory's rules counts anew.
pub(crate) async fn update(tx: &mut Tx, place: Place<'_>, writes: &[Write]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(
        "UPDATE accounts AS a SET
             provider = $3, directory_id = $4, identity_id = n.identity_id, login = n.login, login_key = n.login_key,
             display_name = n.display_name, addresses = string_to_array(n.addresses, E'\\n'), state = n.state, kind = n.kind,
             authority = n.authority, is_admin = n.is_admin, hybrid = n.hybrid, password_changed_at = n.password_changed_at,
             last_sign_in_at = n.last_sign_in_at, created_at_directory = n.created_at_directory,
             under_policy_since = CASE WHEN n.under_policy THEN
                 coalesce(CASE WHEN a.missing_since IS NULL THEN a.under_policy_since END, clock_timestamp()) END,
             changed_at = clock_timestamp(), missing_since = NULL, missing_run = NULL, removed_at = NULL,
             version = a.version + 1
         FROM unnest($5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                     $13::text[], $14::text[], $15::boolean[], $16::boolean[], $17::timestamptz[], $18::timestamptz[],
                     $19::timestamptz[], $20::boolean[])
              AS n (account_id, identity_id, object_id, login, login_key, display_name, addresses, state, kind, authority,
                    is_admin, hybrid, password_changed_at, last_sign_in_at, created_at_directory, under_policy)
         WHERE a.tenant_id = $1 AND a.integration_id = $2 AND a.account_id = n.account_id",
    );
    bind(query, place, writes).execute(&mut **tx).await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Query<'q>, place: Place<'_>, writes: &[Write]) -> Query<'q> {
    query
        .bind(place.tenant)
        .bind(place.integration)
        .bind(place.provider)
        .bind(place.directory.to_owned())
        .bind(column!(writes, w => w.id.uuid()))
        .bind(column!(writes, w => w.identity.map(IdentityId::uuid)))
        .bind(column!(writes, w => w.account.object_id.clone()))
        .bind(column!(writes, w => w.account.login.clone()))
        .bind(column!(writes, w => w.login_key.clone()))
        .bind(column!(writes, w => w.account.display_name.clone()))
        .bind(column!(writes, w => w.account.addresses.join(SEPARATOR)))
        .bind(column!(writes, w => w.account.state.as_str()))
        .bind(column!(writes, w => w.account.kind.as_str()))
        .bind(column!(writes, w => w.account.authority.as_str()))
        .bind(column!(writes, w => w.account.is_admin))
        .bind(column!(writes, w => w.account.hybrid))
        .bind(column!(writes, w => w.account.password_changed_at))
        .bind(column!(writes, w => w.account.last_sign_in_at))
        .bind(column!(writes, w => w.account.created_at))
        .bind(column!(writes, w => w.account.under_policy.unwrap_or_default()))
}

/// The directory said that these accounts are gone. They are not removed for it: full runs have to confirm.
pub(crate) async fn mark_gone(
    tx: &mut Tx,
    tenant: TenantId,
    accounts: &[AccountId],
) -> Result<(), StoreError> {
    if accounts.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE accounts SET state = $3, missing_since = clock_timestamp(), changed_at = clock_timestamp(), version = version + 1
         WHERE tenant_id = $1 AND account_id = ANY ($2) AND missing_since IS NULL",
    )
    .bind(tenant)
    .bind(column!(accounts, a => a.uuid()))
    .bind(GONE.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What a full run did not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Absent {
    /// Accounts known before, not removed.
    pub known: i64,
    /// Not found for the first time.
    pub newly: i64,
    /// Not found again, after an earlier full run.
    pub confirmed: i64,
}

/// Has the rest of the transaction compare lists as a whole. A first run ends before the server has statistics of what
/// it stored: it takes both lists for a handful and goes through one for each entry of the other, which took 11 s and
/// more for 20,000 accounts and grows with the square.
pub(crate) async fn expect_many(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query("SELECT set_config('enable_nestloop', 'off', true)").execute(&mut **tx).await?;
    Ok(())
}

/// Counts what a full run did not find.
pub(crate) async fn count_absent(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    run: SyncRunId,
) -> Result<Absent, StoreError> {
    let row = sqlx::query(
        "WITH seen AS (SELECT unnest(accounts) AS account_id FROM run_pages WHERE tenant_id = $1 AND run_id = $3)
         SELECT count(*) AS known,
                count(*) FILTER (WHERE s.account_id IS NULL AND a.missing_run IS NULL) AS newly,
                count(*) FILTER (WHERE s.account_id IS NULL AND a.missing_run <> $3) AS confirmed
         FROM accounts a LEFT JOIN (SELECT DISTINCT account_id FROM seen) s USING (account_id)
         WHERE a.tenant_id = $1 AND a.integration_id = $2 AND a.removed_at IS NULL",
    )
    .bind(tenant)
    .bind(integration)
    .bind(run)
    .fetch_one(&mut **tx)
    .await?;
    Ok(Absent {
        known: row.try_get("known")?,
        newly: row.try_get("newly")?,
        confirmed: row.try_get("confirmed")?,
    })
}

/// Marks what a full run did not find for the first time as missing, and removes what it did not find again; returns
/// both. The brake has agreed before.
pub(crate) async fn apply_absence(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    run: SyncRunId,
) -> Result<(Vec<AccountId>, Vec<AccountId>), StoreError> {
    let rows = sqlx::query(
        "WITH seen AS (SELECT unnest(accounts) AS account_id FROM run_pages WHERE tenant_id = $1 AND run_id = $3)
         UPDATE accounts a SET
             removed_at = CASE WHEN missing_run IS NULL THEN NULL ELSE clock_timestamp() END,
             missing_since = coalesce(missing_since, clock_timestamp()),
             missing_run = coalesce(missing_run, $3), changed_at = clock_timestamp(), version = version + 1
         WHERE a.tenant_id = $1 AND a.integration_id = $2 AND a.removed_at IS NULL
           AND NOT EXISTS (SELECT FROM seen s WHERE s.account_id = a.account_id)
           AND a.missing_run IS DISTINCT FROM $3
         RETURNING a.account_id, a.removed_at IS NOT NULL AS removed",
    )
    .bind(tenant)
    .bind(integration)
    .bind(run)
    .fetch_all(&mut **tx)
    .await?;
    let (mut missing, mut removed) = (Vec::new(), Vec::new());
    for row in rows {
        let list = if row.try_get("removed")? { &mut removed } else { &mut missing };
        list.push(row.try_get("account_id")?);
    }
    Ok((missing, removed))
}

/// Removes some accounts of a deleted integration.
pub(crate) async fn remove_some(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
    limit: i64,
) -> Result<Vec<AccountId>, StoreError> {
    Ok(sqlx::query_scalar(
        "UPDATE accounts SET removed_at = clock_timestamp(), missing_since = coalesce(missing_since, clock_timestamp()),
             changed_at = clock_timestamp(), version = version + 1
         WHERE tenant_id = $1 AND account_id IN (
             SELECT account_id FROM accounts WHERE tenant_id = $1 AND integration_id = $2 AND removed_at IS NULL LIMIT $3)
         RETURNING account_id",
    )
    .bind(tenant)
    .bind(integration)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}
