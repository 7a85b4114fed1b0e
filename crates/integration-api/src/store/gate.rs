//! The gate of the attempt budget; the budget's own functions keep it.

use shared::db::{StoreError, Tx};
use sqlx::FromRow;
use time::OffsetDateTime;

/// The gate.
#[derive(Clone, Debug, FromRow)]
pub struct Gate {
    /// The database: system identifier and timeline.
    pub cluster: String,
    /// Commits wait for a synchronous replica.
    pub replicated: bool,
    /// When a validator last looked.
    pub beat_at: OffsetDateTime,
    /// Since when it is closed.
    pub closed_at: Option<OffsetDateTime>,
    /// Until when it is closed; `None`: it is open.
    pub closed_until: Option<OffsetDateTime>,
    /// Why.
    pub reason: Option<String>,
}

/// The gate as it is.
pub async fn state(tx: &mut Tx) -> Result<Gate, StoreError> {
    Ok(sqlx::query_as(
        "SELECT cluster, replicated, beat_at, closed_at, closed_until, reason FROM budget.gate_state()",
    )
    .fetch_one(&mut **tx)
    .await?)
}

/// Closes it for a window; returns until when.
pub async fn close(tx: &mut Tx) -> Result<OffsetDateTime, StoreError> {
    Ok(sqlx::query_scalar("SELECT budget.close_gate()").fetch_one(&mut **tx).await?)
}
