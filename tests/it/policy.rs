//! The mitigation policy, bulk requests, their progress and what waits for a second person, as the public API shows them.

use shared::{
    id::{AccountId, TenantId},
    wire::{
        events::AuditRecorded,
        v1::{self, mitigation_service_client::MitigationServiceClient},
    },
};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    api::{created, reason},
    api_stage::{Api, Stage, package},
};

pub type Client = MitigationServiceClient<Api>;

fn admin(stage: &Stage) -> Client {
    MitigationServiceClient::new(stage.by("ann", &["tenant_admin"]))
}

pub fn analyst(stage: &Stage) -> Client {
    MitigationServiceClient::new(stage.by("ada", &["analyst"]))
}

/// An integration through which every action may be asked for by hand.
pub async fn integration(stage: &Stage) -> Uuid {
    let made = created(stage).await;
    stage
        .bus
        .execute(
            "UPDATE api.integrations SET settings = jsonb_set(settings, '{mitigation}',
                 '{\"revoke_sessions\": {\"manual\": true}, \"disable_account\": {\"manual\": true}}')",
        )
        .await;
    made.id.parse().unwrap()
}

/// Accounts of an integration; every third is an administrator. Each has a valid exposure, the first has two.
pub async fn people(stage: &Stage, tenant: TenantId, integration: Uuid, count: i32) -> Vec<AccountId> {
    let mut superuser = stage.bus.superuser().await;
    let accounts: Vec<AccountId> = sqlx::query_scalar(
        "INSERT INTO sync.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
             login_key, display_name, addresses, state, kind, authority, is_admin, hybrid)
         SELECT $1, gen_random_uuid(), $2, 'entra_id', 'dir', 'obj' || n, 'user' || n || '@x.example',
             'user' || n || '@x.example', '', '{}', 'active', 'member', 'cloud', n % 3 = 0, false
         FROM generate_series(1, $3) AS n RETURNING account_id",
    )
    .bind(tenant)
    .bind(integration)
    .bind(count)
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    for (n, account) in accounts.iter().chain(&accounts[..1]).enumerate() {
        sqlx::query(
            "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at, history,
                 wanted, state, verdict, verdict_at)
             VALUES ($1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', $2, gen_random_uuid(), $3,
                 'entra_id', 'dir', 'obj' || $4, 'x', '{}', 'plaintext', now(), false, true, 'decided', 'valid', now())",
        )
        .bind(tenant)
        .bind(account)
        .bind(integration)
        .bind(i32::try_from(n).unwrap())
        .execute(&mut superuser)
        .await
        .unwrap();
    }
    accounts
}

fn protecting(account: &AccountId) -> v1::MitigationPolicy {
    v1::MitigationPolicy {
        verdicts: vec![v1::VerdictKind::Valid.into()],
        protected: Some(v1::ProtectedAccounts {
            accounts: vec![v1::ProtectedAccount {
                account_id: account.to_string(),
                break_glass: true,
                note: "the safe on the second floor".into(),
                login: "ignored".into(),
            }],
            ..Default::default()
        }),
        brake: Some(v1::BrakeLimits { accounts_per_hour: 5, ..Default::default() }),
        ..Default::default()
    }
}

