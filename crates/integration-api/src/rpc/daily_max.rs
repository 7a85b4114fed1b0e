//! How many attempts an account may cost in a day: what bounds the setting, and who has to agree to a high one. The
//! budget takes the least of all limits whatever is stored; what is refused here is a promise that it would not keep.

use shared::{
    audit::{self, Actor, Event, EventType, Outcome, names},
    db::{StoreError, Tx},
    id::{CauseId, DailyMaxRequestId, IntegrationId, TenantId},
    wire::v1,
};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    convert, id,
    integration::{Integrations, locked},
    integration_events::updated_event,
    is_text, optional_id,
};
use crate::{
    NAME,
    auth::Caller,
    error::{ApiError, Check},
    integration::Integration,
    page::{self, Scope},
    store::{
        accounts::{self, BudgetFacts},
        daily_max::{self as store, Request},
        integrations,
    },
};

const REQUEST: &str = "request for a daily maximum";
/// The most that one administrator sets alone.
pub(super) const MOST_ALONE: u32 = 3;
/// The most there is.
pub(super) const MOST: u32 = 5;

/// Refuses to raise the maximum above half of the lockout threshold, where that was read.
pub(super) async fn below_half_of_the_threshold(
    tx: &mut Tx,
    tenant: TenantId,
    before: &Integration,
    wanted: u32,
) -> Result<(), ApiError> {
    if wanted <= before.settings.validation.daily_max {
        return Ok(());
    }
    let threshold = store::thresholds(tx, tenant, &[before.id]).await?.first().map(|(_, read)| *read);
    let Some(threshold) = threshold.and_then(|read| u32::try_from(read).ok()) else { return Ok(()) };
    let half = threshold / 2;
    if wanted <= half {
        return Ok(());
    }
    Err(ApiError::Precondition {
        reason: "ABOVE_HALF_OF_THRESHOLD",
        message: format!(
            "the directory locks an account after {threshold} failed sign-ins; half of that, {half}, is the most that \
             settings.validation.daily_max can be raised to. Set {half} or less, or raise the directory's threshold and \
             sync it first"
        ),
    })
}

/// What keeps attempts below the maximum that is set.
pub(super) async fn warnings(
    tx: &mut Tx,
    of: &Integration,
    threshold: Option<i32>,
) -> Result<Vec<v1::ConnectionWarning>, ApiError> {
    let validation = &of.settings.validation;
    if !validation.manual && !of.settings.validates_automatically() {
        return Ok(Vec::new());
    }
    // Of no account: what its history and its own policy take away comes on top.
    let facts = BudgetFacts {
        provider: of.provider.as_str().to_owned(),
        directory_id: of.directory_id.clone().unwrap_or_default(),
        object_id: String::new(),
        authority: "cloud".to_owned(),
        settings: Json(of.settings.clone()),
        config: Json(of.connection.clone()),
        lockout_threshold: threshold,
    };
    let budget = accounts::budget(tx, &facts, of.connection.is_us_gov()).await?;
    let limit = u32::try_from(budget.attempt_limit).unwrap_or_default();
    if limit >= validation.daily_max {
        return Ok(Vec::new());
    }
    let why = if threshold.is_some() {
        format!("the directory locks an account after {} failed sign-ins", budget.threshold)
    } else {
        format!("the directory's lockout threshold is not known and counts as {}", budget.threshold)
    };
    let (reason, message) = if limit == 0 {
        (
            "threshold_too_low",
            format!(
                "{why}: no password is tried. Raise the threshold at the directory, or opt in to one attempt between two \
                 sign-ins of the owner (settings.validation.low_threshold_opt_in)"
            ),
        )
    } else {
        let daily_max = validation.daily_max;
        (
            "daily_max_limited",
            format!(
                "{why}: attempts per account and day are limited to {limit}, although daily_max is {daily_max}"
            ),
        )
    };
    Ok(vec![v1::ConnectionWarning { reason: reason.to_owned(), message }])
}

/// Ends the requests of a tenant that waited too long. Each end is an event.
pub(crate) async fn expire(tx: &mut Tx, tenant: TenantId) -> Result<(), StoreError> {
    let told = "nobody decided in time about a higher daily maximum";
    let expired = store::expire(tx, tenant).await?;
    let events: Vec<_> = expired
        .iter()
        .map(|request| {
            event(tenant, Actor::Service(NAME), names::INTEGRATION_DAILY_MAX_EXPIRED, told, request)
        })
        .collect();
    audit::record_many(tx, &events).await
}

