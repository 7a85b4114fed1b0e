//! What another policy would have done, beside what was done.

use serde_json::json;
use shared::{
    id::{AccountId, ProviderKind},
    policy::{MitigationPolicy, Named, ValidKind},
    provider::Action,
    wire::{
        internal::SimulateRequest,
        v1::{PlanOutcome, SimulatePolicyResponse},
    },
};
use tonic::Code;

use crate::{
    containment::{HELD, Outcomes, UNDER_WAY, counted, counts, login, outcomes, wire},
    mitigation_stage::{Stage, braked, free, people, protecting, switched},
};

impl Stage {
    /// What this policy, or the one in force, would have done.
    pub async fn simulate(&self, policy: Option<&MitigationPolicy>, days: i32) -> SimulatePolicyResponse {
        let request = SimulateRequest {
            tenant_id: self.tenant.to_string(),
            policy_json: policy.map(|policy| serde_json::to_string(policy).unwrap()).unwrap_or_default(),
            days,
            max_items: 10_000,
        };
        let answer = self.client("integration-api").await.simulate(request).await;
        answer.unwrap().into_inner().simulation.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_of_the_policy_in_force_is_what_was_done() {
    let settings = switched(&[Action::RevokeSessions, Action::DisableAccount], true, false);
    let mut accounts = people(6);
    accounts[1]["roles"] = json!(["ORG_ADMIN"]);
    let mut policy = braked(|b| b.accounts_per_hour = 2);
    policy.verdicts.remove(&ValidKind::ValidExpired);
    let mut stage = Stage::new(ProviderKind::Okta, accounts, settings, policy).await;
    for (n, verdict) in
        ["valid", "valid", "valid_expired", "valid_second_factor", "valid", "valid"].into_iter().enumerate()
    {
        let before = stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await;
        stage.prove(&login(n), verdict, 1).await;
        // One after the other: verdicts at one moment race for the brake.
        let follows = if verdict == "valid_expired" { 0 } else { 2 };
        stage.until("SELECT count(*) FROM mitigation.mitigations", before + follows).await;
    }
    stage.until(UNDER_WAY, 0).await;
    let simulation = stage.simulate(None, 30).await;
    let plan = simulation.plan.unwrap();
    let stored: Outcomes = stage
        .told()
        .await
        .into_iter()
        .map(|(login, action, state, why)| {
            let outcome = if state == "verified" { "run" } else { "held" };
            ((login, wire(Action::parse(&action).unwrap())), (outcome, why.unwrap_or_default()))
        })
        .collect();
    assert_eq!(outcomes(&plan), stored);
    let expected = [
        (PlanOutcome::Held, "privileged_account", 2),
        (PlanOutcome::Held, "brake_hourly", 4),
        (PlanOutcome::Run, "", 4),
    ];
    assert_eq!(counts(&plan), counted(&expected));
    assert_eq!((simulation.verdicts, simulation.carried_out, plan.policy_version), (6, 4, 1));
    assert!(plan.items.iter().all(|item| !item.exposure_id.is_empty() && item.verdict_at.is_some()));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_shows_what_a_narrower_or_a_wider_policy_would_have_done() {
    let settings = switched(&[Action::DisableAccount], true, false);
    // In force: nothing without a person.
    let mut cautious = free();
    cautious.approval.first_run = true;
    let mut stage = Stage::new(ProviderKind::Okta, people(6), settings, cautious.clone()).await;
    for n in 0..6 {
        stage.prove(&login(n), if n == 5 { "valid_expired" } else { "valid" }, 1).await;
    }
    stage.prove(&login(0), "invalid", 1).await;
    stage.until(HELD, 6).await;
    // One every forty minutes, the last one long ago.
    stage.bus.execute(
        "UPDATE validator.exposures SET received_at = now() - interval '5 hours',
             verdict_at = now() - substr(login_at_match, 2, 3)::int * interval '40 minutes';
         UPDATE validator.exposures SET received_at = now() - interval '41 days', verdict_at = now() - interval '40 days'
             WHERE login_at_match = 'u004@acme.example'",
    ).await;
    let run = |count| (PlanOutcome::Run, "", count);
    let held = |why, count| (PlanOutcome::Held, why, count);
    let shown = async |policy: &MitigationPolicy, days| {
        let simulation = stage.simulate(Some(policy), days).await;
        assert_eq!(simulation.carried_out, 0);
        (simulation.verdicts, counts(&simulation.plan.unwrap()))
    };
    assert_eq!(shown(&free(), 30).await, (5, counted(&[run(5)])));
    assert_eq!(shown(&free(), 60).await, (6, counted(&[run(6)])));
    assert_eq!(shown(&cautious, 30).await, (5, counted(&[run(5)])), "the first run is taken to be approved");

    let one_an_hour = braked(|b| b.accounts_per_hour = 1);
    assert_eq!(shown(&one_an_hour, 30).await, (5, counted(&[run(3), held("brake_hourly", 2)])));
    let share = braked(|b| (b.percent_of_accounts, b.share_from_accounts) = (50, 1));
    assert_eq!(shown(&share, 60).await, (6, counted(&[run(4), held("brake_share", 2)])));
    let volume = braked(|b| b.feed_from_exposures = 1);
    assert_eq!(shown(&volume, 30).await, (5, counted(&[held("brake_feed_volume", 5)])));
    let mut kinds = free();
    kinds.verdicts.remove(&ValidKind::ValidExpired);
    assert_eq!(shown(&kinds, 30).await, (5, counted(&[run(4)])));
    let (named, glass) = (stage.account(&login(0)).await, stage.account(&login(1)).await);
    let guarded = protecting(|p| {
        p.accounts.insert(AccountId(named), Named::default());
        p.accounts.insert(AccountId(glass), Named { break_glass: true, ..Named::default() });
    });
    let refused = (PlanOutcome::Refused, "break_glass", 1);
    assert_eq!(shown(&guarded, 30).await, (5, counted(&[refused, held("protected_account", 1), run(3)])));

    let mut client = stage.client("integration-api").await;
    for (policy_json, days) in [("{", 30), (r#"{"verdicts": []}"#, 30), ("", 0), ("", 91)] {
        let tenant_id = stage.tenant.to_string();
        let request = SimulateRequest { tenant_id, policy_json: policy_json.into(), days, max_items: 1 };
        let refused = client.simulate(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{policy_json} {days}");
    }
    stage.stop().await;
}
