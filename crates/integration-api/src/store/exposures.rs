//! Exposures, as the validator shows them, by filter and in an order.

use std::collections::HashMap;

use shared::{
    db::{StoreError, Tx},
    id::{
        AccountId, ExposureId, FeedRecordId, IdentifierId, IdentityId, IntegrationId, MitigationRequestId,
        TenantId, ValidationId,
    },
};
use sqlx::{
    FromRow, Postgres,
    postgres::PgArguments,
    query::{Query, QueryAs},
    types::Json,
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Where a leak came from, as stored with the record.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Source {
    /// The feed's id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Kind: `stealer`, `breach`, ...
    pub kind: String,
}

/// An exposure.
#[derive(Clone, Debug, FromRow)]
pub struct Exposure {
    /// Id.
    pub exposure_id: ExposureId,
    /// Feed record.
    pub record_id: FeedRecordId,
    /// Feed.
    pub feed: String,
    /// Account.
    pub account_id: AccountId,
    /// Identity.
    pub identity_id: Option<IdentityId>,
    /// Identifier that matched.
    pub identifier_id: IdentifierId,
    /// Integration.
    pub integration_id: IntegrationId,
    /// Kind of provider.
    pub provider: String,
    /// Object id.
    pub object_id: String,
    /// Sign-in name at the match.
    pub login_at_match: String,
    /// Source of the leak.
    pub source: Json<Source>,
    /// What the record carried.
    pub secret_form: String,
    /// Cookies are kept.
    pub has_cookies: bool,
    /// Captured at or after.
    pub captured_after: Option<OffsetDateTime>,
    /// Captured at or before.
    pub captured_before: Option<OffsetDateTime>,
    /// Arrival of the record.
    pub received_at: OffsetDateTime,
    /// Older than the identifier.
    pub history: bool,
    /// Verdict.
    pub verdict: Option<String>,
    /// Its reason.
    pub verdict_reason: Option<String>,
    /// When it was given.
    pub verdict_at: Option<OffsetDateTime>,
    /// It cost no attempt.
    pub decided_without_attempt: bool,
    /// Attempts spent.
    pub attempts: i32,
    /// Facts behind the verdict.
    pub evidence: Json<serde_json::Value>,
    /// Waits until.
    pub deferred_until: Option<OffsetDateTime>,
    /// State.
    pub state: String,
    /// When it matched.
    pub created_at: OffsetDateTime,
    /// How likely its password is to be right.
    pub likelihood: Option<String>,
    /// An administrator's account.
    pub privileged: bool,
}

/// Where an exposure stands that waits.
#[derive(Clone, Debug, FromRow)]
pub struct Standing {
    /// Exposure.
    pub exposure_id: ExposureId,
    /// The least has its turn first.
    pub rank: i16,
    /// When its turn comes.
    pub due_at: OffsetDateTime,
    /// `waiting`, `in_flight` or `parked`.
    pub state: String,
}

/// Which exposures; what is not set does not restrict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Any of these verdicts; `pending` for none yet.
    pub verdicts: Option<Vec<String>>,
    /// Any of these reasons.
    pub reasons: Option<Vec<String>>,
    /// Provider.
    pub provider: Option<String>,
    /// Account.
    pub account: Option<Uuid>,
    /// Identity.
    pub identity: Option<Uuid>,
    /// Integration.
    pub integration: Option<Uuid>,
    /// Sign-in name, lower case.
    pub login: Option<String>,
    /// Feed.
    pub feed: Option<String>,
    /// Source id or name, lower case.
    pub source: Option<String>,
    /// Any of these kinds of source.
    pub source_kinds: Option<Vec<String>>,
    /// Arrival.
    pub received: (Option<OffsetDateTime>, Option<OffsetDateTime>),
    /// Latest moment of capture.
    pub captured: (Option<OffsetDateTime>, Option<OffsetDateTime>),
    /// Verdict given.
    pub decided: (Option<OffsetDateTime>, Option<OffsetDateTime>),
    /// History or not.
    pub history: Option<bool>,
}

// Parameters 1 to 18: the tenant and the filter.
macro_rules! filtered {
    () => {
        " FROM validator.exposures_v e
          WHERE e.tenant_id = $1
            AND ($2::text[] IS NULL OR coalesce(e.verdict, 'pending') = ANY ($2))
            AND ($3::text[] IS NULL OR e.verdict_reason = ANY ($3))
            AND ($4::text IS NULL OR e.provider = $4)
            AND ($5::uuid IS NULL OR e.account_id = $5)
            AND ($6::uuid IS NULL OR e.identity_id = $6)
            AND ($7::uuid IS NULL OR e.integration_id = $7)
            AND ($8::text IS NULL OR lower(e.login_at_match) = $8)
            AND ($9::text IS NULL OR e.feed = $9)
            AND ($10::text IS NULL OR lower(e.source ->> 'id') = $10 OR lower(e.source ->> 'name') = $10)
            AND ($11::text[] IS NULL OR e.source ->> 'kind' = ANY ($11))
            AND ($12::timestamptz IS NULL OR e.received_at >= $12)
            AND ($13::timestamptz IS NULL OR e.received_at < $13)
            AND ($14::timestamptz IS NULL OR e.captured_before >= $14)
            AND ($15::timestamptz IS NULL OR e.captured_before < $15)
            AND ($16::timestamptz IS NULL OR e.verdict_at >= $16)
            AND ($17::timestamptz IS NULL OR e.verdict_at < $17)
            AND ($18::boolean IS NULL OR e.history = $18) "
    };
}