impl Integrations {
    pub(super) async fn request_daily_max(
        &self,
        caller: &Caller,
        request: v1::RequestDailyMaxRequest,
    ) -> Result<v1::RequestDailyMaxResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::RequestDailyMaxRequest { integration_id, daily_max, reason } = request;
        let mut check = Check::default();
        let integration = check.take(id::<IntegrationId>("integration_id", &integration_id))?;
        let wanted = u32::try_from(daily_max).unwrap_or_default();
        check.require(
            (MOST_ALONE + 1..=MOST).contains(&wanted),
            "daily_max",
            "give 4 or 5; up to 3 needs no second administrator and is set with UpdateIntegration",
        );
        let reason = check.take(why(&reason))?;
        check.done()?;
        let (Some(integration), Some(reason)) = (integration, reason) else {
            return Err(ApiError::Internal("a checked request has gaps"));
        };
        let mut tx = self.db.tenant(tenant).await?;
        let found = locked(&mut tx, tenant, integration, "").await?;
        expire(&mut tx, tenant).await?;
        let request = match store::waiting(&mut tx, tenant, &[integration]).await?.pop() {
            // Asked twice is asked once.
            Some(waiting) if waiting.daily_max == daily_max && waiting.asked_by == caller.claims.subject => {
                waiting
            }
            Some(_) => {
                return Err(ApiError::Precondition {
                    reason: "REQUEST_WAITING",
                    message: "another request for this integration waits; approve or decline it first".into(),
                });
            }
            None => {
                if wanted <= found.settings.validation.daily_max {
                    return Err(ApiError::Precondition {
                        reason: "NOT_RAISED",
                        message: "the integration allows that many attempts already".into(),
                    });
                }
                below_half_of_the_threshold(&mut tx, tenant, &found, wanted).await?;
                let new = store::ask(&mut tx, tenant, integration, daily_max, reason, caller.named()).await?;
                let request = stored(&mut tx, tenant, new).await?;
                let event = event(
                    tenant,
                    caller.actor(),
                    names::INTEGRATION_DAILY_MAX_ASKED,
                    "a higher daily maximum was asked for",
                    &request,
                );
                audit::record(&mut tx, &event.detail("reason", reason)).await?;
                request
            }
        };
        tx.commit().await?;
        Ok(v1::RequestDailyMaxResponse { request: Some(shown(request)) })
    }

    pub(super) async fn approve_daily_max(
        &self,
        caller: &Caller,
        request: v1::ApproveDailyMaxRequest,
    ) -> Result<v1::ApproveDailyMaxResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::ApproveDailyMaxRequest { id: text, reason } = request;
        let (of, reason) = (id("id", &text)?, why(&reason)?);
        let mut tx = self.db.tenant(tenant).await?;
        let before = self.of_request(&mut tx, tenant, of).await?;
        let request = stored(&mut tx, tenant, of).await?;
        if request.state == "approved" {
            tx.rollback().await?;
            return Ok(v1::ApproveDailyMaxResponse { request: Some(shown(request)) });
        }
        still_waiting(&request)?;
        // INVARIANT: two people; the table refuses it too.
        if request.asked_by == caller.claims.subject {
            return Err(ApiError::Denied {
                reason: "SAME_PERSON",
                message: "a higher daily maximum is approved by a second administrator, not by the one who asked for it"
                    .into(),
            });
        }
        if before.connection_since > request.asked_at {
            return Err(ApiError::Precondition {
                reason: "CONNECTION_CHANGED",
                message: "the integration's connection was changed since this was asked for; ask again"
                    .into(),
            });
        }
        let wanted = u32::try_from(request.daily_max).unwrap_or_default();
        below_half_of_the_threshold(&mut tx, tenant, &before, wanted).await?;
        if !store::decide(&mut tx, tenant, of, "approved", reason, caller.named()).await? {
            return Err(ended());
        }
        let mut after = before.clone();
        after.settings.validation.daily_max = wanted;
        after.version += 1;
        after.updated_by.clone_from(&caller.claims.subject);
        integrations::update(&mut tx, tenant, &after).await?;
        let request = stored(&mut tx, tenant, of).await?;
        let event = event(
            tenant,
            caller.actor(),
            names::INTEGRATION_DAILY_MAX_APPROVED,
            "a higher daily maximum was approved",
            &request,
        );
        let approved = audit::record(&mut tx, &event.detail("reason", reason)).await?;
        let changed = updated_event(tenant, caller, &before, &after).cause(CauseId(approved.uuid()));
        audit::record(&mut tx, &changed).await?;
        tx.commit().await?;
        Ok(v1::ApproveDailyMaxResponse { request: Some(shown(request)) })
    }

    pub(super) async fn decline_daily_max(
        &self,
        caller: &Caller,
        request: v1::DeclineDailyMaxRequest,
    ) -> Result<v1::DeclineDailyMaxResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::DeclineDailyMaxRequest { id: text, reason } = request;
        let (of, reason) = (id("id", &text)?, why(&reason)?);
        let mut tx = self.db.tenant(tenant).await?;
        self.of_request(&mut tx, tenant, of).await?;
        let request = stored(&mut tx, tenant, of).await?;
        if matches!(request.state.as_str(), "refused" | "withdrawn") {
            tx.rollback().await?;
            return Ok(v1::DeclineDailyMaxResponse { request: Some(shown(request)) });
        }
        still_waiting(&request)?;
        let (state, kind, message) = if request.asked_by == caller.claims.subject {
            (
                "withdrawn",
                names::INTEGRATION_DAILY_MAX_WITHDRAWN,
                "the request for a higher daily maximum was withdrawn",
            )
        } else {
            caller.must_approve()?;
            ("refused", names::INTEGRATION_DAILY_MAX_REFUSED, "a higher daily maximum was refused")
        };
        if !store::decide(&mut tx, tenant, of, state, reason, caller.named()).await? {
            return Err(ended());
        }
        let request = stored(&mut tx, tenant, of).await?;
        let event = event(tenant, caller.actor(), kind, message, &request);
        audit::record(&mut tx, &event.detail("reason", reason)).await?;
        tx.commit().await?;
        Ok(v1::DeclineDailyMaxResponse { request: Some(shown(request)) })
    }

    pub(super) async fn daily_max_requests(
        &self,
        caller: &Caller,
        request: v1::ListDailyMaxRequestsRequest,
    ) -> Result<v1::ListDailyMaxRequestsResponse, ApiError> {
        let tenant = caller.tenant()?;
        let v1::ListDailyMaxRequestsRequest { page_size, page_token, integration_id } = request;
        let (size, scope) = (page::size(page_size)?, Scope::of("daily maximum requests", &integration_id));
        let after =
            scope.read::<(OffsetDateTime, Uuid)>(&page_token)?.map(|(at, id)| (at, DailyMaxRequestId(id)));
        let integration = optional_id("integration_id", &integration_id)?;
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = store::list(&mut tx, tenant, integration, after, size + 1).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |r| (r.asked_at, r.request_id.uuid()))?;
        Ok(v1::ListDailyMaxRequestsResponse {
            requests: rows.into_iter().map(shown).collect(),
            next_page_token,
        })
    }

    /// The integration of a request, locked: what is decided about it happens one after the other.
    async fn of_request(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        of: DailyMaxRequestId,
    ) -> Result<Integration, ApiError> {
        let request = store::get(tx, tenant, of).await?.ok_or(ApiError::NotFound(REQUEST))?;
        locked(tx, tenant, request.integration_id, "").await
    }
}