fn update(policy: v1::MitigationPolicy, version: i32, key: &str) -> v1::UpdatePolicyRequest {
    v1::UpdatePolicyRequest {
        policy: Some(policy),
        version,
        reason: "ticket 4711".into(),
        idempotency_key: key.into(),
    }
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_has_its_defaults_until_it_is_changed_and_the_log_tells_what_changed_and_who_did_it() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, Uuid::now_v7(), 1).await;
    let mut viewer = MitigationServiceClient::new(stage.by("vic", &["viewer"]));
    let found = viewer.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner();
    assert_eq!((found.version, found.updated_by.as_str(), found.updated_at), (0, "", None));
    let defaults = found.policy.unwrap();
    assert_eq!(defaults.order[0], i32::from(v1::MitigationAction::DisableAccount));
    assert_eq!((defaults.order.len(), defaults.verdicts.len()), (3, 3));
    let (approval, brake) = (defaults.approval.unwrap(), defaults.brake.unwrap());
    assert_eq!((approval.more_than_accounts, approval.expires_after_hours), (50, 72));
    assert_eq!((brake.accounts_per_hour, brake.percent_of_accounts, brake.feed_from_exposures), (20, 5, 100));

    let mut admin = admin(&stage);
    for _ in 0..2 {
        let made = admin.update_policy(update(protecting(&accounts[0]), 0, "k")).await.unwrap().into_inner();
        assert_eq!(made.version, 1);
    }
    let found = viewer.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner();
    assert_eq!((found.version, found.updated_by.as_str()), (1, "ann"));
    let policy = found.policy.unwrap();
    assert_eq!(policy.verdicts, [i32::from(v1::VerdictKind::Valid)]);
    assert_eq!(policy.brake.unwrap(), v1::BrakeLimits { accounts_per_hour: 5, ..brake });
    let protected = policy.protected.unwrap().accounts.remove(0);
    assert_eq!((protected.login.as_str(), protected.break_glass), ("user1@x.example", true));

    // What is read and sent back changes nothing; what is not named gets its default again.
    let read = viewer.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner().policy.unwrap();
    assert_eq!(admin.update_policy(update(read, 1, "same")).await.unwrap().into_inner().version, 1);
    let emptied = admin.update_policy(update(v1::MitigationPolicy::default(), 1, "empty")).await;
    assert_eq!(emptied.unwrap().into_inner().policy.unwrap().brake, Some(brake));

    let events = stage.audited("mitigation_policy").await;
    assert_eq!(events.len(), 2, "a repetition and a change of nothing are none");
    let AuditRecorded { r#type, actor, details, object_id, .. } = &events[0];
    assert_eq!((r#type.as_str(), object_id), ("mitigation_policy.updated", &stage.tenant.to_string()));
    assert_eq!(actor.as_ref().unwrap().id, "ann");
    let account = accounts[0];
    let protected = format!("after.protected.accounts.{account}");
    for (name, value) in [
        ("reason", "ticket 4711"),
        ("version", "1"),
        ("before.brake.accounts_per_hour", "20"),
        ("after.brake.accounts_per_hour", "5"),
        ("after.verdicts", "[\"valid\"]"),
        (&protected, "{\"break_glass\":true,\"note\":\"the safe on the second floor\"}"),
    ] {
        assert_eq!(details.get(name).map(String::as_str), Some(value), "{name} in {details:?}");
    }
    assert_eq!(details.len(), 8, "only what changed: {details:?}");
    assert_eq!(events[1].details[&format!("after.protected.accounts.{account}")], "null");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_followed_is_refused_field_by_field_and_changes_nothing() {
    let stage = Stage::new().await;
    let mut admin = admin(&stage);
    let nonsense = v1::MitigationPolicy {
        order: vec![v1::MitigationAction::DisableAccount.into(); 2],
        protected: Some(v1::ProtectedAccounts { roles: vec![String::new()], ..Default::default() }),
        approval: Some(v1::ApprovalRules { expires_after_hours: 721, ..Default::default() }),
        brake: Some(v1::BrakeLimits { percent_of_accounts: 101, feed_times_usual: -1, ..Default::default() }),
        ..Default::default()
    };
    let mut request = update(nonsense, 0, "n");
    request.reason.clear();
    let refused = admin.update_policy(request).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        [
            "policy.order",
            "policy.protected.roles",
            "policy.approval.expires_after_hours",
            "policy.brake.percent_of_accounts",
            "policy.brake.feed_times_usual",
            "reason"
        ]
    );
    let invalid = v1::MitigationPolicy {
        verdicts: vec![v1::VerdictKind::Valid.into(), v1::VerdictKind::Invalid.into()],
        ..Default::default()
    };
    let refused = admin.update_policy(update(invalid, 0, "i")).await.unwrap_err();
    assert_eq!(fields(&refused), ["policy.verdicts"], "only what proves the password right is followed");
    let mistyped = v1::ProtectedAccounts {
        group_ids: vec!["00gpilot000000000001".into(), "Break glass".into()],
        roles: vec!["SUPER_ADMIN".into(), "Globl Administrator".into()],
        ..Default::default()
    };
    let mistyped = v1::MitigationPolicy { protected: Some(mistyped), ..Default::default() };
    let refused = admin.update_policy(update(mistyped, 0, "m")).await.unwrap_err();
    assert_eq!(fields(&refused), ["policy.protected.group_ids", "policy.protected.roles"], "{refused:?}");
    let told = refused.get_error_details();
    let remedy = &told.bad_request().unwrap().field_violations[1].description;
    assert!(remedy.contains("Globl Administrator") && remedy.contains("template ids"), "{remedy}");
    let unknown = admin.update_policy(update(protecting(&AccountId::new()), 0, "u")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let by = analyst(&stage).update_policy(update(v1::MitigationPolicy::default(), 0, "a")).await;
    assert_eq!(by.unwrap_err().code(), Code::PermissionDenied, "an analyst reads it");
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.mitigation_policies").await, 0);
    assert_eq!(stage.audited("mitigation_policy").await.len(), 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_made_from_one_version_one_counts_and_the_others_are_told() {
    let stage = Stage::new().await;
    let mut changes = tokio::task::JoinSet::new();
    for n in 1..=8 {
        let mut admin = admin(&stage);
        changes.spawn(async move {
            let brake = v1::BrakeLimits { accounts_per_hour: n, ..Default::default() };
            let policy = v1::MitigationPolicy { brake: Some(brake), ..Default::default() };
            admin.update_policy(update(policy, 0, &n.to_string())).await
        });
    }
    let answers = changes.join_all().await;
    let refused: Vec<_> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    assert_eq!(refused.len(), 7);
    for status in refused {
        assert_eq!((status.code(), reason(status).as_str()), (Code::Aborted, "POLICY_CHANGED"));
    }
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.mitigation_policies").await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_has_its_own_policy_requests_and_approvals() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 2).await;
    admin(&stage).update_policy(update(protecting(&accounts[0]), 0, "k")).await.unwrap();
    let asked = analyst(&stage).bulk_mitigate(bulk(listed(&accounts), "b")).await.unwrap().into_inner();
    let request = Uuid::parse_str(&asked.request.unwrap().id).unwrap();
    hold(&stage, "many_accounts", Some(request), &accounts, 0).await;

    let other = stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
    let mut stranger = MitigationServiceClient::new(stage.by_in(other, &["tenant_admin"]));
    assert_eq!(stranger.get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner().version, 0);
    let theirs = stranger.update_policy(update(protecting(&accounts[0]), 0, "k")).await.unwrap_err();
    assert_eq!(theirs.code(), Code::NotFound, "nobody protects, or learns of, another tenant's account");
    let theirs = stranger.bulk_mitigate(bulk(listed(&accounts), "b")).await.unwrap_err();
    assert_eq!(theirs.code(), Code::NotFound);
    let progress = v1::GetMitigationProgressRequest { request_id: request.to_string() };
    assert_eq!(stranger.get_mitigation_progress(progress).await.unwrap_err().code(), Code::NotFound);
    let plan = v1::PlanMitigationRequest {
        account_ids: vec![accounts[0].to_string()],
        actions: vec![v1::MitigationAction::RevokeSessions.into()],
        ..Default::default()
    };
    assert_eq!(stranger.plan_mitigation(plan).await.unwrap_err().code(), Code::NotFound);
    let nothing = stranger.list_pending_approvals(v1::ListPendingApprovalsRequest::default()).await.unwrap();
    assert_eq!(nothing.into_inner().approvals, []);
    stage.stop().await;
}

pub fn listed(accounts: &[AccountId]) -> v1::bulk_mitigate_request::Selection {
    let account_ids = accounts.iter().map(ToString::to_string).collect();
    v1::bulk_mitigate_request::Selection::Accounts(v1::AccountSelection { account_ids })
}

pub fn by_feed(feed: &str) -> v1::bulk_mitigate_request::Selection {
    let filter = v1::ExposureFilter { feed: feed.into(), ..Default::default() };
    v1::bulk_mitigate_request::Selection::Filter(filter)
}

pub fn bulk(selection: v1::bulk_mitigate_request::Selection, key: &str) -> v1::BulkMitigateRequest {
    v1::BulkMitigateRequest {
        selection: Some(selection),
        actions: vec![
            v1::MitigationAction::RevokeSessions.into(),
            v1::MitigationAction::DisableAccount.into(),
        ],
        reason: "the leak is real".into(),
        idempotency_key: key.into(),
    }
}

/// What the executor does with a request: holds mitigations of these accounts together.
pub async fn hold(
    stage: &Stage,
    by: &str,
    request: Option<Uuid>,
    accounts: &[AccountId],
    minutes_ago: i32,
) -> Uuid {
    let approval = Uuid::now_v7();
    let mut superuser = stage.bus.superuser().await;
    sqlx::query(
        "INSERT INTO mitigation.approvals (tenant_id, approval_id, held_by, request_id, integration_id, policy_version, state,
             opened_at, joins_until, expires_at)
         SELECT tenant_id, $2, $3, $4, CASE WHEN $4 IS NULL THEN gen_random_uuid() END, 0, 'open',
                now() - make_interval(mins => $5), now(), now() + interval '72 hours'
         FROM api.tenants WHERE tenant_id = $1",
    )
    .bind(stage.tenant)
    .bind(approval)
    .bind(by)
    .bind(request)
    .bind(minutes_ago)
    .execute(&mut superuser)
    .await
    .unwrap();
    for action in ["revoke_sessions", "disable_account"] {
        sqlx::query(
            "INSERT INTO mitigation.mitigations (tenant_id, mitigation_id, request_id, account_id, integration_id, provider,
                 directory_id, object_id, login, is_admin, action, state, held_by, automatic, approval_id)
             SELECT tenant_id, gen_random_uuid(), $3, account_id, integration_id, provider, directory_id, object_id, login,
                 is_admin, $5, 'held', $6, $3 IS NULL, $4
             FROM sync.accounts WHERE tenant_id = $1 AND account_id = ANY ($2)",
        )
        .bind(stage.tenant)
        .bind(accounts)
        .bind(request)
        .bind(approval)
        .bind(action)
        .bind(by)
        .execute(&mut superuser)
        .await
        .unwrap();
    }
    approval
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_second_person_is_listed_oldest_first_with_who_asked_and_how_many_it_is_about() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 6).await;
    let mut ada = analyst(&stage);
    let asked = ada.bulk_mitigate(bulk(listed(&accounts), "b")).await.unwrap().into_inner().request.unwrap();
    let newest = hold(&stage, "many_accounts", Some(asked.id.parse().unwrap()), &accounts, 1).await;
    let braked = hold(&stage, "brake_hourly", None, &accounts[..1], 60).await;
    let over = hold(&stage, "first_run", None, &accounts[..1], 90).await;
    for statement in [
        "UPDATE mitigation.approvals SET state = 'expired', decided_at = now() WHERE approval_id = $1",
        "UPDATE mitigation.mitigations SET state = 'refused', reason = 'expired', held_by = NULL WHERE approval_id = $1",
    ] {
        sqlx::query(statement).bind(over).execute(&mut stage.bus.superuser().await).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListPendingApprovalsRequest { page_size: 1, page_token, states: vec![] };
        let page = ada.list_pending_approvals(request).await.unwrap().into_inner();
        seen.extend(page.approvals);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let ids: Vec<_> = seen.iter().map(|a| a.id.parse::<Uuid>().unwrap()).collect();
    assert_eq!(ids, [braked, newest], "what is over is not pending");
    let many = &seen[1];
    assert_eq!((many.held, many.accounts, many.administrators), (12, 6, 2));
    assert_eq!((many.requested_by.as_str(), many.request_reason.as_str()), ("ada", "the leak is real"));
    assert!(many.sentence.contains("more accounts than one person"), "{}", many.sentence);
    assert_eq!((seen[0].requested_by.as_str(), seen[0].integration_id.is_empty()), ("", false), "a rule did");
    let expired = v1::ListPendingApprovalsRequest {
        states: vec![v1::ApprovalState::Expired.into()],
        ..Default::default()
    };
    let expired = ada.list_pending_approvals(expired).await.unwrap().into_inner().approvals;
    assert_eq!((expired.len(), expired[0].held, expired[0].decided_at.is_some()), (1, 0, true));

    // Its mitigations are listed by it.
    let of = v1::ListMitigationsRequest { approval_id: braked.to_string(), ..Default::default() };
    let held = ada.list_mitigations(of).await.unwrap().into_inner().mitigations;
    assert_eq!(held.iter().map(|m| m.approval_id.as_str()).collect::<Vec<_>>(), vec![braked.to_string(); 2]);
    // Nothing is decided while the executor is away.
    let approve = v1::ApproveRequest { id: braked.to_string(), reason: "x".into(), ..Default::default() };
    let mut pat = MitigationServiceClient::new(stage.by("pat", &["viewer", "approver"]));
    assert_eq!(pat.approve(approve).await.unwrap_err().code(), Code::Unavailable);
    stage.stop().await;
}
