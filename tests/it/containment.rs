//! What integration-api asks the executor: what a request would do, and what a person decided.

use std::collections::BTreeMap;

use mitigation_executor::rpc::Rpc;
use serde_json::{Value, json};
use shared::{
    db::Db,
    id::{AccountId, ApprovalId, ProviderKind, TenantId},
    policy::{MitigationPolicy, Named},
    provider::Action,
    wire::{
        internal::{
            DecideRequest, PlanRequest, SimulateRequest, containment_service_server::ContainmentService as _,
        },
        v1::{MitigationPlan, PlanOutcome, PlannedAction},
    },
};
use sqlx::Row as _;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::mitigation_stage::{Stage, braked, free, people, switched};

const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
pub const HELD: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'held'";
pub const UNDER_WAY: &str =
    "SELECT count(*) FROM mitigation.mitigations WHERE state IN ('planned', 'acting', 'unknown', 'done')";
const LAST: &str = "(SELECT request_id FROM api.mitigation_requests ORDER BY created_at DESC LIMIT 1)";

/// What becomes of each action on each account: by sign-in name and action, the outcome and why.
pub type Outcomes = BTreeMap<(String, i32), (&'static str, String)>;

pub fn login(n: usize) -> String {
    format!("u{n:03}@acme.example")
}

pub fn wire(action: Action) -> i32 {
    match action {
        Action::RevokeSessions => 1,
        Action::DisableAccount => 2,
        Action::MarkCompromised => 3,
    }
}

pub fn outcomes(plan: &MitigationPlan) -> Outcomes {
    let item = |item: &PlannedAction| {
        let outcome = match item.outcome() {
            PlanOutcome::Run => "run",
            PlanOutcome::Held => "held",
            PlanOutcome::Refused => "refused",
            PlanOutcome::Already => "already",
            PlanOutcome::Unspecified => panic!("{item:?}"),
        };
        ((item.login.clone(), item.action), (outcome, item.reason.clone()))
    };
    plan.items.iter().map(item).collect()
}

/// How many stand alike, by outcome and why.
pub fn counts(plan: &MitigationPlan) -> BTreeMap<(i32, String), i64> {
    let mut counts = BTreeMap::new();
    for count in &plan.counts {
        *counts.entry((count.outcome, count.reason.clone())).or_default() += count.count;
    }
    counts
}

pub fn counted(counts: &[(PlanOutcome, &str, i64)]) -> BTreeMap<(i32, String), i64> {
    counts.iter().map(|(outcome, why, count)| (((*outcome).into(), (*why).to_owned()), *count)).collect()
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

impl Stage {
    pub async fn plan(&self, logins: &[String], actions: &[Action]) -> MitigationPlan {
        let mut account_ids = Vec::new();
        for login in logins {
            account_ids.push(self.account(login).await.to_string());
        }
        let request = PlanRequest {
            tenant_id: self.tenant.to_string(),
            account_ids,
            actions: actions.iter().copied().map(wire).collect(),
            max_items: 10_000,
        };
        self.client("integration-api").await.plan(request).await.unwrap().into_inner().plan.unwrap()
    }

    /// What became of the request that was asked for last.
    async fn became(&self) -> Outcomes {
        let query = format!(
            "SELECT login, action, state, coalesce(held_by, reason, '') AS why,
                    EXISTS (SELECT FROM mitigation.ledger l WHERE l.mitigation_id = m.mitigation_id) AS called
             FROM mitigation.mitigations m WHERE request_id = {LAST}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut self.bus.superuser().await).await;
        let outcome = |row: sqlx::postgres::PgRow| {
            let outcome = match (row.get("state"), row.get("called")) {
                ("verified", true) => "run",
                ("verified", false) => "already",
                ("held", false) => "held",
                ("refused", false) => "refused",
                other => panic!("{other:?}"),
            };
            let action = wire(Action::parse(row.get("action")).unwrap());
            ((row.get("login"), action), (outcome, row.get("why")))
        };
        rows.unwrap().into_iter().map(outcome).collect()
    }

    /// The directory was read again: accounts as it shows them now.
    async fn read_as(&self, login: &str, state: &str) {
        let rows = sqlx::query("UPDATE sync.accounts SET state = $2 WHERE login = $1")
            .bind(login)
            .bind(state)
            .execute(&mut self.bus.superuser().await)
            .await
            .unwrap();
        assert_eq!(rows.rows_affected(), 1);
    }

    /// Has a request planned, asks for the same, and compares what becomes of it.
    pub async fn agrees(&self, logins: &[String], actions: &[Action]) -> Outcomes {
        let planned = self.plan(logins, actions).await;
        assert!(!planned.truncated);
        assert_eq!(planned.accounts, i64::try_from(logins.len()).unwrap());
        let before = self.bus.count("SELECT count(*) FROM mitigation.mitigations").await;
        let logins: Vec<&str> = logins.iter().map(String::as_str).collect();
        self.ask("ann", &logins, actions, 1).await;
        let all = before + i64::try_from(logins.len() * actions.len()).unwrap();
        self.until("SELECT count(*) FROM mitigation.mitigations", all).await;
        self.until(UNDER_WAY, 0).await;
        let planned = outcomes(&planned);
        assert_eq!(planned, self.became().await);
        planned
    }
}

/// One account of every state, and one of every kind that is protected.
fn everybody(provider: ProviderKind) -> Vec<(&'static str, Value)> {
    let mut all = vec![("active", json!({})), ("active", json!({})), ("active", json!({}))];
    all.extend(match provider {
        ProviderKind::Okta => vec![
            ("disabled", json!({ "status": "suspended" })),
            ("pending", json!({ "status": "staged" })),
            ("password_expired", json!({ "password_expired": true })),
            ("deprovisioned", json!({ "status": "deprovisioned" })),
            ("active", json!({ "roles": ["ORG_ADMIN"] })),
        ],
        ProviderKind::EntraId => vec![
            ("disabled", json!({ "status": "disabled" })),
            ("active", json!({ "hybrid": true })),
            ("active", json!({ "roles": ["User Administrator"] })),
        ],
    });
    for (n, (_, account)) in all.iter_mut().enumerate() {
        account["login"] = json!(login(n));
        account["password"] = json!("right horse battery");
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_says_is_what_becomes_of_the_request() {
    for (provider, actions) in [
        (ProviderKind::Okta, &[Action::RevokeSessions, Action::DisableAccount][..]),
        (ProviderKind::EntraId, &Action::ALL[..]),
    ] {
        let (states, accounts): (Vec<_>, Vec<_>) = everybody(provider).into_iter().unzip();
        let logins: Vec<String> = (0..states.len()).map(login).collect();
        let mut stage = Stage::new(provider, accounts, switched(actions, false, true), free()).await;
        for (login, state) in logins.iter().zip(&states) {
            stage.read_as(login, state).await;
        }
        let (named, glass) = (stage.account(&login(0)).await, stage.account(&login(1)).await);
        let guarding = |policy: MitigationPolicy| {
            let mut policy = policy;
            policy.protected.accounts.insert(AccountId(named), Named::default());
            policy
                .protected
                .accounts
                .insert(AccountId(glass), Named { break_glass: true, ..Named::default() });
            policy
        };
        let mut seen: Vec<(&str, String)> = Vec::new();
        let refusals = [
            ("UPDATE api.tenants SET mitigation = false", "UPDATE api.tenants SET mitigation = true"),
            (
                "UPDATE api.integrations SET status = 'disabled'",
                "UPDATE api.integrations SET status = 'active'",
            ),
            (
                "UPDATE api.integrations SET settings = settings #- '{mitigation,disable_account}'",
                "UPDATE api.integrations SET settings = jsonb_set(settings, '{mitigation,disable_account}',
                     '{\"automated\": false, \"manual\": true}')",
            ),
        ];
        // What acts comes last: it changes what the accounts are.
        for (set, back) in refusals {
            stage.bus.execute(set).await;
            let wanted = if set.contains("settings") { &[Action::DisableAccount][..] } else { actions };
            seen.extend(stage.agrees(&logins, wanted).await.into_values());
            stage.bus.execute(back).await;
        }
        let mut few = guarding(free());
        few.approval.more_than_accounts = 1;
        stage.follow(&few).await;
        seen.extend(stage.agrees(&logins[..3], actions).await.into_values());
        stage.follow(&guarding(free())).await;
        stage
            .bus
            .execute("UPDATE sync.accounts SET removed_at = now() WHERE login = 'u002@acme.example'")
            .await;
        seen.extend(stage.agrees(&logins, actions).await.into_values());

        seen.sort();
        seen.dedup();
        let mut whys = vec![
            ("already", ""),
            ("held", "break_glass"),
            ("held", "many_accounts"),
            ("held", "privileged_account"),
            ("held", "protected_account"),
            ("refused", "account_gone"),
            ("refused", "integration_disabled"),
            ("refused", "not_entitled"),
            ("refused", "switched_off"),
            ("run", ""),
        ];
        whys.push(match provider {
            ProviderKind::Okta => ("refused", "wrong_state"),
            ProviderKind::EntraId => ("refused", "ad_mastered"),
        });
        whys.sort_unstable();
        let seen: Vec<(&str, &str)> = seen.iter().map(|(outcome, why)| (*outcome, why.as_str())).collect();
        assert_eq!(seen, whys, "{provider}");
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_counts_everything_and_lists_what_would_not_run_first() {
    let mut accounts = people(4);
    accounts[3]["roles"] = json!(["ORG_ADMIN"]);
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, accounts, settings, free()).await;
    stage.read_as(&login(0), "disabled").await;
    stage
        .bus
        .execute(
            "UPDATE sync.accounts SET changed_at = '2026-01-05 10:00Z' WHERE login = 'u001@acme.example'",
        )
        .await;
    let logins: Vec<String> = (0..4).map(login).collect();
    let plan = stage.plan(&logins, &[Action::DisableAccount, Action::RevokeSessions]).await;
    let expected = [
        (PlanOutcome::Refused, "switched_off", 4),
        (PlanOutcome::Held, "privileged_account", 1),
        (PlanOutcome::Run, "", 2),
        (PlanOutcome::Already, "", 1),
    ];
    assert_eq!(counts(&plan), counted(&expected));
    let order: Vec<_> = plan.items.iter().map(PlannedAction::outcome).collect();
    let as_expected =
        expected.iter().flat_map(|(outcome, _, count)| vec![*outcome; usize::try_from(*count).unwrap()]);
    assert_eq!(order, as_expected.collect::<Vec<_>>());
    assert!(plan.items.iter().all(|item| item.undoable == (item.action == wire(Action::DisableAccount))));
    assert_eq!(plan.policy_version, 1);
    let known = plan.items.iter().find(|item| item.login == login(1)).unwrap().known_since.unwrap();
    assert_eq!(
        (known.seconds, plan.known_since.unwrap()),
        (1_767_607_200, known),
        "the one read longest ago"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_and_simulating_change_nothing() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage =
        Stage::new(ProviderKind::Okta, people(4), settings, braked(|b| b.accounts_per_hour = 1)).await;
    stage.prove(&login(0), "valid", 1).await;
    stage.until(VERIFIED, 1).await;
    stage.prove(&login(1), "valid", 1).await;
    stage.until(HELD, 1).await;
    stage.until("SELECT count(*) FROM mitigation.outbox", 0).await;
    let done = stage.done();
    // Of everything the executor may write; its own work goes on.
    let rows = "SELECT (SELECT count(*) FROM mitigation.mitigations) + (SELECT sum(revision) FROM mitigation.mitigations)
         + (SELECT count(*) FROM mitigation.approvals) + (SELECT count(*) FROM mitigation.approvals_ending)
         + (SELECT count(*) FROM mitigation.ledger) + (SELECT count(*) FROM mitigation.armed)
         + (SELECT count(*) FROM mitigation.inbox) + (SELECT count(*) FROM mitigation.work)
         + (SELECT count(*) FROM mitigation.outbox)";
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE checks = 2", 1).await;
    let before = stage.bus.count(rows).await;
    let logins: Vec<String> = (0..4).map(login).collect();
    stage.plan(&logins, &Action::ALL).await;
    stage.simulate(Some(&free()), 30).await;
    assert_eq!(stage.bus.count(rows).await, before);
    assert_eq!(stage.done(), done);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_integration_api_may_call() {
    let mut stage = Stage::new(ProviderKind::Okta, people(1), json!({}), free()).await;
    stage.plan(&[login(0)], &[Action::DisableAccount]).await;
    let mut stranger = stage.client("audit-writer").await;
    let refused = [
        stranger.plan(PlanRequest::default()).await.unwrap_err(),
        stranger.simulate(SimulateRequest::default()).await.unwrap_err(),
        stranger.decide(DecideRequest::default()).await.unwrap_err(),
    ];
    assert!(refused.iter().all(|status| status.code() == Code::PermissionDenied), "{refused:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_accounts_and_approvals_are_unknown() {
    let mut accounts = people(1);
    accounts[0]["roles"] = json!(["ORG_ADMIN"]);
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, accounts, settings, free()).await;
    stage.ask("ann", &[&login(0)], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 1).await;
    let account = stage.account(&login(0)).await.to_string();
    let mut client = stage.client("integration-api").await;
    let foreign = PlanRequest {
        tenant_id: TenantId::new().to_string(),
        account_ids: vec![account.clone(), AccountId::new().to_string()],
        actions: vec![wire(Action::DisableAccount)],
        max_items: 100,
    };
    let plan = client.plan(foreign.clone()).await.unwrap().into_inner().plan.unwrap();
    assert_eq!((plan.accounts, plan.items), (0, vec![]));
    let own = PlanRequest { tenant_id: stage.tenant.to_string(), ..foreign };
    let plan = client.plan(own).await.unwrap().into_inner().plan.unwrap();
    assert_eq!((plan.accounts, plan.items.len()), (1, 1), "an account that is nobody's is left out too");

    let (approval, _) = stage.open().await[0].clone();
    let decide = DecideRequest {
        tenant_id: TenantId::new().to_string(),
        approval_id: approval.to_string(),
        approve: true,
        actor_id: "bob".into(),
        reason: "looked at it".into(),
        ..DecideRequest::default()
    };
    assert_eq!(client.decide(decide).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(stage.bus.count(HELD).await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_passed_on_and_refused_with_its_reason() {
    let mut accounts = people(2);
    for account in &mut accounts {
        account["roles"] = json!(["ORG_ADMIN"]);
    }
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, accounts, settings, free()).await;
    stage.ask("ann", &[&login(0), &login(1)], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 2).await;
    let (approval, _) = stage.open().await[0].clone();
    let mut client = stage.client("integration-api").await;
    let only =
        stage.ids("SELECT mitigation_id FROM mitigation.mitigations WHERE login = 'u001@acme.example'").await;
    let decide = |who: &str, approve, approval: ApprovalId, only: &[Uuid]| DecideRequest {
        tenant_id: stage.tenant.to_string(),
        approval_id: approval.to_string(),
        approve,
        mitigation_ids: only.iter().map(ToString::to_string).collect(),
        actor_id: who.into(),
        actor_name: who.into(),
        reason: "looked at it".into(),
    };
    let own = client.decide(decide("ann", true, approval, &[])).await.unwrap_err();
    assert_eq!((own.code(), reason(&own).as_str()), (Code::PermissionDenied, "SAME_PERSON"));
    let unknown = client.decide(decide("bob", true, ApprovalId::new(), &[])).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let unexplained = DecideRequest { reason: String::new(), ..decide("bob", true, approval, &[]) };
    assert_eq!(client.decide(unexplained).await.unwrap_err().code(), Code::InvalidArgument);
    for _ in 0..2 {
        client.decide(decide("bob", true, approval, &only)).await.unwrap();
    }
    let late = client.decide(decide("eve", false, approval, &[])).await.unwrap_err();
    assert_eq!((late.code(), reason(&late).as_str()), (Code::FailedPrecondition, "APPROVED"));
    stage.until(VERIFIED, 1).await;
    assert_eq!(stage.done(), ["suspend"], "only what was let run");

    stage.ask("ann", &[&login(0)], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 1).await;
    let (approval, _) = stage.open().await[0].clone();
    client.decide(decide("ann", false, approval, &[])).await.unwrap();
    let rejected = client.decide(decide("bob", true, approval, &[])).await.unwrap_err();
    assert_eq!((rejected.code(), reason(&rejected).as_str()), (Code::FailedPrecondition, "REJECTED"));
    stage.ask("ann", &[&login(0)], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 1).await;
    let (approval, _) = stage.open().await[0].clone();
    stage.bus.execute("UPDATE mitigation.approvals SET expires_at = now() WHERE state = 'open'").await;
    let expired = client.decide(decide("bob", true, approval, &[])).await.unwrap_err();
    assert_eq!((expired.code(), reason(&expired).as_str()), (Code::FailedPrecondition, "EXPIRED"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_many_accounts_asks_the_database_no_more_often_than_one_of_few() {
    const COUNT: usize = 60;
    let settings = switched(&Action::ALL, false, true);
    let stage = Stage::prepare(ProviderKind::Okta, people(COUNT), settings, free()).await;
    let database = stage.bus.common.database.database.clone();
    let logged = format!("ALTER ROLE parapet_mitigation IN DATABASE {database} SET log_statement = 'all'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(logged)).execute(&mut stage.bus.superuser().await).await.unwrap();
    let log = e2e::servers().await.role_password_file.with_file_name("postgres").join("postgres.log");
    let asked = || {
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        let ours = format!("parapet_mitigation@{database} LOG:  ");
        text.lines().filter(|line| line.contains(&ours)).count()
    };
    let rpc = Rpc { db: Db::connect(&stage.bus.common_as("parapet_mitigation").database).await.unwrap() };
    let mut times = Vec::new();
    // The first one opens a connection.
    for count in [1, 1, COUNT] {
        let mut account_ids = Vec::new();
        for n in 0..count {
            account_ids.push(stage.account(&login(n)).await.to_string());
        }
        let request = PlanRequest {
            tenant_id: stage.tenant.to_string(),
            account_ids,
            actions: Action::ALL.map(wire).into(),
            max_items: 10_000,
        };
        let before = asked();
        let plan = rpc.plan(Request::new(request)).await.unwrap().into_inner().plan.unwrap();
        assert_eq!(plan.items.len(), count * 3);
        times.push(asked() - before);
    }
    assert!(times[1] > 0, "{times:?}");
    assert_eq!(times[1], times[2], "{times:?}");
}
