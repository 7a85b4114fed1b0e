//! Exposures: how they come in, and how a verdict is written.

use shared::{
    db::{StoreError, Tx},
    end_work,
    id::{ExposureId, TenantId, WorkId},
    triage::{Likelihood, Place},
    verdict::{Reason, Verdict},
};
use sqlx::{Row, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::feed::{Candidate, Record};
use crate::triage::Decision;

/// What an exposure comes in with.
#[derive(Debug)]
pub struct NewExposure<'a> {
    pub id: ExposureId,
    pub record: &'a Record,
    pub candidate: &'a Candidate,
    pub secret: Option<Vec<u8>>,
    pub cookies: Option<Vec<u8>>,
    pub digest: Option<Vec<u8>>,
    pub unusable: bool,
    pub history: bool,
    /// A rule wants it validated.
    pub wanted: bool,
    /// Decided on arrival; `None`: it waits for its turn.
    pub decision: Option<Decision>,
    /// Where it stands when it waits for a turn, now or one day.
    pub place: Place,
}

/// Stores exposures and returns which of them are new: a record exposes an account once.
pub async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    new: &[NewExposure<'_>],
) -> Result<Vec<ExposureId>, StoreError> {
    let column = |f: fn(&NewExposure<'_>) -> Uuid| new.iter().map(f).collect::<Vec<_>>();
    let text = |f: fn(&NewExposure<'_>) -> String| new.iter().map(f).collect::<Vec<_>>();
    let date = |f: fn(&NewExposure<'_>) -> Option<OffsetDateTime>| new.iter().map(f).collect::<Vec<_>>();
    let rows = sqlx::query_scalar(
        "INSERT INTO exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identity_id, identifier_id,
             integration_id, provider, directory_id, object_id, login_at_match, source, targets, severity, secret_form,
             secret_sealed, cookies_sealed, digest, unusable, captured_after, captured_before, published_at, first_seen_at,
             date_precision, received_at, history, wanted, verdict, verdict_reason, verdict_at, decided_without_attempt,
             evidence, likelihood, privileged, state)
         SELECT $1, n.exposure_id, n.record_id, n.batch_id, n.feed, n.account_id, n.identity_id, n.identifier_id,
             n.integration_id, n.provider, n.directory_id, n.object_id, n.login, n.source,
             ARRAY(SELECT jsonb_array_elements_text(n.targets)), n.severity, n.secret_form,
             n.secret, n.cookies, n.digest, n.unusable, n.captured_after, n.captured_before, n.published_at, n.first_seen_at,
             n.date_precision, n.received_at, n.history, n.wanted, n.verdict, n.reason,
             CASE WHEN n.verdict IS NOT NULL THEN clock_timestamp() END, n.verdict IS NOT NULL, n.evidence,
             n.likelihood, n.privileged, CASE WHEN n.verdict IS NULL THEN 'waiting' WHEN n.wanted THEN 'decided' ELSE 'idle' END
         FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::uuid[], $7::uuid[], $8::uuid[], $9::uuid[],
                     $10::text[], $11::text[], $12::text[], $13::text[], $14::jsonb[], $15::jsonb[], $16::int[],
                     $17::text[], $18::bytea[], $19::bytea[], $20::bytea[], $21::bool[], $22::timestamptz[],
                     $23::timestamptz[], $24::timestamptz[], $25::timestamptz[], $26::text[], $27::timestamptz[],
                     $28::bool[], $29::bool[], $30::text[], $31::text[], $32::jsonb[], $33::text[], $34::bool[])
              AS n (exposure_id, record_id, batch_id, feed, account_id, identity_id, identifier_id, integration_id,
                    provider, directory_id, object_id, login, source, targets, severity, secret_form, secret, cookies,
                    digest, unusable, captured_after, captured_before, published_at, first_seen_at, date_precision,
                    received_at, history, wanted, verdict, reason, evidence, likelihood, privileged)
         ORDER BY n.record_id, n.account_id
         ON CONFLICT ON CONSTRAINT one_per_record_and_account DO NOTHING
         RETURNING exposure_id",
    )
    .bind(tenant)
    .bind(column(|n| n.id.uuid()))
    .bind(column(|n| n.record.record.uuid()))
    .bind(column(|n| n.record.batch.uuid()))
    .bind(text(|n| n.record.feed.clone()))
    .bind(column(|n| n.candidate.account.uuid()))
    .bind(column(|n| n.candidate.identity.uuid()))
    .bind(column(|n| n.candidate.identifier.uuid()))
    .bind(column(|n| n.candidate.integration.uuid()))
    .bind(text(|n| n.candidate.provider.to_string()))
    .bind(text(|n| n.candidate.directory.clone()))
    .bind(text(|n| n.candidate.object.clone()))
    .bind(text(|n| n.candidate.login.clone()))
    .bind(new.iter().map(|n| Json(&n.record.source)).collect::<Vec<_>>())
    .bind(new.iter().map(|n| Json(&n.record.targets)).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.record.severity).collect::<Vec<_>>())
    .bind(text(|n| n.record.secret_form.clone()))
    .bind(new.iter().map(|n| n.secret.clone()).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.cookies.clone()).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.digest.clone()).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.unusable).collect::<Vec<_>>())
    .bind(date(|n| n.record.captured_after))
    .bind(date(|n| n.record.captured_before))
    .bind(date(|n| n.record.published_at))
    .bind(date(|n| n.record.first_seen_at))
    .bind(text(|n| n.record.precision.clone()))
    .bind(date(|n| Some(n.record.received_at)))
    .bind(new.iter().map(|n| n.history).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.wanted).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.decision.as_ref().map(|d| d.verdict.name())).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.decision.as_ref().and_then(|d| d.verdict.reason()).map(Reason::as_str)).collect::<Vec<_>>())
    .bind(new.iter().map(|n| Json(n.decision.as_ref().map(|d| d.evidence.clone()).unwrap_or_default())).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.place.likelihood.map(Likelihood::as_str)).collect::<Vec<_>>())
    .bind(new.iter().map(|n| n.place.privileged).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(ExposureId).collect())
}

