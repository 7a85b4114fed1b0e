//! Kill switches of password attempts: a tenant's (ValidationService) and the installation's (InstallationService).

use shared::{
    audit::{self, Event, EventType, Outcome, names},
    db::{Db, Tx},
    id::{AccountId, AttemptStopId, IntegrationId},
    wire::v1,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{convert, id, is_text};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    page::{self, Scope},
    store::{
        accounts, integrations,
        stops::{self as store, Place, Stop},
    },
};

const STOP: &str = "stop of the tenant";

pub(super) async fn stop(
    db: &Db,
    caller: &Caller,
    request: v1::StopAttemptsRequest,
) -> Result<v1::StopAttemptsResponse, ApiError> {
    let tenant = caller.tenant()?;
    let v1::StopAttemptsRequest { scope, reason } = request;
    let reason = checked(&reason)?;
    let mut tx = db.tenant(tenant).await?;
    let place = match scope {
        None => Place::default(),
        Some(v1::stop_attempts_request::Scope::IntegrationId(text)) => {
            let of: IntegrationId = id("integration_id", &text)?;
            let integration =
                integrations::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("integration"))?;
            let directory = integration.directory_id.ok_or_else(|| ApiError::Precondition {
                reason: "DIRECTORY_UNKNOWN",
                message:
                    "the integration's directory is not known yet; test the integration, or stop the tenant"
                        .into(),
            })?;
            let provider = Some(integration.provider.as_str().to_owned());
            Place { provider, directory: Some(directory), object: None }
        }
        Some(v1::stop_attempts_request::Scope::AccountId(text)) => {
            let of: AccountId = id("account_id", &text)?;
            let facts =
                accounts::budget_facts(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("account"))?;
            Place {
                provider: Some(facts.provider),
                directory: Some(facts.directory_id),
                object: Some(facts.object_id),
            }
        }
    };
    let stop = put(&mut tx, caller, &place, reason).await?;
    tx.commit().await?;
    Ok(v1::StopAttemptsResponse { stop: Some(shown(stop)) })
}

pub(super) async fn resume(
    db: &Db,
    caller: &Caller,
    request: v1::ResumeAttemptsRequest,
) -> Result<v1::ResumeAttemptsResponse, ApiError> {
    let tenant = caller.tenant()?;
    let mut check = Check::default();
    let of = check.take(id::<AttemptStopId>("id", &request.id))?;
    let reason = check.take(checked(&request.reason))?;
    check.done()?;
    let (Some(of), Some(reason)) = (of, reason) else {
        return Err(ApiError::Internal("a checked request has gaps"));
    };
    let mut tx = db.tenant(tenant).await?;
    let stop = store::get(&mut tx, of).await?.filter(|s| s.by_tenant).ok_or(ApiError::NotFound(STOP))?;
    end(&mut tx, caller, &stop, reason).await?;
    tx.commit().await?;
    Ok(v1::ResumeAttemptsResponse {})
}

pub(super) async fn list(
    db: &Db,
    caller: &Caller,
    request: v1::ListAttemptStopsRequest,
) -> Result<v1::ListAttemptStopsResponse, ApiError> {
    let v1::ListAttemptStopsRequest { page_size, page_token } = request;
    let (size, scope) = (page::size(page_size)?, Scope::of("attempt stops", &()));
    let after = scope.read::<(OffsetDateTime, Uuid)>(&page_token)?.map(|(at, id)| (at, AttemptStopId(id)));
    let mut tx = db.tenant(caller.tenant()?).await?;
    let mut rows = store::list(&mut tx, after, size + 1).await?;
    tx.rollback().await?;
    let next_page_token = scope.cut(&mut rows, size, |s| (s.stopped_at, s.stop_id.uuid()))?;
    Ok(v1::ListAttemptStopsResponse { stops: rows.into_iter().map(shown).collect(), next_page_token })
}

