//! The end of a request for validation: noticed, and told with its results.

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::Db,
    id::{CauseId, TenantId, ValidationId},
    wire::v1,
};

use super::validation::counted;
use crate::{NAME, error::ApiError, store::validations};

/// Looks for the end of a request; noticed, it is an event.
pub(crate) async fn notice(db: &Db, tenant: TenantId, of: ValidationId) -> Result<(), ApiError> {
    let mut tx = db.tenant(tenant).await?;
    // INVARIANT: a request ends once: under its lock nobody else ends it, and what has ended stays so.
    let row = validations::lock(&mut tx, tenant, of).await?;
    let Some(mut row) = row.filter(|row| row.ended_at.is_none()) else {
        // Gone with its tenant, or cancelled while it was looked for: there is no end to wait for.
        validations::forget(&mut tx, of).await?;
        return Ok(tx.commit().await?);
    };
    if !row.over {
        validations::look_again(&mut tx, tenant, of).await?;
        return Ok(tx.commit().await?);
    }
    row.ended_at = Some(validations::end(&mut tx, tenant, of).await?);
    let event = Event::new(
        Some(tenant),
        names::VALIDATION_REQUEST_COMPLETED,
        Actor::Service(NAME),
        Outcome::Success,
        "every exposure of a request for validation has had its verdict",
    )
    .cause(CauseId(of.uuid()))
    .object("validation", of);
    let results = counted(&mut tx, tenant, &row).await?;
    audit::record(&mut tx, &with_results(event, &results)).await?;
    Ok(tx.commit().await?)
}

/// What became of a request's exposures, as details of the event of its end.
pub(super) fn with_results(event: Event, validation: &v1::Validation) -> Event {
    let event = event
        .detail("exposures", validation.total)
        .detail("decided", validation.decided)
        .detail("cancelled", validation.cancelled);
    validation.counts.iter().fold(event, |event, count| {
        let kind = count.kind().as_str_name().trim_start_matches("VERDICT_KIND_").to_lowercase();
        let dot = if count.reason.is_empty() { "" } else { "." };
        event.detail(format!("verdict.{kind}{dot}{}", count.reason), count.count)
    })
}
