//! Statistics for the database's planner, refreshed while a run adds accounts (migration 0071 says why).

use shared::db::{Db, StoreError};

/// Accounts a run has added when the statistics are refreshed first; then at four times as many, and so on.
const FIRST: i64 = 1000;
const FACTOR: i64 = 4;

/// Whether a run that had added `before` accounts and now has added `after` passed one of the marks.
pub(crate) fn due(before: i64, after: i64) -> bool {
    let marks = std::iter::successors(Some(FIRST), |mark| mark.checked_mul(FACTOR));
    marks.take_while(|mark| *mark <= after).any(|mark| before < mark)
}

/// Refreshes them.
pub(crate) async fn refresh(db: &Db) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    sqlx::query("SELECT sync.refresh_statistics()").execute(&mut *tx).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::due;

    #[test]
    fn statistics_are_refreshed_at_a_thousand_accounts_and_at_each_fourfold() {
        let pages = (0..100).map(|page| page * 999);
        let marks: Vec<i64> = pages.filter(|before| due(*before, before + 999)).map(|b| b + 999).collect();
        assert_eq!(marks, [1998, 4995, 16983, 64935]);
        assert!(!due(2000, 2000) && !due(0, 999));
    }
}
