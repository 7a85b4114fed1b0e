//! Accounts, identities and identifiers, as the sync worker shows them.

use shared::{
    db::{StoreError, Tx},
    id::{AccountId, IdentifierId, IdentityId, IntegrationId, TenantId},
    integration::{Connection, Settings},
};
use sqlx::{FromRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

/// An account.
#[derive(Clone, Debug, FromRow)]
pub struct Account {
    /// Id.
    pub account_id: AccountId,
    /// Integration.
    pub integration_id: IntegrationId,
    /// Kind of provider.
    pub provider: String,
    /// Immutable id of the directory.
    pub directory_id: String,
    /// Immutable object id.
    pub object_id: String,
    /// Sign-in name.
    pub login: String,
    /// Display name.
    pub display_name: String,
    /// State.
    pub state: String,
    /// Member or guest.
    pub kind: String,
    /// Who checks the password.
    pub authority: String,
    /// Administrator.
    pub is_admin: bool,
    /// Mastered on premises.
    pub hybrid: bool,
    /// Last password change.
    pub password_changed_at: Option<OffsetDateTime>,
    /// Last sign-in.
    pub last_sign_in_at: Option<OffsetDateTime>,
    /// Created in the directory.
    pub created_at_directory: Option<OffsetDateTime>,
    /// First seen.
    pub first_seen_at: OffsetDateTime,
    /// Last seen.
    pub last_seen_at: Option<OffsetDateTime>,
    /// Not shown by the directory since.
    pub missing_since: Option<OffsetDateTime>,
    /// Found to be gone.
    pub removed_at: Option<OffsetDateTime>,
    /// Identity.
    pub identity_id: Option<IdentityId>,
}

/// An identity.
#[derive(Clone, Debug, FromRow)]
pub struct Identity {
    /// Id.
    pub identity_id: IdentityId,
    /// Display name.
    pub display_name: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// An identifier.
#[derive(Clone, Debug, FromRow)]
pub struct Identifier {
    /// Id.
    pub identifier_id: IdentifierId,
    /// Account it came from.
    pub account_id: AccountId,
    /// Normalised string.
    pub value: String,
    /// Kind.
    pub kind: String,
    /// Source.
    pub source: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// Identities after a place, in order of creation.
pub async fn identities(
    tx: &mut Tx,
    tenant: TenantId,
    integration: Option<IntegrationId>,
    identifier: Option<&str>,
    after: Option<(OffsetDateTime, IdentityId)>,
    limit: i64,
) -> Result<Vec<Identity>, StoreError> {
    let (at, id) = after.unzip();
    Ok(sqlx::query_as(
        "SELECT i.identity_id, i.display_name, i.created_at FROM sync.identities_v i
         WHERE i.tenant_id = $1 AND i.removed_at IS NULL
               AND ($2::uuid IS NULL OR EXISTS (
                   SELECT FROM sync.accounts_v a
                   WHERE a.tenant_id = $1 AND a.identity_id = i.identity_id AND a.integration_id = $2))
               AND ($3::text IS NULL OR i.identity_id IN (
                   SELECT f.identity_id FROM sync.identifiers_v f WHERE f.tenant_id = $1 AND f.value = $3))
               AND ($4::timestamptz IS NULL OR (i.created_at, i.identity_id) > ($4, $5))
         ORDER BY i.created_at, i.identity_id LIMIT $6",
    )
    .bind(tenant)
    .bind(integration)
    .bind(identifier)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// One identity.
pub async fn identity(tx: &mut Tx, tenant: TenantId, id: IdentityId) -> Result<Option<Identity>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT identity_id, display_name, created_at FROM sync.identities_v WHERE tenant_id = $1 AND identity_id = $2",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

macro_rules! account_columns {
    () => {
        "SELECT account_id, integration_id, provider, directory_id, object_id, login, display_name, state, kind, authority,
                is_admin, hybrid, password_changed_at, last_sign_in_at, created_at_directory, first_seen_at, last_seen_at,
                missing_since, removed_at, identity_id
         FROM sync.accounts_v "
    };
}

/// The accounts of identities.
pub async fn of_identities(
    tx: &mut Tx,
    tenant: TenantId,
    identities: &[IdentityId],
) -> Result<Vec<Account>, StoreError> {
    Ok(sqlx::query_as(concat!(
        account_columns!(),
        "WHERE tenant_id = $1 AND identity_id = ANY ($2) ORDER BY first_seen_at, account_id"
    ))
    .bind(tenant)
    .bind(identities.iter().map(|i| i.uuid()).collect::<Vec<Uuid>>())
    .fetch_all(&mut **tx)
    .await?)
}

/// Accounts by id; unknown ones are left out.
pub async fn by_ids(tx: &mut Tx, tenant: TenantId, ids: &[AccountId]) -> Result<Vec<Account>, StoreError> {
    Ok(sqlx::query_as(concat!(account_columns!(), "WHERE tenant_id = $1 AND account_id = ANY ($2)"))
        .bind(tenant)
        .bind(ids.iter().map(|i| i.uuid()).collect::<Vec<Uuid>>())
        .fetch_all(&mut **tx)
        .await?)
}

/// How many of these the tenant has.
pub async fn count(tx: &mut Tx, tenant: TenantId, ids: &[AccountId]) -> Result<usize, StoreError> {
    let query = "SELECT count(*) FROM sync.accounts_v WHERE tenant_id = $1 AND account_id = ANY ($2)";
    let ids: Vec<Uuid> = ids.iter().map(|i| i.uuid()).collect();
    let count: i64 = sqlx::query_scalar(query).bind(tenant).bind(ids).fetch_one(&mut **tx).await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// The identifiers of an identity.
pub async fn identifiers(
    tx: &mut Tx,
    tenant: TenantId,
    id: IdentityId,
) -> Result<Vec<Identifier>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT identifier_id, account_id, value, kind, source, created_at FROM sync.identifiers_v
         WHERE tenant_id = $1 AND identity_id = $2 ORDER BY created_at, identifier_id LIMIT 1000",
    )
    .bind(tenant)
    .bind(id)
    .fetch_all(&mut **tx)
    .await?)
}

/// What an account's budget depends on.
#[derive(Clone, Debug, FromRow)]
pub struct BudgetFacts {
    /// Kind of provider.
    pub provider: String,
    /// Directory.
    pub directory_id: String,
    /// Object.
    pub object_id: String,
    /// Who checks the password.
    pub authority: String,
    /// The integration's settings.
    pub settings: Json<Settings>,
    /// The integration's connection.
    pub config: Json<Connection>,
    /// The lockout threshold, if it was read.
    pub lockout_threshold: Option<i32>,
}

/// What an account's budget depends on; none when account or integration are unknown.
pub async fn budget_facts(
    tx: &mut Tx,
    tenant: TenantId,
    id: AccountId,
) -> Result<Option<BudgetFacts>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT a.provider, a.directory_id, a.object_id, a.authority, i.settings, i.config, p.lockout_threshold
         FROM sync.accounts_v a
         JOIN integrations i ON i.tenant_id = a.tenant_id AND i.integration_id = a.integration_id
         LEFT JOIN sync.directory_policies_v p ON p.tenant_id = a.tenant_id AND p.integration_id = a.integration_id
         WHERE a.tenant_id = $1 AND a.account_id = $2",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?)
}

/// The directory's id of an account, also of one that was removed.
pub async fn object_of(tx: &mut Tx, tenant: TenantId, id: AccountId) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT object_id FROM sync.accounts_v WHERE tenant_id = $1 AND account_id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?)
}

