//! When an integration's credential ends: kept for the hub, and told once for each of the last warnings.

use shared::{
    audit::{self, Outcome, names},
    db::{StoreError, Tx},
    provider::EXPIRY_WARNINGS,
};
use time::OffsetDateTime;

use crate::{apply::Scope, store_directories as directories};

/// Stores the end of the credential and warns when another mark was passed since the last warning.
pub(crate) async fn note(
    tx: &mut Tx,
    scope: &Scope<'_>,
    end: Option<OffsetDateTime>,
    warned: Option<i32>,
) -> Result<(), StoreError> {
    let now = tx.clock().await?;
    let due = end.and_then(|end| mark((end - now).whole_days()));
    let (tenant, integration) = (scope.integration.tenant, scope.integration.id);
    directories::save_expiry(tx, tenant, integration, end, due).await?;
    let Some((end, due)) = end.zip(due).filter(|(_, due)| warned.is_none_or(|warned| *due < warned)) else {
        return Ok(());
    };
    let message = format!(
        "the credential of integration {} ends on {}; give a new one before it does",
        scope.integration.name,
        end.date()
    );
    let event = scope.event(names::INTEGRATION_CREDENTIAL_EXPIRES, Outcome::Info, message);
    audit::record(tx, &event.detail("days", due).detail("expires_at", end)).await?;
    Ok(())
}

/// The smallest mark that so many days are within.
fn mark(days: i64) -> Option<i32> {
    let within = EXPIRY_WARNINGS.into_iter().filter(|mark| days <= *mark);
    within.min().and_then(|mark| i32::try_from(mark).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_reached_on_its_day_and_an_end_in_the_past_is_the_last() {
        for (days, expected) in
            [(61, None), (60, Some(60)), (31, Some(60)), (30, Some(30)), (7, Some(7)), (-3, Some(7))]
        {
            assert_eq!(mark(days), expected, "{days}");
        }
    }
}