macro_rules! bind_filter {
    ($query:expr, $tenant:expr, $filter:expr) => {{
        let Filter {
            verdicts,
            reasons,
            provider,
            account,
            identity,
            integration,
            login,
            feed,
            source,
            source_kinds,
            received,
            captured,
            decided,
            history,
        } = $filter;
        $query
            .bind($tenant)
            .bind(verdicts)
            .bind(reasons)
            .bind(provider)
            .bind(account)
            .bind(identity)
            .bind(integration)
            .bind(login)
            .bind(feed)
            .bind(source)
            .bind(source_kinds)
            .bind(received.0)
            .bind(received.1)
            .bind(captured.0)
            .bind(captured.1)
            .bind(decided.0)
            .bind(decided.1)
            .bind(history)
    }};
}

fn bind_rows<'q, T>(
    query: QueryAs<'q, Postgres, T, PgArguments>,
    tenant: TenantId,
    filter: &'q Filter,
) -> QueryAs<'q, Postgres, T, PgArguments> {
    bind_filter!(query, tenant, filter)
}

fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    tenant: TenantId,
    filter: &'q Filter,
) -> Query<'q, Postgres, PgArguments> {
    bind_filter!(query, tenant, filter)
}

macro_rules! columns {
    () => {
        "SELECT e.exposure_id, e.record_id, e.feed, e.account_id, e.identity_id, e.identifier_id,
                e.integration_id, e.provider, e.object_id, e.login_at_match, e.source, e.secret_form, e.has_cookies,
                e.captured_after, e.captured_before, e.received_at, e.history, e.verdict, e.verdict_reason, e.verdict_at,
                e.decided_without_attempt, e.attempts, e.evidence, e.deferred_until, e.state, e.created_at,
                e.likelihood, e.privileged"
    };
}

/// What exposures are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Arrival.
    Received,
    /// Verdict, then reason.
    Verdict,
    /// Reason.
    Reason,
    /// When the verdict was given.
    Decided,
    /// Provider, then sign-in name.
    Provider,
    /// Sign-in name.
    Login,
    /// Source's name.
    Source,
    /// Latest moment of capture.
    Captured,
}

// One statement per order. The key travels as text in the page token and is cast back to the type it sorts by.
macro_rules! page {
    ($key:literal, $type:literal, $comparison:literal, $direction:literal) => {
        concat!(
            columns!(),
            ", (",
            $key,
            ")::text AS sort_key",
            filtered!(),
            "AND ($19::text IS NULL OR ((",
            $key,
            "), e.exposure_id) ",
            $comparison,
            " ($19::text::",
            $type,
            ", $20))
             ORDER BY (",
            $key,
            ") ",
            $direction,
            ", e.exposure_id ",
            $direction,
            " LIMIT $21"
        )
    };
}
macro_rules! pages {
    ($descending:expr, $key:literal, $type:literal) => {
        if $descending { page!($key, $type, "<", "DESC") } else { page!($key, $type, ">", "ASC") }
    };
}

impl Sort {
    const fn statement(self, descending: bool) -> &'static str {
        match self {
            Self::Received => pages!(descending, "e.received_at", "timestamptz"),
            Self::Verdict => {
                pages!(descending, "coalesce(e.verdict, '') || ' ' || coalesce(e.verdict_reason, '')", "text")
            }
            Self::Reason => pages!(descending, "coalesce(e.verdict_reason, '')", "text"),
            Self::Decided => pages!(descending, "coalesce(e.verdict_at, '-infinity')", "timestamptz"),
            Self::Provider => pages!(descending, "e.provider || ' ' || lower(e.login_at_match)", "text"),
            Self::Login => pages!(descending, "lower(e.login_at_match)", "text"),
            Self::Source => pages!(descending, "lower(coalesce(e.source ->> 'name', ''))", "text"),
            Self::Captured => pages!(descending, "coalesce(e.captured_before, '-infinity')", "timestamptz"),
        }
    }
}

#[derive(FromRow)]
struct Keyed {
    #[sqlx(flatten)]
    exposure: Exposure,
    sort_key: String,
}

