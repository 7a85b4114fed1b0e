//! ValidationService.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use prost::Message;
use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, Tx},
    id::{AccountId, CauseId, ExposureId, TenantId, ValidationId},
    outbox::{self, Topic},
    wire::{events::ValidationRequested, v1},
};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{convert, exposure::filter_in, id, validation_end::with_results};
use crate::{
    auth::Caller,
    error::ApiError,
    idempotent,
    page::{self, Scope},
    store::{
        accounts, exposures, integrations, registry,
        validations::{self, Count, Item},
    },
};

const MOST_LISTED: usize = 10_000;
const MOST_SELECTED: i64 = 100_000;
/// The limiter's shipped window (design §5).
const WINDOW_SECONDS: i64 = 25 * 3600 + 15 * 60;

/// The service.
#[derive(Clone, Debug)]
pub struct Validations {
    pub(super) db: Db,
}

/// What a person wants of a request.
pub(super) enum Steer {
    Pause,
    Resume,
    Cancel,
}

enum Selection {
    One(ExposureId),
    Listed(Vec<ExposureId>),
    Filter(Box<exposures::Filter>, String),
}

impl Validations {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    pub(super) async fn one(
        &self,
        caller: &Caller,
        mut request: v1::ValidateRequest,
    ) -> Result<v1::ValidateResponse, ApiError> {
        let tenant = caller.tenant()?;
        let key = std::mem::take(&mut request.idempotency_key);
        let fingerprint = idempotent::fingerprint(&request);
        let exposure = id("exposure_id", &request.exposure_id)?;
        let work = |tx: Tx| async move {
            let (tx, validation) = ask(tx, caller, tenant, Selection::One(exposure), request.force).await?;
            Ok((tx, v1::ValidateResponse { validation: Some(validation) }))
        };
        Ok(idempotent::once(&self.db, tenant, "Validate", &key, &fingerprint, work).await?.0)
    }

    pub(super) async fn bulk(
        &self,
        caller: &Caller,
        mut request: v1::BulkValidateRequest,
    ) -> Result<v1::BulkValidateResponse, ApiError> {
        let tenant = caller.tenant()?;
        let key = std::mem::take(&mut request.idempotency_key);
        let fingerprint = idempotent::fingerprint(&request);
        let selection = match request.selection {
            None => return Err(ApiError::field("selection", "list exposures or give a filter")),
            Some(v1::bulk_validate_request::Selection::Exposures(v1::ExposureSelection { exposure_ids })) => {
                if exposure_ids.is_empty() || exposure_ids.len() > MOST_LISTED {
                    return Err(ApiError::field(
                        "exposures.exposure_ids",
                        "list 1 to 10,000; more by filter",
                    ));
                }
                let mut listed = exposure_ids
                    .iter()
                    .map(|text| id::<ExposureId>("exposures.exposure_ids", text))
                    .collect::<Result<Vec<_>, _>>()?;
                listed.sort_unstable();
                listed.dedup();
                Selection::Listed(listed)
            }
            Some(v1::bulk_validate_request::Selection::Filter(filter)) => {
                let shown = BASE64.encode(filter.encode_to_vec());
                Selection::Filter(Box::new(filter_in(Some(filter))?), shown)
            }
        };
        let work = |tx: Tx| async move {
            let (tx, validation) = ask(tx, caller, tenant, selection, request.force).await?;
            Ok((tx, v1::BulkValidateResponse { validation: Some(validation) }))
        };
        Ok(idempotent::once(&self.db, tenant, "BulkValidate", &key, &fingerprint, work).await?.0)
    }

