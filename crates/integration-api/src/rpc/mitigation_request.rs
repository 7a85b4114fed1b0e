//! Requests of people for mitigations: of named accounts, and of selected ones in bulk.

use std::collections::BTreeSet;

use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, StoreError, Tx},
    id::{AccountId, CauseId, ExposureId, IntegrationId, MitigationRequestId, TenantId},
    outbox::{self, Topic},
    provider::Action,
    wire::{events::MitigationRequested, v1},
};

use super::{convert, exposure::filter_in, id, is_text};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    idempotent,
    store::{
        accounts, exposures, integrations,
        mitigations::{self, New},
        registry,
    },
};

const MOST_NAMED: usize = 1000;
/// The most accounts of one selection.
pub(super) const MOST_SELECTED: usize = 100_000;

/// Which accounts are meant.
enum Selection {
    Named { accounts: BTreeSet<AccountId>, exposures: BTreeSet<ExposureId> },
    Listed(Vec<AccountId>),
    Filter(Box<exposures::Filter>),
}

struct Wanted {
    selection: Selection,
    actions: Vec<Action>,
    reason: String,
}

/// Stores a request about named accounts, once for each idempotency key.
pub(super) async fn named(
    db: &Db,
    caller: &Caller,
    mut request: v1::RequestMitigationRequest,
) -> Result<v1::RequestMitigationResponse, ApiError> {
    let tenant = caller.tenant()?;
    let key = std::mem::take(&mut request.idempotency_key);
    let fingerprint = idempotent::fingerprint(&request);
    let v1::RequestMitigationRequest { account_ids, exposure_ids, actions, reason, idempotency_key: _ } =
        request;
    let mut check = Check::default();
    let named = account_ids.len() + exposure_ids.len();
    check.require((1..=MOST_NAMED).contains(&named), "account_ids", "name 1 to 1000 accounts or exposures");
    let selection = Selection::Named {
        accounts: account_ids.iter().map(|t| id("account_ids", t)).collect::<Result<_, _>>()?,
        exposures: exposure_ids.iter().map(|t| id("exposure_ids", t)).collect::<Result<_, _>>()?,
    };
    let wanted = wanted(check, selection, actions, &reason)?;
    let work = |tx: Tx| async move {
        let (tx, request, _) = ask(tx, caller, tenant, wanted).await?;
        Ok((tx, v1::RequestMitigationResponse { request: Some(request) }))
    };
    Ok(idempotent::once(db, tenant, "RequestMitigation", &key, &fingerprint, work).await?.0)
}

/// Stores a request about selected accounts, once for each idempotency key.
pub(super) async fn bulk(
    db: &Db,
    caller: &Caller,
    mut request: v1::BulkMitigateRequest,
) -> Result<v1::BulkMitigateResponse, ApiError> {
    use v1::bulk_mitigate_request::Selection as Sent;
    let tenant = caller.tenant()?;
    let key = std::mem::take(&mut request.idempotency_key);
    let fingerprint = idempotent::fingerprint(&request);
    let selection = match request.selection {
        None => return Err(ApiError::field("selection", "list accounts or give a filter")),
        Some(Sent::Accounts(v1::AccountSelection { account_ids })) => {
            Selection::Listed(listed("accounts.account_ids", &account_ids)?)
        }
        Some(Sent::Filter(filter)) => Selection::Filter(Box::new(filter_in(Some(filter))?)),
    };
    let wanted = wanted(Check::default(), selection, request.actions, &request.reason)?;
    let work = |tx: Tx| async move {
        let (tx, request, unreachable) = ask(tx, caller, tenant, wanted).await?;
        Ok((
            tx,
            v1::BulkMitigateResponse { request: Some(request), unreachable_accounts: whole(unreachable) },
        ))
    };
    Ok(idempotent::once(db, tenant, "BulkMitigate", &key, &fingerprint, work).await?.0)
}