pub(super) async fn stop_all(
    db: &Db,
    caller: &Caller,
    request: v1::StopAllAttemptsRequest,
) -> Result<v1::StopAllAttemptsResponse, ApiError> {
    let reason = checked(&request.reason)?;
    let mut tx = db.system().await?;
    let stop = put(&mut tx, caller, &Place::default(), reason).await?;
    tx.commit().await?;
    let stopped_at = Some(convert::timestamp(stop.stopped_at));
    Ok(v1::StopAllAttemptsResponse { stopped_at, reason: stop.reason })
}

pub(super) async fn resume_all(
    db: &Db,
    caller: &Caller,
    request: v1::ResumeAllAttemptsRequest,
) -> Result<v1::ResumeAllAttemptsResponse, ApiError> {
    let reason = checked(&request.reason)?;
    let mut tx = db.system().await?;
    let stop = store::list(&mut tx, None, 1).await?.pop();
    let stop = stop.ok_or(ApiError::NotFound("stop of the installation"))?;
    end(&mut tx, caller, &stop, reason).await?;
    tx.commit().await?;
    Ok(v1::ResumeAllAttemptsResponse {})
}

fn checked(reason: &str) -> Result<&str, ApiError> {
    if is_text(reason, 500) {
        Ok(reason.trim())
    } else {
        Err(ApiError::field("reason", "say why, in 1 to 500 printable characters"))
    }
}

/// Stops, and says so in the audit log unless it was stopped already.
async fn put(tx: &mut Tx, caller: &Caller, place: &Place, reason: &str) -> Result<Stop, ApiError> {
    let new = AttemptStopId::new();
    let holds = store::stop(tx, new, place, reason, caller.named()).await?;
    let stop = store::get(tx, holds).await?.ok_or(ApiError::Internal("a stop that was just made is gone"))?;
    if holds == new {
        let event = event(caller, names::VALIDATION_STOPPED, "password attempts are stopped", &stop);
        audit::record(tx, &event.detail("reason", reason)).await?;
    }
    Ok(stop)
}

async fn end(tx: &mut Tx, caller: &Caller, stop: &Stop, reason: &str) -> Result<(), ApiError> {
    if !store::resume(tx, stop.stop_id).await? {
        return Err(ApiError::NotFound(STOP));
    }
    let event = event(caller, names::VALIDATION_RESUMED, "password attempts may go on", stop);
    audit::record(tx, &event.detail("reason", reason)).await?;
    Ok(())
}

fn event(caller: &Caller, kind: &'static EventType, message: &str, stop: &Stop) -> Event {
    let tenant = if stop.by_tenant { caller.tenant } else { None };
    Event::new(tenant, kind, caller.actor(), Outcome::Success, message)
        .object("attempt_stop", stop.stop_id)
        .detail("scope", scope(stop).as_str_name().trim_start_matches("ATTEMPT_STOP_SCOPE_").to_lowercase())
        .detail("directory", stop.directory.as_deref().unwrap_or_default())
        .detail("object", stop.object.as_deref().unwrap_or_default())
}

fn scope(stop: &Stop) -> v1::AttemptStopScope {
    match (&stop.directory, &stop.object) {
        (Some(_), Some(_)) => v1::AttemptStopScope::Account,
        (Some(_), None) => v1::AttemptStopScope::Directory,
        (None, _) if stop.by_tenant => v1::AttemptStopScope::Tenant,
        (None, _) => v1::AttemptStopScope::Installation,
    }
}

fn shown(stop: Stop) -> v1::AttemptStop {
    let scope = scope(&stop).into();
    let Stop { stop_id, by_tenant, provider, directory, object, reason, actor_id, actor_name, stopped_at } =
        stop;
    // Operators are nobody a tenant knows.
    let (stopped_by, stopper_name) = if by_tenant { (actor_id, actor_name) } else { Default::default() };
    v1::AttemptStop {
        id: stop_id.to_string(),
        scope,
        provider: provider.as_deref().map_or(v1::ProviderKind::Unspecified.into(), convert::provider_named),
        directory_id: directory.unwrap_or_default(),
        object_id: object.unwrap_or_default(),
        reason,
        stopped_by,
        stopper_name,
        stopped_at: Some(convert::timestamp(stopped_at)),
    }
}
