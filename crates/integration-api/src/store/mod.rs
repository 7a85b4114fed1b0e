//! Every statement of this service. Rows become domain types here; nothing else knows a column.

#![expect(clippy::struct_field_names, reason = "row types are named like their columns")]

pub mod accounts;
pub mod approvals;
pub mod client_keys;
pub mod daily_max;
pub mod exposures;
pub mod feeds;
pub mod gate;
pub mod hub;
pub mod idempotency;
pub mod integrations;
pub mod keys;
pub mod ledger;
pub mod mitigations;
pub mod overview;
pub mod policies;
pub mod registry;
pub mod removals;
pub mod retention;
pub mod sealing;
pub mod stops;
pub mod syncs;
pub mod validations;

use shared::db::{StoreError, Tx};

/// Unsent messages of this service, counted to `at_most`.
pub async fn outbox_rows(tx: &mut Tx, at_most: i64) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS waiting")
        .bind(at_most)
        .fetch_one(&mut **tx)
        .await?)
}