/// A list of ids, each once and in order.
pub(super) fn listed<T: std::str::FromStr + Ord>(field: &str, texts: &[String]) -> Result<Vec<T>, ApiError> {
    let mut ids = texts.iter().map(|text| id(field, text)).collect::<Result<Vec<T>, _>>()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Whether a selection can be asked for.
pub(super) fn in_bounds(accounts: usize) -> Result<(), ApiError> {
    let message = match accounts {
        0 => "the selection has no account",
        n if n > MOST_SELECTED => "the selection has more than 100,000 accounts; narrow it",
        _ => return Ok(()),
    };
    Err(ApiError::Precondition { reason: "SELECTION", message: message.into() })
}

/// Actions of the wire, each once; at least one.
pub(super) fn actions_in(actions: Vec<i32>) -> Result<Vec<Action>, ApiError> {
    if actions.is_empty() {
        return Err(ApiError::field("actions", "name at least one action"));
    }
    let mut unique = Vec::new();
    for value in actions {
        let action = convert::action_in("actions", value)?;
        if !unique.contains(&action) {
            unique.push(action);
        }
    }
    Ok(unique)
}

fn wanted(
    mut check: Check,
    selection: Selection,
    actions: Vec<i32>,
    reason: &str,
) -> Result<Wanted, ApiError> {
    let actions = check.take(actions_in(actions))?.unwrap_or_default();
    check.require(is_text(reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    Ok(Wanted { selection, actions, reason: reason.trim().to_owned() })
}

/// What a selection came to.
struct Selected {
    accounts: usize,
    named: Vec<AccountId>,
    exposures: Vec<ExposureId>,
    by: &'static str,
    of: BTreeSet<IntegrationId>,
    /// Accounts that belong to no integration any more.
    unreachable: usize,
}

/// Stores a request with its event and message; how many of its accounts belong to no integration any more.
async fn ask(
    mut tx: Tx,
    caller: &Caller,
    tenant: TenantId,
    wanted: Wanted,
) -> Result<(Tx, v1::MitigationRequest, usize), ApiError> {
    let package = registry::package(&mut tx, tenant).await?;
    if !package.mitigation {
        return Err(ApiError::NotEntitled { entitlement: "mitigation".into(), contact: package.contact });
    }
    let Wanted { selection, actions, reason } = wanted;
    let id = MitigationRequestId::new();
    let bulk = !matches!(selection, Selection::Named { .. });
    let Selected { accounts, named, exposures, by, of, unreachable } =
        select(&mut tx, tenant, id, selection).await?;
    if unreachable == accounts {
        return Err(integration_gone());
    }
    switched_on(&mut tx, tenant, &of, &actions).await?;
    let row = New {
        id,
        requested_by: caller.claims.subject.clone(),
        requester_name: caller.claims.name.clone(),
        actions: actions.iter().map(|a| a.as_str()).collect(),
        named,
        exposures,
        bulk,
        accounts: i32::try_from(accounts).unwrap_or(i32::MAX),
        reason,
    };
    mitigations::insert(&mut tx, tenant, &row).await?;
    let message = format!("mitigation of {accounts} accounts requested");
    let event =
        Event::new(Some(tenant), names::MITIGATION_REQUESTED, caller.actor(), Outcome::Success, message)
            .cause(CauseId(id.uuid()))
            .object("mitigation_request", id)
            .detail("accounts", accounts)
            .detail("unreachable_accounts", unreachable)
            .detail("selected_by", by)
            .detail("actions", row.actions.join(","))
            .detail("reason", &row.reason);
    audit::record(&mut tx, &event).await?;
    hand_on(&mut tx, tenant, id).await?;
    let request = kept(&mut tx, tenant, id).await?;
    Ok((tx, request, unreachable))
}

async fn select(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
    selection: Selection,
) -> Result<Selected, ApiError> {
    let unknown = || ApiError::NotFound("account in the request");
    let (accounts, by) = match selection {
        Selection::Named { accounts: named, exposures } => {
            let exposures: Vec<_> = exposures.into_iter().collect();
            let theirs = exposures::accounts_of(tx, tenant, &exposures).await?;
            if theirs.len() != exposures.len() {
                return Err(ApiError::NotFound("exposure in the request"));
            }
            let meant: BTreeSet<_> = named.iter().copied().chain(theirs).collect();
            let meant: Vec<_> = meant.into_iter().collect();
            let found = accounts::by_ids(tx, tenant, &meant).await?;
            if found.len() != meant.len() {
                return Err(unknown());
            }
            let of = found.iter().map(|a| a.integration_id).collect();
            let named = named.into_iter().collect();
            return Ok(Selected { accounts: meant.len(), named, exposures, by: "name", of, unreachable: 0 });
        }
        Selection::Listed(listed) => {
            in_bounds(listed.len())?;
            if accounts::count(tx, tenant, &listed).await? != listed.len() {
                return Err(unknown());
            }
            mitigations::insert_items(tx, tenant, request, &listed).await?;
            (listed.len(), "list")
        }
        Selection::Filter(filter) => {
            let most = i64::try_from(MOST_SELECTED + 1).unwrap_or(i64::MAX);
            let selected = exposures::select_accounts_into(tx, tenant, &filter, request, most).await?;
            (usize::try_from(selected).unwrap_or(usize::MAX), "filter")
        }
    };
    in_bounds(accounts)?;
    let of = mitigations::integrations_of_items(tx, tenant, request).await?.into_iter().collect();
    let unreachable = mitigations::unreachable_items(tx, tenant, request).await?;
    Ok(Selected { accounts, named: Vec::new(), exposures: Vec::new(), by, of, unreachable })
}

fn integration_gone() -> ApiError {
    ApiError::Precondition {
        reason: "INTEGRATION_GONE",
        message: "the integration of the accounts was deleted: nothing can be done to them".into(),
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

async fn switched_on(
    tx: &mut Tx,
    tenant: TenantId,
    of: &BTreeSet<IntegrationId>,
    actions: &[Action],
) -> Result<(), ApiError> {
    for id in of {
        let Some(integration) = integrations::get(tx, tenant, *id).await? else {
            return Err(integration_gone());
        };
        for action in actions {
            if !integration.settings.mitigation.switch(*action).manual {
                return Err(ApiError::Precondition {
                    reason: "SWITCHED_OFF",
                    message: format!(
                        "{} by hand is switched off for integration {} (settings.mitigation.{}.manual)",
                        action.as_str(),
                        integration.name,
                        action.as_str()
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Has the executor carry a stored request out; the request is the cause of all that follows.
pub(super) async fn hand_on(
    tx: &mut Tx,
    tenant: TenantId,
    request: MitigationRequestId,
) -> Result<(), StoreError> {
    let message = MitigationRequested {
        tenant_id: tenant.to_string(),
        request_id: request.to_string(),
        exposure_id: String::new(),
        cause_id: request.to_string(),
    };
    outbox::enqueue(tx, Topic::MitigationRequested, Some(tenant), &message).await.map(drop)
}

/// A request that this transaction stored, as callers see it.
pub(super) async fn kept(
    tx: &mut Tx,
    tenant: TenantId,
    id: MitigationRequestId,
) -> Result<v1::MitigationRequest, ApiError> {
    let row = mitigations::request(tx, tenant, id).await?;
    row.map(shown).ok_or(ApiError::Internal("a request is not where it was just stored"))
}

pub(super) fn shown(row: mitigations::Request) -> v1::MitigationRequest {
    let mitigations::Request {
        request_id,
        requested_by,
        requester_name,
        actions,
        account_ids,
        exposure_ids,
        reason,
        created_at,
        undo,
        mitigation_ids,
        undo_since,
        dismiss_risk,
        bulk,
        accounts,
    } = row;
    let texts = |ids: Vec<uuid::Uuid>| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    v1::MitigationRequest {
        id: request_id.to_string(),
        requested_by,
        requester_name,
        // What was asked for before accounts were counted has those that it names.
        accounts: i64::from(accounts).max(i64::try_from(account_ids.len()).unwrap_or_default()),
        account_ids: texts(account_ids),
        exposure_ids: texts(exposure_ids),
        actions: actions.iter().map(|a| convert::action(a).into()).collect(),
        reason,
        created_at: Some(convert::timestamp(created_at)),
        undo,
        mitigation_ids: texts(mitigation_ids),
        automated_since: undo_since.map(convert::timestamp),
        dismiss_risk,
        bulk,
    }
}