/// What is written of a verdict, and what becomes of the work that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It stands.
    Decided,
    /// The exposure waits for another turn then, which may cost an attempt if this one did not.
    Waiting(OffsetDateTime, Reason),
    /// It waits for another turn after an attempt that proved nothing: a new round.
    AnotherRound(OffsetDateTime, Reason),
    /// Nobody wants it validated now.
    Idle,
}

/// Writes a verdict and ends the work, or puts it off. The caller holds the exposure's row lock.
pub async fn decide(
    tx: &mut Tx,
    (exposure, work): (ExposureId, WorkId),
    decision: &Decision,
    by_attempt: bool,
    next: Next,
) -> Result<(), StoreError> {
    let until = match decision.verdict {
        Verdict::Deferred(until, _) => Some(until),
        _ => None,
    };
    let (state, waits) = match next {
        Next::Decided => ("decided", None),
        Next::Waiting(until, reason) | Next::AnotherRound(until, reason) => {
            ("waiting", Some((until, reason.as_str())))
        }
        Next::Idle => ("idle", None),
    };
    // An attempt that proved something destroys the password, the record's copy in the tenant's own feed included.
    sqlx::query(concat!(
        "WITH decided AS (
             UPDATE exposures SET verdict = $2, verdict_reason = $3, verdict_at = clock_timestamp(), deferred_until = $4,
                 evidence = $5, decided_without_attempt = $6, state = $7, round = round + $8,
                 attempts = attempts + $10, secret_sealed = CASE WHEN $9 THEN NULL ELSE secret_sealed END
             WHERE tenant_id = platform.current_tenant() AND exposure_id = $1 RETURNING record_id),
         ",
        end_work!("$11", "$12", "$13"),
        " SELECT api.destroy_record_secrets(ARRAY[record_id]) FROM decided WHERE $9",
    ))
    .bind(exposure)
    .bind(decision.verdict.name())
    .bind(decision.verdict.reason().map(Reason::as_str))
    .bind(until)
    .bind(Json(&decision.evidence))
    .bind(!by_attempt && until.is_none())
    .bind(state)
    .bind(i32::from(matches!(next, Next::AnotherRound(..))))
    .bind(by_attempt && decision.verdict.is_proven())
    .bind(i32::from(by_attempt))
    .bind(work)
    .bind(waits.map(|(until, _)| until))
    .bind(waits.map(|(_, reason)| reason))
    .execute(&mut **tx)
    .await?;
    tx.changed_work();
    Ok(())
}

/// The columns that say where an exposure stands.
pub fn place(row: &PgRow) -> Result<Place, StoreError> {
    Ok(Place {
        likelihood: row.try_get::<Option<&str>, _>("likelihood")?.and_then(Likelihood::parse),
        privileged: row.try_get("privileged")?,
    })
}

/// Destroys up to 500 secrets of the tenant that are older than its retention; what they could have proven is shown
/// as expired. Returns the exposures whose verdict changed.
pub async fn expire(tx: &mut Tx, days: u32) -> Result<(u64, Vec<ExposureId>), StoreError> {
    let rows = sqlx::query(
        "WITH old AS (
             SELECT exposure_id, secret_sealed IS NOT NULL AS had,
                 secret_sealed IS NOT NULL AND coalesce(verdict, '') NOT IN
                     ('valid', 'valid_second_factor', 'valid_expired', 'invalid') AS changes
             FROM exposures
             WHERE tenant_id = platform.current_tenant() AND received_at < statement_timestamp() - make_interval(days => $1)
               AND (secret_sealed IS NOT NULL OR cookies_sealed IS NOT NULL)
             LIMIT 500 FOR UPDATE SKIP LOCKED)
         UPDATE exposures e SET
             secret_sealed = NULL, cookies_sealed = NULL, secret_expired = secret_expired OR old.had,
             verdict = CASE WHEN changes THEN 'not_testable' ELSE verdict END,
             verdict_reason = CASE WHEN changes THEN 'secret_expired' ELSE verdict_reason END,
             verdict_at = CASE WHEN changes THEN clock_timestamp() ELSE verdict_at END,
             deferred_until = CASE WHEN changes THEN NULL ELSE deferred_until END,
             state = CASE WHEN changes THEN 'decided' ELSE state END
         FROM old
         WHERE e.tenant_id = platform.current_tenant() AND e.exposure_id = old.exposure_id
         RETURNING e.exposure_id, changes",
    )
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .fetch_all(&mut **tx)
    .await?;
    let mut changed = Vec::new();
    for row in &rows {
        if row.try_get("changes")? {
            changed.push(ExposureId(row.try_get("exposure_id")?));
        }
    }
    Ok((rows.len() as u64, changed))
}
