//! What the directories' own logs have of our submissions, as the limit auditor compares it with the ledger.

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, ProviderKind},
    provider::{OwnSignIn, account_key},
};
use time::{Duration, OffsetDateTime};

/// The turn to read one integration's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it was taken, by the database's clock.
    pub at: OffsetDateTime,
    /// How far the log was read; `None`: never.
    pub read_until: Option<OffsetDateTime>,
}

/// Takes the turn for so long, if the log is due and nobody else has it.
pub async fn claim(
    tx: &mut Tx,
    integration: IntegrationId,
    lease: Duration,
) -> Result<Option<Claim>, StoreError> {
    let row: Option<(OffsetDateTime, Option<OffsetDateTime>)> =
        sqlx::query_as("SELECT claimed_at, read_until FROM budget.claim_sign_in_log($1, $2)")
            .bind(integration)
            .bind(lease)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(at, read_until)| Claim { at, read_until }))
}

/// Keeps what was read, up to an instant (`None`: it may not be read), and lets the log rest for so long.
pub async fn keep(
    tx: &mut Tx,
    integration: IntegrationId,
    (provider, directory): (ProviderKind, &str),
    entries: &[OwnSignIn],
    read_until: Option<OffsetDateTime>,
    rest: Duration,
) -> Result<(), StoreError> {
    let objects: Vec<_> =
        entries.iter().map(|e| account_key(provider, directory, &e.object_id).object).collect();
    sqlx::query("SELECT budget.keep_sign_ins($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(integration)
        .bind(provider.as_str())
        .bind(account_key(provider, directory, "").directory)
        .bind(entries.iter().map(|e| e.entry.as_str()).collect::<Vec<_>>())
        .bind(objects)
        .bind(entries.iter().map(|e| e.at).collect::<Vec<_>>())
        .bind(read_until)
        .bind(rest)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
