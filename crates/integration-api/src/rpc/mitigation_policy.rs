//! A tenant's mitigation policy: shown with its defaults, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{
    audit::{self, Event, Outcome, names},
    db::{Db, Tx},
    id::{AccountId, TenantId},
    policy::{Approval, Brake, MitigationPolicy, Named, Protected, ValidKind},
    wire::v1,
};

use super::{convert, edit, id, is_text};
use crate::{
    auth::Caller,
    error::{ApiError, Check},
    idempotent,
    store::{
        accounts,
        policies::{self, Version},
    },
};

const PROTECTED: &str = "policy.protected.accounts";

/// The policy in force.
pub(super) async fn get(db: &Db, caller: &Caller) -> Result<v1::GetPolicyResponse, ApiError> {
    let tenant = caller.tenant()?;
    let mut tx = db.tenant(tenant).await?;
    let found = policies::newest(&mut tx, tenant).await?;
    let defaults = MitigationPolicy::default();
    let policy = found.as_ref().map_or(&defaults, |found| &found.policy.0);
    let mut answer = v1::GetPolicyResponse {
        policy: Some(policy_out(&mut tx, tenant, policy).await?),
        ..Default::default()
    };
    for (kind, name) in policies::unknown(&mut tx, tenant).await? {
        let named = match kind.as_str() {
            "group" => policy.protected.group_ids.contains(&name),
            _ => policy.protected.roles.contains(&name),
        };
        // What was named before is kept until the next sync.
        if named {
            answer
                .warnings
                .push(format!("{kind} {name}: no directory knows one of that name; it protects nobody"));
        }
    }
    tx.rollback().await?;
    if let Some(Version { version, policy: _, updater_name, created_at }) = found {
        answer.version = version;
        answer.updated_by = updater_name;
        answer.updated_at = Some(convert::timestamp(created_at));
    }
    Ok(answer)
}

/// Replaces the policy, once for each idempotency key.
pub(super) async fn update(
    db: &Db,
    caller: &Caller,
    mut request: v1::UpdatePolicyRequest,
) -> Result<v1::UpdatePolicyResponse, ApiError> {
    let tenant = caller.tenant()?;
    let key = std::mem::take(&mut request.idempotency_key);
    let fingerprint = idempotent::fingerprint(&request);
    let v1::UpdatePolicyRequest { policy, version, reason, idempotency_key: _ } = request;
    let mut check = Check::default();
    check.require(policy.is_some(), "policy", "give the whole policy");
    let policy = check.take(policy_in(policy.unwrap_or_default()))?.unwrap_or_default();
    check.require(is_text(&reason, 500), "reason", "say why, in 1 to 500 printable characters");
    check.done()?;
    let work = |mut tx: Tx| async move {
        let version = replace(&mut tx, caller, tenant, version, &policy, reason.trim()).await?;
        let policy = Some(policy_out(&mut tx, tenant, &policy).await?);
        Ok((tx, v1::UpdatePolicyResponse { policy, version }))
    };
    Ok(idempotent::once(db, tenant, "UpdatePolicy", &key, &fingerprint, work).await?.0)
}

/// Puts another policy in force, with its event; the version that is in force then.
async fn replace(
    tx: &mut Tx,
    caller: &Caller,
    tenant: TenantId,
    read: i32,
    after: &MitigationPolicy,
    reason: &str,
) -> Result<i32, ApiError> {
    let changed = || ApiError::Stale {
        reason: "POLICY_CHANGED",
        message: "somebody changed the policy since you read it; read it again",
    };
    let (version, before) = match policies::newest(tx, tenant).await? {
        Some(found) => (found.version, found.policy.0),
        None => (0, MitigationPolicy::default()),
    };
    if version != read {
        return Err(changed());
    }
    // What is protected already stays so, whatever became of it.
    let (already, named) = (&before.protected.accounts, after.protected.accounts.keys());
    let new: Vec<AccountId> = named.copied().filter(|account| !already.contains_key(account)).collect();
    if accounts::count(tx, tenant, &new).await? != new.len() {
        return Err(ApiError::NotFound("account that the policy protects"));
    }
    let differences = differences(&before, after);
    if differences.is_empty() {
        return Ok(version);
    }
    let version = version + 1;
    // INVARIANT: of two changes made from one version, one gets its number and the other is told.
    if !policies::insert(tx, tenant, version, after, reason, caller.named()).await? {
        return Err(changed());
    }
    let message = format!("the mitigation policy was changed to version {version}");
    let event =
        Event::new(Some(tenant), names::MITIGATION_POLICY_UPDATED, caller.actor(), Outcome::Success, message)
            .object("mitigation_policy", tenant)
            .detail("version", version)
            .detail("reason", reason);
    let event = differences.into_iter().fold(event, |event, (path, old, new)| {
        event.detail(format!("before.{path}"), old).detail(format!("after.{path}"), new)
    });
    audit::record(tx, &event).await?;
    Ok(version)
}

/// What differs, by path: protected accounts one by one.
fn differences(before: &MitigationPolicy, after: &MitigationPolicy) -> Vec<(String, String, String)> {
    let fields = |policy| match serde_json::to_value(policy) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let mut found = Vec::new();
    for (name, new) in &after {
        edit::differ(name, before.get(name).unwrap_or(&serde_json::Value::Null), new, &mut found);
    }
    found
}

