//! What waits for a second person, what is protected, and what is dropped before it is done.

use mitigation_executor::approvals::Refused;
use serde_json::json;
use shared::{
    id::{AccountId, MitigationId, ProviderKind},
    policy::{Named, ValidKind},
    provider::Action,
};

use crate::mitigation_stage::{Stage, braked, free, people, protecting, switched};

const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
const HELD: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'held'";
const REFUSED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'refused'";
const ALL: &str = "SELECT count(*) FROM mitigation.mitigations";
const ALERTS: &str = "SELECT count(*) FROM mitigation.outbox WHERE topic = 'audit.recorded' AND body LIKE '%alert.mitigation_held%'";
const LOGINS: [&str; 4] =
    ["u000@acme.example", "u001@acme.example", "u002@acme.example", "u003@acme.example"];

/// Four accounts that are disabled when a leak of theirs is proven, or an analyst asks.
async fn stage(policy: shared::policy::MitigationPolicy) -> Stage {
    Stage::new(ProviderKind::Okta, people(4), switched(&[Action::DisableAccount], true, true), policy).await
}

impl Stage {
    async fn why(&self, login: &str) -> Option<String> {
        self.told().await.into_iter().find(|(of, ..)| of == login).and_then(|(.., why)| why)
    }

    async fn held_ids(&self) -> Vec<MitigationId> {
        let query = "SELECT mitigation_id FROM mitigation.mitigations WHERE state = 'held' ORDER BY login";
        self.ids(query).await.into_iter().map(MitigationId).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_brake_stops_waits_together_and_an_approver_trims_it() {
    let mut stage = stage(braked(|b| b.accounts_per_hour = 1)).await;
    for login in LOGINS {
        stage.prove(login, "valid", 1).await;
    }
    stage.until(HELD, 3).await;
    stage.until(VERIFIED, 1).await;
    let open = stage.open().await;
    assert_eq!(open.len(), 1, "one brake, one plan: {open:?}");
    let (approval, held_by) = &open[0];
    assert_eq!(held_by, "brake_hourly");
    let held = stage.held_ids().await;
    let foreign = stage.decide("bob", *approval, true, &[held[0], MitigationId::new()]).await;
    assert!(matches!(foreign, Err(Refused::NotFound)), "{foreign:?}");
    assert_eq!(stage.bus.count(HELD).await, 3, "a decision that does not count changes nothing");
    stage.decide("bob", *approval, true, &held[..1]).await.unwrap();
    stage.until(VERIFIED, 2).await;
    let trimmed =
        "SELECT count(*) FROM mitigation.mitigations WHERE state = 'refused' AND reason = 'trimmed'";
    assert_eq!(stage.bus.count(trimmed).await, 2);
    assert_eq!(stage.done(), ["suspend", "suspend"]);
    stage.decide("bob", *approval, true, &[]).await.unwrap();
    let late = stage.decide("eve", *approval, true, &[]).await;
    assert!(matches!(late, Err(Refused::Approved)), "{late:?}");
    assert_eq!(stage.bus.count(HELD).await, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_waits_for_somebody_who_did_not_ask_for_it() {
    let mut policy = free();
    policy.approval.more_than_accounts = 2;
    let mut stage = stage(policy).await;
    stage.ask("ann", &LOGINS[..2], &[Action::DisableAccount], 1).await;
    stage.until(VERIFIED, 2).await;
    stage.ask("ann", &LOGINS, &[Action::DisableAccount], 1).await;
    stage.until(HELD, 4).await;
    let alerts = stage.audited("alert.mitigation_held").await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let alert = &alerts[0];
    assert!(alert.message.ends_with(": 4 accounts") && alert.details["accounts"] == "4", "{alert:?}");
    assert!(alert.user_name.is_empty() && !alert.details.contains_key("account_id"), "{alert:?}");
    assert_eq!(alert.object_kind, "approval", "nobody's account stands for all");
    assert!(matches!(stage.approve("ann").await[..], [Err(Refused::SamePerson)]));
    assert_eq!(stage.bus.count(HELD).await, 4);
    assert!(matches!(stage.approve("bob").await[..], [Ok(())]));
    stage.until(VERIFIED, 6).await;
    assert_eq!(stage.done().len(), 4, "two were disabled before");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_or_not_decided_in_time_is_dropped_for_good() {
    let mut policy = free();
    policy.approval.more_than_accounts = 1;
    let mut stage = stage(policy).await;
    stage.ask("ann", &LOGINS[..2], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 2).await;
    let first = stage.open().await[0].0;
    stage.decide("ann", first, false, &[]).await.unwrap();
    stage.until(REFUSED, 2).await;
    assert_eq!(stage.why(LOGINS[0]).await.as_deref(), Some("rejected"));
    stage.decide("ann", first, false, &[]).await.unwrap();
    assert!(matches!(stage.decide("bob", first, true, &[]).await, Err(Refused::Rejected)));

    stage.ask("ann", &LOGINS[2..], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 2).await;
    let second = stage.open().await[0].0;
    stage
        .bus
        .execute("UPDATE mitigation.approvals SET expires_at = clock_timestamp() WHERE state = 'open'")
        .await;
    assert!(
        matches!(stage.decide("bob", second, true, &[]).await, Err(Refused::Expired)),
        "even before anybody looked"
    );
    stage.bus.execute("UPDATE mitigation.approvals_ending SET expires_at = clock_timestamp()").await;
    stage.until(REFUSED, 4).await;
    assert_eq!(stage.why(LOGINS[3]).await.as_deref(), Some("approval_expired"));
    assert!(matches!(stage.decide("bob", second, true, &[]).await, Err(Refused::Expired)));
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.approvals_ending").await, 0);
    assert_eq!(stage.done(), [""; 0], "nothing of it reached the directory");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_account_is_never_acted_on_automatically() {
    let mut stage = stage(free()).await;
    let named = AccountId(stage.account(LOGINS[0]).await);
    let glass = AccountId(stage.account(LOGINS[1]).await);
    let protect = |of: AccountId, break_glass| (of, Named { break_glass, note: "because".into() });
    let accounts = [protect(named, false), protect(glass, true)];
    stage.follow(&protecting(|p| p.accounts = accounts.clone().into())).await;
    for login in &LOGINS[..3] {
        stage.prove(login, "valid", 1).await;
    }
    stage.until(VERIFIED, 1).await;
    stage.until(HELD, 1).await;
    stage.until(REFUSED, 1).await;
    assert_eq!(stage.why(LOGINS[0]).await.as_deref(), Some("protected_account"));
    assert_eq!(stage.why(LOGINS[1]).await.as_deref(), Some("break_glass"));
    assert_eq!(stage.done().len(), 1, "the third one's, which nothing protects");
    // By hand: neither without a second person.
    stage.ask("ann", &LOGINS[..2], &[Action::DisableAccount], 1).await;
    stage.until(HELD, 3).await;
    stage.approve("bob").await;
    stage.until(VERIFIED, 4).await;
    assert_eq!(stage.done().len(), 3);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_protected_after_it_was_planned_is_held_all_the_same() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::prepare(ProviderKind::Okta, people(1), settings, free()).await;
    let account = AccountId(stage.account(LOGINS[0]).await);
    stage.idp.fault(json!({ "operation": "okta.users.get", "times": 1, "effect": { "throttle": { "hint": { "rate_limit_reset": 2 } } } }));
    stage.start();
    stage.prove(LOGINS[0], "valid", 1).await;
    stage
        .until(
            "SELECT count(*) FROM mitigation.mitigations WHERE state = 'planned' AND reason = 'throttled'",
            1,
        )
        .await;
    stage.follow(&protecting(|p| p.accounts = [(account, Named::default())].into())).await;
    stage.until(HELD, 1).await;
    assert_eq!(stage.done(), [""; 0]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_can_be_left_unprotected_and_have_a_brake_of_their_own() {
    let boss = |n| json!({ "login": format!("u{n:03}@acme.example"), "password": "right horse battery", "roles": ["ORG_ADMIN"] });
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut policy = braked(|b| b.administrators_per_hour = 1);
    policy.protected.administrators = false;
    let mut stage = Stage::new(ProviderKind::Okta, vec![boss(0), boss(1)], settings, policy).await;
    stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(VERIFIED, 1).await;
    stage.prove(LOGINS[1], "valid", 1).await;
    stage.until(HELD, 1).await;
    assert_eq!(stage.why(LOGINS[1]).await.as_deref(), Some("brake_administrators"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_approves_an_administrator_s_lets_nothing_else_run() {
    let boss = json!({ "login": LOGINS[0], "password": "right horse battery", "roles": ["ORG_ADMIN"] });
    let user = json!({ "login": LOGINS[1], "password": "right horse battery" });
    let mut policy = free();
    policy.approval.first_run = true;
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, vec![boss, user], settings, policy).await;
    stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(HELD, 1).await;
    assert_eq!(stage.why(LOGINS[0]).await.as_deref(), Some("privileged_account"));
    let alert = stage.audited("alert.mitigation_held").await.remove(0);
    assert_eq!((alert.user_name.as_str(), alert.details["accounts"].as_str()), (LOGINS[0], "1"));
    // Even the person who changed the policy may: it is not the first run.
    assert!(matches!(stage.approve("pat").await[..], [Ok(())]));
    stage.until(VERIFIED, 1).await;
    stage.prove(LOGINS[1], "valid", 1).await;
    stage.until(HELD, 1).await;
    assert_eq!(stage.why(LOGINS[1]).await.as_deref(), Some("first_run"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_switched_mitigation_on_or_last_changed_the_integration_does_not_let_its_first_run_go() {
    let mut policy = free();
    policy.approval.first_run = true;
    let mut stage = stage(policy).await;
    // Ada switches an action on, and Eve renames the integration: that does not make Ada's switch another's.
    stage
        .bus
        .execute(
            "UPDATE api.integrations SET version = version + 1, updated_by = 'ada',
                 settings = jsonb_set(settings, '{mitigation,revoke_sessions}', '{\"automated\": true}');
             UPDATE api.integrations SET version = version + 1, updated_by = 'eve', name = 'Renamed'",
        )
        .await;
    stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(HELD, 2).await;
    for who in ["ada", "eve", "pat"] {
        let decided = stage.approve(who).await;
        assert!(matches!(decided[..], [Err(Refused::SamePerson)]), "{who}: {decided:?}");
    }
    assert_eq!(stage.bus.count(HELD).await, 2);
    assert!(matches!(stage.approve("bob").await[..], [Ok(())]));
    stage.until(VERIFIED, 2).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_brings_far_more_than_usual_stops_everything_it_leads_to() {
    let mut stage = stage(braked(|b| b.feed_from_exposures = 2)).await;
    for login in &LOGINS[..2] {
        stage.prove(login, "valid", 1).await;
    }
    stage.until(VERIFIED, 2).await;
    stage.prove(LOGINS[2], "valid", 1).await;
    stage.until(HELD, 1).await;
    assert_eq!(stage.why(LOGINS[2]).await.as_deref(), Some("brake_feed_volume"));
    // What it brought in the two weeks before makes it usual.
    stage.bus.execute("UPDATE validator.exposures SET received_at = received_at - interval '2 days'").await;
    stage.prove(LOGINS[3], "valid", 1).await;
    stage.until(VERIFIED, 3).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_begun_in_the_order_that_the_policy_names() {
    for (order, expected) in [
        (
            [Action::MarkCompromised, Action::RevokeSessions, Action::DisableAccount],
            ["confirm_compromised", "revoke_sessions", "disable"],
        ),
        (
            [Action::DisableAccount, Action::MarkCompromised, Action::RevokeSessions],
            ["disable", "confirm_compromised", "revoke_sessions"],
        ),
    ] {
        let mut policy = free();
        policy.order = order.to_vec();
        let settings = switched(&Action::ALL, true, true);
        let mut stage = Stage::new(ProviderKind::EntraId, people(1), settings, policy).await;
        stage.prove(LOGINS[0], "valid", 1).await;
        stage.until(VERIFIED, 3).await;
        assert_eq!(stage.done(), expected);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_longer_matches_when_it_is_approved_is_dropped_with_its_reason() {
    let mut stage = stage(braked(|b| b.accounts_per_hour = 1)).await;
    stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(VERIFIED, 1).await;
    for (login, verdict) in LOGINS[1..].iter().zip(["valid", "valid", "valid_second_factor"]) {
        stage.prove(login, verdict, 1).await;
    }
    stage.until(HELD, 3).await;
    // One verdict falls, one password is changed, and one kind of verdict is followed no more.
    stage
        .bus
        .execute(
            "UPDATE validator.exposures SET verdict = 'stale' WHERE login_at_match = 'u001@acme.example'",
        )
        .await;
    stage.bus.execute("UPDATE validator.exposures SET verdict_at = verdict_at - interval '1 hour'").await;
    let id = stage.directory.accounts.by_login(LOGINS[2]).unwrap().id;
    let now = stage.idp.simulator.world.now();
    stage
        .directory
        .accounts
        .patch(&id, &json!({ "password": "another horse battery" }), now)
        .unwrap()
        .unwrap();
    let mut policy = free();
    policy.verdicts = [ValidKind::Valid].into();
    stage.follow(&policy).await;
    stage.approve("bob").await;
    stage.until(REFUSED, 3).await;
    let mut whys = Vec::new();
    for login in &LOGINS[1..] {
        whys.push(stage.why(login).await.unwrap());
    }
    assert_eq!(whys, ["verdict_changed", "password_changed", "verdict_changed"]);
    assert_eq!(stage.done().len(), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_of_verdict_that_the_policy_does_not_name_leads_to_nothing() {
    let mut policy = free();
    policy.verdicts = [ValidKind::Valid].into();
    let mut stage = stage(policy).await;
    stage.prove(LOGINS[0], "valid_second_factor", 1).await;
    stage.prove(LOGINS[1], "valid", 1).await;
    stage.until(VERIFIED, 1).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 2).await;
    assert_eq!(stage.bus.count(ALL).await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exposure_leads_to_an_action_once_for_each_password() {
    let mut stage = stage(free()).await;
    let exposure = stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(VERIFIED, 1).await;
    stage.proven(exposure).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 2).await;
    assert_eq!(stage.bus.count(ALL).await, 1);
    // The owner sets a new password, and it leaks as well: the exposure is reopened and proven once more.
    stage
        .bus
        .execute("UPDATE sync.accounts SET password_changed_at = clock_timestamp() - interval '1 hour'")
        .await;
    stage.proven(exposure).await;
    stage.until(ALL, 2).await;
    stage.until(VERIFIED, 2).await;
    // Proven before the password was changed: the leaked one works no more.
    stage
        .bus
        .execute("UPDATE sync.accounts SET password_changed_at = clock_timestamp() + interval '1 hour'")
        .await;
    stage.proven(exposure).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 4).await;
    assert_eq!(stage.bus.count(ALL).await, 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_active_directory_is_disabled_only_if_the_policy_says_so() {
    let hybrid = |n| json!({ "login": format!("u{n:03}@acme.example"), "password": "right horse battery", "hybrid": true });
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::EntraId, vec![hybrid(0), hybrid(1)], settings, free()).await;
    stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(REFUSED, 1).await;
    assert_eq!(stage.why(LOGINS[0]).await.as_deref(), Some("ad_mastered"));
    let mut policy = free();
    policy.disable_ad_mastered = true;
    stage.follow(&policy).await;
    stage.prove(LOGINS[1], "valid", 1).await;
    stage
        .until("SELECT count(*) FROM mitigation.mitigations WHERE attempt = 1 AND state IN ('done', 'verified') AND details ? 'warning'", 1)
        .await;
    assert_eq!(stage.done(), ["disable"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_alarm_about_a_third_of_the_tenant_is_stopped_and_undone_with_one_request() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage =
        Stage::new(ProviderKind::Okta, people(30), settings, braked(|b| b.accounts_per_hour = 3)).await;
    for n in 0..10 {
        stage.prove(&format!("u{n:03}@acme.example"), "valid", 1).await;
    }
    stage.until(HELD, 7).await;
    stage.until(VERIFIED, 3).await;
    assert_eq!(stage.open().await.len(), 1);
    assert_eq!(stage.done().len(), 3, "the brake stopped the rest");
    let held = stage.open().await[0].0;
    stage.decide("bob", held, false, &[]).await.unwrap();
    let since = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
    stage.undo("bob", &[], Some(since), false).await;
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE state = 'undone'", 3).await;
    let (accounts, _) = stage.directory.accounts.page(0, usize::MAX, |_| true);
    assert!(accounts.iter().all(|a| format!("{:?}", a.status) == "Active"), "everybody can work again");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_brake_the_false_alarm_reaches_everybody() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(30), settings, free()).await;
    for n in 0..10 {
        stage.prove(&format!("u{n:03}@acme.example"), "valid", 1).await;
    }
    stage.until(VERIFIED, 10).await;
    assert_eq!(stage.bus.count(ALERTS).await, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disable_that_arrives_after_a_re_enable_does_not_undo_it() {
    let mut stage = stage(free()).await;
    stage.prove(LOGINS[0], "valid", 1).await;
    stage.until(VERIFIED, 1).await;
    let since = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
    stage.undo("bob", &[], Some(since), false).await;
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE state = 'undone'", 1).await;
    // Its work is scheduled once more, and the message of its verdict comes again.
    stage.due_again("SELECT mitigation_id FROM mitigation.mitigations WHERE state = 'undone'").await;
    stage.until("SELECT count(*) FROM mitigation.work", 0).await;
    assert_eq!(stage.done(), ["suspend", "unsuspend"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_about_very_many_is_planned_piece_by_piece_and_only_once() {
    let settings = switched(&[Action::RevokeSessions], false, true);
    let mut policy = free();
    policy.approval.more_than_accounts = 100;
    let mut stage = Stage::new(ProviderKind::Okta, people(1200), settings, policy).await;
    stage.ask_bulk("ann", &[Action::RevokeSessions], 3).await;
    stage.until(HELD, 1200).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 3).await;
    assert_eq!(stage.bus.count(ALL).await, 1200);
    assert_eq!(stage.open().await.len(), 1, "one request, one approval");
    let approval = stage.open().await[0].0;
    stage.decide("bob", approval, false, &[]).await.unwrap();
    assert_eq!(stage.bus.count(REFUSED).await, 1200);
    stage.stop().await;
}