    pub(super) async fn get(
        &self,
        caller: &Caller,
        request: v1::GetValidationRequest,
    ) -> Result<v1::GetValidationResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::GetValidationRequest { id: text, page_size, page_token } = request;
        let of: ValidationId = id("id", &text)?;
        let (size, scope) = (page::size(page_size)?, Scope::of("validation", &text));
        let after = scope.read::<Uuid>(&page_token)?.map(ExposureId);
        let mut tx = self.db.tenant(tenant).await?;
        let row = validations::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("validation"))?;
        let mut rows = validations::items(&mut tx, tenant, &row, after, size + 1).await?;
        let validation = counted(&mut tx, tenant, &row).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |item| item.exposure_id.uuid())?;
        Ok(v1::GetValidationResponse {
            validation: Some(validation),
            results: rows.into_iter().map(result).collect(),
            next_page_token,
        })
    }

    /// Pauses, resumes or cancels a request. The validator reads the state in every turn; the message lets it act on all
    /// exposures now.
    pub(super) async fn steer(
        &self,
        caller: &Caller,
        text: &str,
        to: Steer,
    ) -> Result<v1::Validation, ApiError> {
        let tenant = caller.tenant()?;
        let of: ValidationId = id("id", text)?;
        let (state, kind, message) = match &to {
            Steer::Pause => {
                ("paused", names::VALIDATION_REQUEST_PAUSED, "a request for validation was paused")
            }
            Steer::Resume => {
                ("running", names::VALIDATION_REQUEST_RESUMED, "a request for validation was resumed")
            }
            Steer::Cancel => {
                ("cancelled", names::VALIDATION_REQUEST_CANCELLED, "a request for validation was cancelled")
            }
        };
        let mut tx = self.db.tenant(tenant).await?;
        let mut row =
            validations::lock(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("validation"))?;
        if row.state == "cancelled" && state != "cancelled" {
            return Err(ApiError::Precondition {
                reason: "VALIDATION_CANCELLED",
                message: "the request was cancelled; make a new one".into(),
            });
        }
        if row.over || row.state == state {
            return counted(&mut tx, tenant, &row).await;
        }
        validations::set_state(&mut tx, tenant, of, state).await?;
        state.clone_into(&mut row.state);
        let mut event = Event::new(Some(tenant), kind, caller.actor(), Outcome::Success, message)
            .cause(CauseId(of.uuid()))
            .object("validation", of);
        if let Steer::Cancel = to {
            row.ended_at = Some(validations::end(&mut tx, tenant, of).await?);
            row.over = true;
        }
        let validation = counted(&mut tx, tenant, &row).await?;
        if let Steer::Cancel = to {
            event = with_results(event, &validation);
        }
        audit::record(&mut tx, &event).await?;
        tell(&mut tx, tenant, of).await?;
        tx.commit().await?;
        Ok(validation)
    }

    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: v1::ListValidationsRequest,
    ) -> Result<v1::ListValidationsResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::ListValidationsRequest { page_size, page_token } = request;
        let (size, scope) = (page::size(page_size)?, Scope::of("validations", &()));
        let after = scope.read::<(OffsetDateTime, Uuid)>(&page_token)?.map(|(at, id)| (at, ValidationId(id)));
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = validations::list(&mut tx, tenant, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |r| (r.created_at, r.validation_id.uuid()))?;
        Ok(v1::ListValidationsResponse { validations: rows.iter().map(shown).collect(), next_page_token })
    }

    pub(super) async fn budget(
        &self,
        caller: &Caller,
        account: AccountId,
    ) -> Result<v1::GetAttemptBudgetResponse, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let facts =
            accounts::budget_facts(&mut tx, tenant, account).await?.ok_or(ApiError::NotFound("account"))?;
        let budget = accounts::budget(&mut tx, &facts, facts.config.is_us_gov()).await?;
        tx.rollback().await?;
        let accounts::Budget {
            attempt_limit,
            limited_by,
            threshold,
            used,
            since_success,
            reserve_limit,
            next_free_at,
            blocked_by,
        } = budget;
        let free = (attempt_limit - used).max(0).min((reserve_limit - since_success).max(0));
        Ok(v1::GetAttemptBudgetResponse {
            limit: attempt_limit,
            limited_by,
            used,
            free,
            next_free_at: next_free_at.map(convert::timestamp),
            since_success,
            threshold,
            threshold_read: facts.lockout_threshold.is_some_and(|t| t > 0),
            window_seconds: WINDOW_SECONDS,
            message: explained(blocked_by.as_deref()).to_owned(),
            blocked_by: blocked_by.unwrap_or_default(),
            reserve_limit,
        })
    }
}