/// A policy of the wire, checked; zero values are the defaults.
pub(super) fn policy_in(sent: v1::MitigationPolicy) -> Result<MitigationPolicy, ApiError> {
    let v1::MitigationPolicy { order, verdicts, disable_ad_mastered, protected, approval, brake } = sent;
    let mut check = Check::default();
    let default = MitigationPolicy::default();
    let order = if order.is_empty() {
        default.order
    } else {
        let order = order.into_iter().map(|a| convert::action_in("policy.order", a)).collect();
        check.take(order)?.unwrap_or(default.order)
    };
    let verdicts = if verdicts.is_empty() {
        default.verdicts
    } else {
        let verdicts = verdicts.into_iter().map(kind_in).collect();
        check.take(verdicts)?.unwrap_or(default.verdicts)
    };
    let protected = check.take(protected_in(protected.unwrap_or_default()))?.unwrap_or_default();
    let v1::ApprovalRules { more_than_accounts, first_run_unapproved, expires_after_hours } =
        approval.unwrap_or_default();
    let v1::BrakeLimits {
        accounts_per_hour,
        percent_of_accounts,
        share_from_accounts,
        administrators_per_hour,
        feed_times_usual,
        feed_from_exposures,
    } = brake.unwrap_or_default();
    let policy = MitigationPolicy {
        order,
        verdicts,
        disable_ad_mastered,
        protected,
        approval: Approval {
            more_than_accounts: number(more_than_accounts, default.approval.more_than_accounts),
            first_run: !first_run_unapproved,
            expires_after_hours: number(expires_after_hours, default.approval.expires_after_hours),
        },
        brake: Brake {
            accounts_per_hour: number(accounts_per_hour, default.brake.accounts_per_hour),
            percent_of_accounts: number(percent_of_accounts, default.brake.percent_of_accounts),
            share_from_accounts: number(share_from_accounts, default.brake.share_from_accounts),
            administrators_per_hour: number(administrators_per_hour, default.brake.administrators_per_hour),
            feed_times_usual: number(feed_times_usual, default.brake.feed_times_usual),
            feed_from_exposures: number(feed_from_exposures, default.brake.feed_from_exposures),
        },
    };
    for (field, message) in policy.faults() {
        check.require(false, format!("policy.{field}"), message);
    }
    check.done()?;
    Ok(policy)
}

// A negative number is as far out of every range as one that is too large.
fn number(sent: i32, default: u32) -> u32 {
    if sent == 0 { default } else { u32::try_from(sent).unwrap_or(u32::MAX) }
}

fn kind_in(value: i32) -> Result<ValidKind, ApiError> {
    let name = convert::verdict_name("policy.verdicts", value)?;
    ValidKind::of(name).ok_or_else(|| {
        ApiError::field("policy.verdicts", "may hold valid, valid_second_factor and valid_expired only")
    })
}

fn protected_in(sent: v1::ProtectedAccounts) -> Result<Protected, ApiError> {
    let v1::ProtectedAccounts { administrators_unprotected, accounts, group_ids, roles } = sent;
    let mut named = BTreeMap::new();
    for v1::ProtectedAccount { account_id, break_glass, note, login: _ } in accounts {
        let account: AccountId = id(PROTECTED, &account_id)?;
        let note = note.trim().to_owned();
        if named.insert(account, Named { break_glass, note }).is_some() {
            return Err(ApiError::field(PROTECTED, "name each account once"));
        }
    }
    let trimmed = |texts: Vec<String>| texts.iter().map(|t| t.trim().to_owned()).collect::<BTreeSet<_>>();
    Ok(Protected {
        administrators: !administrators_unprotected,
        accounts: named,
        group_ids: trimmed(group_ids),
        roles: trimmed(roles),
    })
}

fn whole(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn policy_out(
    tx: &mut Tx,
    tenant: TenantId,
    policy: &MitigationPolicy,
) -> Result<v1::MitigationPolicy, ApiError> {
    let MitigationPolicy { order, verdicts, disable_ad_mastered, protected, approval, brake } = policy;
    let ids: Vec<AccountId> = protected.accounts.keys().copied().collect();
    let known = accounts::by_ids(tx, tenant, &ids).await?;
    let logins: HashMap<_, _> = known.into_iter().map(|a| (a.account_id, a.login)).collect();
    let named = |(account, named): (&AccountId, &Named)| v1::ProtectedAccount {
        account_id: account.to_string(),
        break_glass: named.break_glass,
        note: named.note.clone(),
        login: logins.get(account).cloned().unwrap_or_default(),
    };
    Ok(v1::MitigationPolicy {
        order: order.iter().map(|a| convert::action(a.as_str()).into()).collect(),
        verdicts: verdicts
            .iter()
            .map(|kind| convert::verdict_kind(Some(kind.verdict().name())).into())
            .collect(),
        disable_ad_mastered: *disable_ad_mastered,
        protected: Some(v1::ProtectedAccounts {
            administrators_unprotected: !protected.administrators,
            accounts: protected.accounts.iter().map(named).collect(),
            group_ids: protected.group_ids.iter().cloned().collect(),
            roles: protected.roles.iter().cloned().collect(),
        }),
        approval: Some(v1::ApprovalRules {
            more_than_accounts: whole(approval.more_than_accounts),
            first_run_unapproved: !approval.first_run,
            expires_after_hours: whole(approval.expires_after_hours),
        }),
        brake: Some(v1::BrakeLimits {
            accounts_per_hour: whole(brake.accounts_per_hour),
            percent_of_accounts: whole(brake.percent_of_accounts),
            share_from_accounts: whole(brake.share_from_accounts),
            administrators_per_hour: whole(brake.administrators_per_hour),
            feed_times_usual: whole(brake.feed_times_usual),
            feed_from_exposures: whole(brake.feed_from_exposures),
        }),
    })
}
