//! What a search asks for, and the SQL that answers it.

use std::time::Duration;

use shared::{
    audit::catalogue::further_causes,
    db::{Db, StoreError, Tx},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    chain::{Chain, Link},
    store::link,
};

/// How far a search goes back when nobody says.
pub(crate) const USUAL: time::Duration = time::Duration::days(7);
/// How much time one search covers at most: 90 days, and what clocks differ by.
pub(crate) const MOST: time::Duration = time::Duration::hours(90 * 24 + 1);
/// How long the database may take for one search.
const PATIENCE: Duration = Duration::from_secs(5);
/// Causes that one cause leads to, at most.
const MOST_CAUSES: i64 = 100;

/// Which events are wanted. None, or empty, does not restrict.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub from: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    pub types: Vec<String>,
    pub type_prefixes: Vec<String>,
    pub integration: Option<Uuid>,
    pub actor: Option<String>,
    pub user: Option<String>,
    pub outcomes: Vec<String>,
    pub cause: Option<Uuid>,
    pub object: Option<String>,
    pub text: Option<String>,
    pub before: Option<(OffsetDateTime, i64)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// It took too long.
    #[error("the search took longer than 5 seconds; narrow it")]
    TooWide,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for SearchError {
    fn from(error: sqlx::Error) -> Self {
        // query_canceled: the statement's timeout
        if error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("57014") {
            Self::TooWide
        } else {
            Self::Store(error.into())
        }
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Newest first.
    pub links: Vec<Link>,
    /// Whether the chain has events from before the search.
    pub older: bool,
}

/// Events of one chain, newest first.
pub(crate) async fn search(db: &Db, chain: Chain, filter: &Filter, limit: i64) -> Result<Found, SearchError> {
    let mut tx = db.tenant(chain.tenant()).await?;
    sqlx::query("SELECT set_config('statement_timeout', $1, true)")
        .bind(PATIENCE.as_millis().to_string())
        .execute(&mut *tx)
        .await?;
    let causes = match filter.cause {
        Some(cause) => causes(&mut tx, chain, cause).await?,
        None => Vec::new(),
    };
    let older = match filter.from {
        Some(from) => {
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM events WHERE tenant_id = $1 AND occurred_at < $2)")
                .bind(chain.uuid())
                .bind(from)
                .fetch_one(&mut *tx)
                .await?
        }
        None => false,
    };
    let rows = sqlx::query(
        "SELECT * FROM events
         WHERE tenant_id = $1
           AND ($2::timestamptz IS NULL OR occurred_at >= $2)
           AND ($3::timestamptz IS NULL OR occurred_at < $3)
           AND ((cardinality($4::text[]) = 0 AND cardinality($5::text[]) = 0) OR type = ANY ($4)
                OR EXISTS (SELECT FROM unnest($5::text[]) AS prefix WHERE starts_with(type, prefix)))
           AND ($6::uuid IS NULL OR integration_id = $6)
           AND ($7::text IS NULL OR actor_id = $7)
           AND ($8::text IS NULL OR (user_object_id <> '' AND user_object_id = $8)
                OR (user_name <> '' AND lower(user_name) = lower($8)))
           AND (cardinality($9::text[]) = 0 OR outcome = ANY ($9))
           AND ($10::uuid IS NULL OR cause_id = $10
                OR details ->> 'exposure_id' = $10::text OR details ->> 'mitigation_request_id' = $10::text
                OR (cause_id = ANY ($16::uuid[]) AND user_object_id = ''))
           AND ($11::text IS NULL OR (object_id <> '' AND object_id = $11))
           AND ($12::timestamptz IS NULL OR (occurred_at, sequence) < ($12, $13))
           AND ($15::text IS NULL OR to_tsvector('simple', message) @@ websearch_to_tsquery('simple', $15))
         ORDER BY occurred_at DESC, sequence DESC
         LIMIT $14",
    )
    // Planned for each call, so that absent filters fall away and the present ones choose the index.
    .persistent(false)
    .bind(chain.uuid())
    .bind(filter.from)
    .bind(filter.until)
    .bind(&filter.types)
    .bind(&filter.type_prefixes)
    .bind(filter.integration)
    .bind(&filter.actor)
    .bind(&filter.user)
    .bind(&filter.outcomes)
    .bind(filter.cause)
    .bind(&filter.object)
    .bind(filter.before.map(|(at, _)| at))
    .bind(filter.before.map(|(_, sequence)| sequence))
    .bind(limit)
    .bind(&filter.text)
    .bind(&causes)
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    let links = rows.iter().map(link).collect::<Result<_, _>>()?;
    Ok(Found { links, older })
}

/// The causes that events of this one name: the batch that brought an exposure's record, the request that a mitigation or
/// its undo belongs to. Of these only what is about no user counts: the others of the batch or request are not meant.
async fn causes(tx: &mut Tx, chain: Chain, cause: Uuid) -> Result<Vec<Uuid>, SearchError> {
    let named: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT d.value FROM events, jsonb_each_text(details) AS d (name, value)
         WHERE tenant_id = $1 AND (cause_id = $2 OR details ->> 'exposure_id' = $2::text) AND d.name = ANY ($3) LIMIT $4",
    )
    .persistent(false)
    .bind(chain.uuid())
    .bind(cause)
    .bind(further_causes())
    .bind(MOST_CAUSES)
    .fetch_all(&mut **tx)
    .await?;
    Ok(named.iter().filter_map(|id| id.parse().ok()).collect())
}