fn explained(blocked_by: Option<&str>) -> &'static str {
    match blocked_by {
        None => "an attempt may be made now",
        Some("gate") => {
            "the memory of attempts cannot be believed now; an operator sees why (parapet attempts gate)"
        }
        Some("stopped") => "attempts are stopped; the list of stops says by whom and why",
        Some("window") => "the attempts of the rolling window are used up",
        Some("spacing") => "attempts on one account are kept at least five minutes apart",
        Some("in_flight") => "an attempt is under way",
        Some("cooling") => "the directory said the account is locked; it is left alone for a window",
        Some("locked") => "the account is locked; nothing is tried until it is unlocked",
        Some("reserve") => "the rest is the owner's reserve until a successful sign-in of the owner is seen",
        Some("threshold_too_low") => "the directory's lockout threshold is too low to try safely",
        Some(_) => "the integration's daily maximum allows no attempts",
    }
}

/// Stores a request with its items, event and message.
async fn ask(
    mut tx: Tx,
    caller: &Caller,
    tenant: TenantId,
    selection: Selection,
    force: bool,
) -> Result<(Tx, v1::Validation), ApiError> {
    let package = registry::package(&mut tx, tenant).await?;
    if !package.validation {
        return Err(ApiError::NotEntitled { entitlement: "validation".into(), contact: package.contact });
    }
    let validation_id = ValidationId::new();
    let (kind, items, filter) = match selection {
        Selection::One(exposure) => {
            one_checked(&mut tx, tenant, exposure).await?;
            // Asked again while it waits: the same request.
            if let Some(waiting) = validations::waiting_for(&mut tx, tenant, exposure, force).await? {
                let validation = counted(&mut tx, tenant, &waiting).await?;
                return Ok((tx, validation));
            }
            validations::insert_items(&mut tx, tenant, validation_id, &[exposure]).await?;
            ("single", 1, None)
        }
        Selection::Listed(listed) => {
            let known = exposures::by_ids(&mut tx, tenant, &listed).await?;
            if known.len() != listed.len() {
                return Err(ApiError::NotFound("exposure in the list"));
            }
            validations::insert_items(&mut tx, tenant, validation_id, &listed).await?;
            ("selection", i64::try_from(listed.len()).unwrap_or(MOST_SELECTED), None)
        }
        Selection::Filter(filter, shown) => {
            let most = MOST_SELECTED + 1;
            let selected = exposures::select_into(&mut tx, tenant, &filter, validation_id, most).await?;
            ("filter", i64::try_from(selected).unwrap_or(most), Some(Json(shown)))
        }
    };
    if items == 0 {
        return Err(ApiError::Precondition {
            reason: "NOTHING_SELECTED",
            message: "the filter selects no exposure".into(),
        });
    }
    if items > MOST_SELECTED {
        return Err(ApiError::Precondition {
            reason: "TOO_MANY_SELECTED",
            message: "the filter selects more than 100,000 exposures; narrow it".into(),
        });
    }
    let mut row = validations::Request {
        validation_id,
        kind: kind.into(),
        requested_by: caller.claims.subject.clone(),
        requester_name: caller.claims.name.clone(),
        filter,
        force,
        items: i32::try_from(items).unwrap_or(i32::MAX),
        created_at: OffsetDateTime::UNIX_EPOCH,
        state: "running".to_owned(),
        ended_at: None,
        over: false,
    };
    row.created_at = validations::insert(&mut tx, tenant, &row).await?;
    let cause = CauseId(validation_id.uuid());
    let event = Event::new(
        Some(tenant),
        names::VALIDATION_REQUESTED,
        caller.actor(),
        Outcome::Success,
        format!("validation of {items} exposures requested"),
    )
    .cause(cause)
    .object("validation", validation_id)
    .detail("selected_by", kind)
    .detail("exposures", items)
    .detail("force", force);
    audit::record(&mut tx, &event).await?;
    tell(&mut tx, tenant, validation_id).await?;
    let validation = counted(&mut tx, tenant, &row).await?;
    Ok((tx, validation))
}

