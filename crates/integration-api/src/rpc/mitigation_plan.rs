//! What a request, or another policy, would do: asked of the executor, whose planner carries requests out too.

use shared::{
    id::{AccountId, ExposureId},
    wire::{internal, v1},
};

use super::{
    exposure::filter_in,
    mitigation::Mitigations,
    mitigation_policy,
    mitigation_request::{MOST_SELECTED, actions_in, in_bounds, listed},
};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    store::{accounts, exposures},
};

/// What a request would do.
pub(super) async fn plan(
    service: &Mitigations,
    caller: &Caller,
    request: v1::PlanMitigationRequest,
) -> Result<v1::PlanMitigationResponse, ApiError> {
    let tenant = caller.tenant()?;
    let v1::PlanMitigationRequest { account_ids, exposure_ids, filter, actions, max_items } = request;
    let mut check = Check::default();
    let actions = check.take(actions_in(actions))?.unwrap_or_default();
    let max_items = check.take(most_items(max_items))?.unwrap_or_default();
    let mut meant = check.take(listed::<AccountId>("account_ids", &account_ids))?.unwrap_or_default();
    let of = check.take(listed::<ExposureId>("exposure_ids", &exposure_ids))?.unwrap_or_default();
    let filter = check.take(filter.map(|filter| filter_in(Some(filter))).transpose())?.flatten();
    check.done()?;
    let mut tx = service.db.tenant(tenant).await?;
    let theirs = exposures::accounts_of(&mut tx, tenant, &of).await?;
    if theirs.len() != of.len() {
        return Err(ApiError::NotFound("exposure in the request"));
    }
    meant.extend(theirs);
    meant.sort_unstable();
    meant.dedup();
    if accounts::count(&mut tx, tenant, &meant).await? != meant.len() {
        return Err(ApiError::NotFound("account in the request"));
    }
    if let Some(filter) = filter {
        let most = i64::try_from(MOST_SELECTED + 1).unwrap_or(i64::MAX);
        meant.extend(exposures::selected_accounts(&mut tx, tenant, &filter, most).await?);
        meant.sort_unstable();
        meant.dedup();
    }
    tx.rollback().await?;
    in_bounds(meant.len())?;
    let request = internal::PlanRequest {
        tenant_id: tenant.to_string(),
        account_ids: meant.iter().map(ToString::to_string).collect(),
        actions: actions.iter().map(|a| super::convert::action(a.as_str()).into()).collect(),
        max_items,
    };
    Ok(v1::PlanMitigationResponse { plan: service.peers.plan(request).await?.plan })
}

/// What automated mitigations would have been under another policy.
pub(super) async fn simulate(
    service: &Mitigations,
    caller: &Caller,
    request: v1::SimulatePolicyRequest,
) -> Result<v1::SimulatePolicyResponse, ApiError> {
    let tenant = caller.tenant()?;
    let v1::SimulatePolicyRequest { policy, days, max_items } = request;
    let mut check = Check::default();
    let days = if days == 0 { 30 } else { days };
    check.require((1..=90).contains(&days), "days", "must be 1 to 90");
    let max_items = check.take(most_items(max_items))?.unwrap_or_default();
    let policy = check.take(policy.map(mitigation_policy::policy_in).transpose())?.flatten();
    check.done()?;
    let policy_json = policy.map(|p| serde_json::to_string(&p)).transpose();
    let request = internal::SimulateRequest {
        tenant_id: tenant.to_string(),
        policy_json: policy_json.map_err(|_| ApiError::Internal("a policy is not JSON"))?.unwrap_or_default(),
        days,
        max_items,
    };
    let answer = service.peers.simulate(request).await?;
    Ok(answer.simulation.unwrap_or_default())
}

fn most_items(sent: i32) -> Result<i32, ApiError> {
    match sent {
        0 => Ok(100),
        1..=10_000 => Ok(sent),
        _ => Err(ApiError::field("max_items", "must be at most 10000")),
    }
}