/// Exposures after a place in an order, each with its place.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    filter: &Filter,
    (sort, descending): (Sort, bool),
    after: Option<(String, ExposureId)>,
    limit: i64,
) -> Result<Vec<(Exposure, String)>, StoreError> {
    let (key, id) = after.unzip();
    let rows: Vec<Keyed> = bind_rows(sqlx::query_as(sort.statement(descending)), tenant, filter)
        .bind(key)
        .bind(id)
        .bind(limit)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(|Keyed { exposure, sort_key }| (exposure, sort_key)).collect())
}

/// Exposures by id; unknown ones are left out.
pub async fn by_ids(tx: &mut Tx, tenant: TenantId, ids: &[ExposureId]) -> Result<Vec<Exposure>, StoreError> {
    Ok(sqlx::query_as(concat!(
        columns!(),
        " FROM validator.exposures_v e WHERE e.tenant_id = $1 AND e.exposure_id = ANY ($2)"
    ))
    .bind(tenant)
    .bind(ids.iter().map(|i| i.uuid()).collect::<Vec<Uuid>>())
    .fetch_all(&mut **tx)
    .await?)
}

/// Where those of these exposures stand that have a turn coming.
pub async fn standings(
    tx: &mut Tx,
    exposures: impl Iterator<Item = &Exposure>,
) -> Result<HashMap<ExposureId, Standing>, StoreError> {
    let waiting: Vec<Uuid> =
        exposures.filter(|e| e.state == "waiting").map(|e| e.exposure_id.uuid()).collect();
    if waiting.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<Standing> =
        sqlx::query_as("SELECT exposure_id, rank, due_at, state FROM validator.places($1)")
            .bind(waiting)
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows.into_iter().map(|standing| (standing.exposure_id, standing)).collect())
}

/// How many exposures of an integration have their verdict from what.
pub async fn decided_by(
    tx: &mut Tx,
    tenant: TenantId,
    integration: IntegrationId,
) -> Result<HashMap<String, i64>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT decided_by, count(*) FROM validator.exposures_v
         WHERE tenant_id = $1 AND integration_id = $2 GROUP BY decided_by",
    )
    .bind(tenant)
    .bind(integration)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Makes the selected exposures the items of a validation, at most `limit`; how many there are.
pub async fn select_into(
    tx: &mut Tx,
    tenant: TenantId,
    filter: &Filter,
    validation: ValidationId,
    limit: i64,
) -> Result<u64, StoreError> {
    let statement = concat!(
        "INSERT INTO validation_items (tenant_id, validation_id, exposure_id) SELECT $1, $19, e.exposure_id",
        filtered!(),
        "LIMIT $20"
    );
    Ok(bind(sqlx::query(statement), tenant, filter)
        .bind(validation)
        .bind(limit)
        .execute(&mut **tx)
        .await?
        .rows_affected())
}

// Accounts of the selected exposures, each once. An exposure whose account is not known any more has none.
macro_rules! accounts {
    ($columns:literal) => {
        concat!(
            "SELECT DISTINCT ",
            $columns,
            filtered!(),
            "AND EXISTS (SELECT FROM sync.accounts_v a
                         WHERE a.tenant_id = e.tenant_id AND a.account_id = e.account_id) "
        )
    };
}

/// Makes the accounts of the selected exposures the items of a request for mitigations, at most `limit`; how many there
/// are.
pub async fn select_accounts_into(
    tx: &mut Tx,
    tenant: TenantId,
    filter: &Filter,
    request: MitigationRequestId,
    limit: i64,
) -> Result<u64, StoreError> {
    let statement = concat!(
        "INSERT INTO mitigation_items (tenant_id, request_id, account_id) ",
        accounts!("$1::uuid, $19::uuid, e.account_id"),
        "LIMIT $20"
    );
    Ok(bind(sqlx::query(statement), tenant, filter)
        .bind(request)
        .bind(limit)
        .execute(&mut **tx)
        .await?
        .rows_affected())
}

/// The accounts of the selected exposures, at most `limit`.
pub async fn selected_accounts(
    tx: &mut Tx,
    tenant: TenantId,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<AccountId>, StoreError> {
    let statement = concat!(accounts!("e.account_id"), "LIMIT $19");
    let rows: Vec<(AccountId,)> =
        bind_rows(sqlx::query_as(statement), tenant, filter).bind(limit).fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|(account,)| account).collect())
}

/// The accounts of these exposures, one for each that is known.
pub async fn accounts_of(
    tx: &mut Tx,
    tenant: TenantId,
    ids: &[ExposureId],
) -> Result<Vec<AccountId>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT account_id FROM validator.exposures_v WHERE tenant_id = $1 AND exposure_id = ANY ($2)",
    )
    .bind(tenant)
    .bind(ids.iter().map(|i| i.uuid()).collect::<Vec<Uuid>>())
    .fetch_all(&mut **tx)
    .await?)
}