/// Tells the validator that a request is new, or that its state changed.
async fn tell(tx: &mut Tx, tenant: TenantId, of: ValidationId) -> Result<(), ApiError> {
    let message = ValidationRequested {
        tenant_id: tenant.to_string(),
        validation_id: of.to_string(),
        cause_id: of.to_string(),
    };
    outbox::enqueue(tx, Topic::ValidationRequested, Some(tenant), &message).await?;
    Ok(())
}

async fn one_checked(tx: &mut Tx, tenant: TenantId, exposure: ExposureId) -> Result<(), ApiError> {
    let known =
        exposures::by_ids(tx, tenant, &[exposure]).await?.pop().ok_or(ApiError::NotFound("exposure"))?;
    let integration = integrations::get(tx, tenant, known.integration_id).await?;
    if integration.is_some_and(|i| !i.settings.validation.manual) {
        return Err(ApiError::Precondition {
            reason: "SWITCHED_OFF",
            message: "manual validation is switched off for this integration (settings.validation.manual)"
                .into(),
        });
    }
    Ok(())
}

pub(super) async fn counted(
    tx: &mut Tx,
    tenant: TenantId,
    row: &validations::Request,
) -> Result<v1::Validation, ApiError> {
    let mut validation = shown(row);
    let cancelled = row.state == "cancelled";
    let (mut first, mut last) = (None, None);
    for Count { verdict, reason, count, first_until, last_until } in
        validations::counts(tx, tenant, row).await?
    {
        match verdict.as_str() {
            "pending" | "deferred" if cancelled => {
                validation.cancelled += count;
                continue;
            }
            "pending" | "deferred" => validation.waiting += count,
            _ => validation.decided += count,
        }
        first = first.into_iter().chain(first_until).min();
        last = last.max(last_until);
        validation.counts.push(v1::VerdictCount {
            kind: convert::verdict_kind(Some(&verdict)).into(),
            reason,
            count,
        });
    }
    validation.next_at = first.map(convert::timestamp);
    validation.deferred_until = last.map(convert::timestamp);
    if validation.waiting == 0 && !cancelled {
        validation.set_state(v1::ValidationState::Done);
    }
    Ok(validation)
}

fn shown(row: &validations::Request) -> v1::Validation {
    let validations::Request {
        validation_id,
        kind,
        requested_by,
        requester_name,
        filter,
        force,
        items,
        created_at,
        state,
        ended_at,
        over,
    } = row;
    let state = match state.as_str() {
        "running" | "paused" if *over => v1::ValidationState::Done,
        "running" => v1::ValidationState::Running,
        "paused" => v1::ValidationState::Paused,
        "cancelled" => v1::ValidationState::Cancelled,
        _ => v1::ValidationState::Unspecified,
    };
    let kind = match kind.as_str() {
        "single" => v1::ValidationKind::Single,
        "selection" => v1::ValidationKind::Selection,
        "filter" => v1::ValidationKind::Filter,
        _ => v1::ValidationKind::Unspecified,
    };
    let filter = filter
        .as_ref()
        .and_then(|f| BASE64.decode(&f.0).ok())
        .and_then(|bytes| v1::ExposureFilter::decode(bytes.as_slice()).ok());
    v1::Validation {
        id: validation_id.to_string(),
        kind: kind.into(),
        requested_by: requested_by.clone(),
        requester_name: requester_name.clone(),
        filter,
        force: *force,
        created_at: Some(convert::timestamp(*created_at)),
        total: i64::from(*items),
        state: state.into(),
        ended_at: ended_at.map(convert::timestamp),
        ..Default::default()
    }
}

fn result(item: Item) -> v1::ValidationResult {
    let Item {
        exposure_id,
        login_at_match,
        account_id,
        verdict,
        verdict_reason,
        verdict_at,
        deferred_until,
        attempts,
        decided,
    } = item;
    v1::ValidationResult {
        exposure_id: exposure_id.to_string(),
        login: login_at_match,
        account_id: account_id.to_string(),
        verdict: Some(v1::Verdict {
            kind: convert::verdict_kind(verdict.as_deref()).into(),
            reason: verdict_reason.unwrap_or_default(),
            decided_at: verdict_at.map(convert::timestamp),
            deferred_until: deferred_until.map(convert::timestamp),
        }),
        attempts,
        decided,
    }
}
