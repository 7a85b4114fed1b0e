//! The ledger of attempts as an auditor reads it, and what it found.

use shared::{
    db::{StoreError, Tx},
    id::AccountKey,
};
use sqlx::{FromRow, Row as _, postgres::PgRow};
use time::OffsetDateTime;

/// An account with its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account.
    pub key: AccountKey,
    /// The reservations that its budget row remembers.
    pub recent: Vec<OffsetDateTime>,
    /// The reservations that the ledger has, oldest first.
    pub attempts: Vec<Attempt>,
    /// Our submissions as the directory's own log has them, oldest first.
    pub seen: Vec<OffsetDateTime>,
}

/// A reservation. What has no limits was made before limits were written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it was reserved.
    pub reserved_at: OffsetDateTime,
    /// When it was answered or given up.
    pub finished_at: Option<OffsetDateTime>,
    /// Attempts that were allowed in the window.
    pub attempt_limit: Option<i32>,
    /// Attempts that were allowed since the owner's last seen sign-in.
    pub reserve_limit: Option<i32>,
    /// Attempts that were made since, this one counted.
    pub since_success: Option<i32>,
}

/// Something that must not be.
#[derive(Clone, Debug, FromRow)]
pub struct Finding {
    /// Kind of provider.
    pub provider: String,
    /// Directory.
    pub directory: String,
    /// Account in it.
    pub object: String,
    /// What did not hold.
    pub rule: String,
    /// When the attempt concerned was reserved, or the log says it was made.
    pub at: OffsetDateTime,
    /// The figures.
    pub message: String,
    /// When it was found.
    pub found_at: OffsetDateTime,
}

/// The next accounts that had an attempt since an instant, by the ledger or by their directory's log, after one of them.
pub async fn accounts(
    tx: &mut Tx,
    after: Option<&AccountKey>,
    since: OffsetDateTime,
    at_most: i32,
) -> Result<Vec<Account>, StoreError> {
    let rows = sqlx::query("SELECT * FROM budget.ledger_with_log($1, $2, $3, $4, $5)")
        .bind(after.map_or("", |key| key.provider.as_str()))
        .bind(after.map_or("", |key| &key.directory))
        .bind(after.map_or("", |key| &key.object))
        .bind(since)
        .bind(at_most)
        .fetch_all(&mut **tx)
        .await?;
    let mut accounts: Vec<Account> = Vec::new();
    for row in &rows {
        let key = AccountKey {
            provider: row
                .try_get::<&str, _>("provider")?
                .parse()
                .map_err(|_| StoreError::Corrupt("unknown provider".into()))?,
            directory: row.try_get("directory")?,
            object: row.try_get("object")?,
        };
        if accounts.last().is_none_or(|last| last.key != key) {
            let (recent, seen) = (row.try_get("recent")?, row.try_get("seen")?);
            accounts.push(Account { key, recent, attempts: Vec::new(), seen });
        }
        if let (Some(account), Some(attempt)) = (accounts.last_mut(), attempt(row)?) {
            account.attempts.push(attempt);
        }
    }
    Ok(accounts)
}

fn attempt(row: &PgRow) -> Result<Option<Attempt>, StoreError> {
    let Some(reserved_at) = row.try_get("reserved_at")? else { return Ok(None) };
    Ok(Some(Attempt {
        reserved_at,
        finished_at: row.try_get("finished_at")?,
        attempt_limit: row.try_get("attempt_limit")?,
        reserve_limit: row.try_get("reserve_limit")?,
        since_success: row.try_get("since_success")?,
    }))
}

/// Keeps a finding; false when it is known.
pub async fn found(
    tx: &mut Tx,
    key: &AccountKey,
    rule: &str,
    at: OffsetDateTime,
    message: &str,
) -> Result<bool, StoreError> {
    let put = sqlx::query(
        "INSERT INTO api.limit_excesses (provider, directory, object, rule, at, message)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(key.provider.as_str())
    .bind(&key.directory)
    .bind(&key.object)
    .bind(rule)
    .bind(at)
    .bind(message)
    .execute(&mut **tx)
    .await?;
    Ok(put.rows_affected() > 0)
}

/// The latest findings.
pub async fn findings(tx: &mut Tx, at_most: i64) -> Result<Vec<Finding>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT provider, directory, object, rule, at, message, found_at FROM api.limit_excesses
         ORDER BY found_at DESC, at DESC LIMIT $1",
    )
    .bind(at_most)
    .fetch_all(&mut **tx)
    .await?)
}