fn why(reason: &str) -> Result<&str, ApiError> {
    if is_text(reason, 500) {
        Ok(reason.trim())
    } else {
        Err(ApiError::field("reason", "say why, in 1 to 500 printable characters"))
    }
}

async fn stored(tx: &mut Tx, tenant: TenantId, of: DailyMaxRequestId) -> Result<Request, ApiError> {
    store::get(tx, tenant, of).await?.ok_or(ApiError::NotFound(REQUEST))
}

fn still_waiting(request: &Request) -> Result<(), ApiError> {
    if request.state == "waiting" { Ok(()) } else { Err(ended()) }
}

fn ended() -> ApiError {
    ApiError::Precondition {
        reason: "REQUEST_ENDED",
        message: "the request was approved, refused, withdrawn or expired; ask again".into(),
    }
}

fn event(
    tenant: TenantId,
    actor: Actor,
    kind: &'static EventType,
    message: &str,
    request: &Request,
) -> Event {
    Event::new(Some(tenant), kind, actor, Outcome::Success, message)
        .cause(CauseId(request.request_id.uuid()))
        .integration(request.integration_id)
        .object("daily_max_request", request.request_id)
        .detail("daily_max", request.daily_max)
        .detail("asked_by", &request.asked_by)
}

/// A request as callers see it.
pub(super) fn shown(row: Request) -> v1::DailyMaxRequest {
    let Request {
        request_id,
        integration_id,
        daily_max,
        reason,
        asked_by,
        asker_name,
        asked_at,
        expires_at,
        state,
        decided_by,
        decider_name,
        decision_reason,
        decided_at,
    } = row;
    let state = match state.as_str() {
        "waiting" => v1::DailyMaxRequestState::Waiting,
        "approved" => v1::DailyMaxRequestState::Approved,
        "refused" => v1::DailyMaxRequestState::Refused,
        "withdrawn" => v1::DailyMaxRequestState::Withdrawn,
        "expired" => v1::DailyMaxRequestState::Expired,
        _ => v1::DailyMaxRequestState::Unspecified,
    };
    v1::DailyMaxRequest {
        id: request_id.to_string(),
        integration_id: integration_id.to_string(),
        daily_max,
        reason,
        asked_by,
        asker_name,
        asked_at: Some(convert::timestamp(asked_at)),
        expires_at: Some(convert::timestamp(expires_at)),
        state: state.into(),
        decided_by: decided_by.unwrap_or_default(),
        decider_name: decider_name.unwrap_or_default(),
        decision_reason: decision_reason.unwrap_or_default(),
        decided_at: decided_at.map(convert::timestamp),
    }
}