/// An account's budget now, as the limiter explains it.
#[derive(Clone, Debug, FromRow)]
pub struct Budget {
    /// Attempts allowed in the window.
    pub attempt_limit: i32,
    /// What made it so.
    pub limited_by: String,
    /// Threshold counted with.
    pub threshold: i32,
    /// Attempts in the window.
    pub used: i32,
    /// Attempts since the owner's last seen sign-in.
    pub since_success: i32,
    /// How many of these there may be.
    pub reserve_limit: i32,
    /// Earliest next attempt.
    pub next_free_at: Option<OffsetDateTime>,
    /// What stands in the way now.
    pub blocked_by: Option<String>,
}

/// Asks the limiter.
pub async fn budget(tx: &mut Tx, facts: &BudgetFacts, us_gov: bool) -> Result<Budget, StoreError> {
    let validation = &facts.settings.validation;
    Ok(sqlx::query_as(
        "SELECT attempt_limit, limited_by, threshold, used, since_success, reserve_limit, next_free_at, blocked_by
         FROM budget.explain($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&facts.provider)
    .bind(&facts.directory_id)
    .bind(&facts.object_id)
    .bind(i32::try_from(validation.daily_max).unwrap_or(i32::MAX))
    .bind(facts.lockout_threshold)
    .bind(us_gov)
    .bind(facts.authority == "ad")
    .bind(validation.low_threshold_opt_in)
    .fetch_one(&mut **tx)
    .await?)
}
