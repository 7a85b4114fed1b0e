//! Containment in the demo: the policy, a plan, the brake, a second person's approval, an undo, and an account that its
//! Active Directory writes back. Each is done through the public API; what came of it is for the judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use shared::wire::v1::{self as api, mitigation_service_client::MitigationServiceClient};
use tonic_types::StatusExt as _;

use super::steps::{PAGE, Run, Side};
use crate::client;

/// What is switched on for both tenants, automated and by hand.
pub const ACTIONS: [api::MitigationAction; 2] =
    [api::MitigationAction::DisableAccount, api::MitigationAction::RevokeSessions];
/// So many accounts a person may contain alone: the plan of a whole tenant is to say what would run.
const ALONE: i32 = 200;
/// How long one mitigation may take. A writeback is noticed after the re-check of [`super::directory::CHECK_AFTER_SECONDS`].
const PATIENCE: Duration = Duration::from_secs(90);

type Client = MitigationServiceClient<client::Api>;

/// What was done about containment, and what Parapet answered: the judge compares it with the directories.
#[derive(Debug, Default)]
pub struct Acts {
    /// The plan of each tenant, made before anything was let run.
    pub plans: Vec<(Side, api::MitigationPlan)>,
    /// What stopped at the brake, as approvals.
    pub braked: Vec<(Side, api::Approval)>,
    /// What each who changed the policy heard when they wanted to approve its first run: a reason, or that it was let run.
    pub own_approvals: Vec<String>,
    /// Disabled, then undone.
    pub undone: Option<Act>,
    /// Disabled by hand, then written back.
    pub written_back: Option<Act>,
}

/// One mitigation that the demo took a hand in, as it was left.
#[derive(Debug)]
pub struct Act {
    /// Where.
    pub side: Side,
    /// The mitigation.
    pub mitigation: api::Mitigation,
}

impl Run {
    async fn mitigation_client(&self, caller: &str, side: &Side) -> anyhow::Result<Client> {
        let client = MitigationServiceClient::new(self.api(caller, side).await?);
        Ok(client.max_decoding_message_size(16 * 1024 * 1024))
    }

    /// An administrator sets each tenant's policy before anything is found.
    pub async fn set_policies(&self) -> anyhow::Result<()> {
        for side in &self.sides {
            self.change_policy(side, "demo: a plan of everything", |policy| {
                policy.approval.get_or_insert_default().more_than_accounts = ALONE;
            })
            .await?;
            self.stage.say(format_args!(
                "{side}: an administrator changes the policy: one person alone may contain {ALONE} accounts, not 50"
            ));
        }
        Ok(())
    }

    async fn change_policy(
        &self,
        side: &Side,
        reason: &str,
        change: impl FnOnce(&mut api::MitigationPolicy),
    ) -> anyhow::Result<()> {
        let mut client = self.mitigation_client("admin", side).await?;
        let api::GetPolicyResponse { policy, version, .. } =
            client.get_policy(api::GetPolicyRequest {}).await?.into_inner();
        let mut policy = policy.context("there is always a policy")?;
        change(&mut policy);
        let request = api::UpdatePolicyRequest {
            policy: Some(policy),
            version,
            reason: reason.to_owned(),
            idempotency_key: format!("demo-policy-{version}-{}", side.tenant),
        };
        client.update_policy(request).await?;
        Ok(())
    }

    /// Everything from the plan to the writeback.
    pub async fn contain(&self) -> anyhow::Result<Acts> {
        let mut acts = Acts::default();
        for side in &self.sides {
            acts.plans.extend(self.plan(side).await?.map(|plan| (side.clone(), plan)));
        }
        for side in &self.sides {
            self.approve_what_is_held(side, &mut acts).await?;
        }
        self.wait_for_containment().await?;
        acts.undone = self.undo_one().await?;
        acts.written_back = self.disable_one_mastered_in_ad(&acts.plans).await?;
        self.wait_for_containment().await?;
        Ok(acts)
    }

    /// What would happen to the accounts found valid.
    async fn plan(&self, side: &Side) -> anyhow::Result<Option<api::MitigationPlan>> {
        let filter = api::ExposureFilter {
            verdicts: vec![
                api::VerdictKind::Valid.into(),
                api::VerdictKind::ValidSecondFactor.into(),
                api::VerdictKind::ValidExpired.into(),
            ],
            ..Default::default()
        };
        let request = api::PlanMitigationRequest {
            filter: Some(filter),
            actions: ACTIONS.map(i32::from).to_vec(),
            max_items: 10_000,
            ..Default::default()
        };
        let plan =
            self.mitigation_client("analyst", side).await?.plan_mitigation(request).await?.into_inner().plan;
        if let Some(plan) = &plan {
            let count = |outcome| {
                let alike = plan.counts.iter().filter(move |c| c.outcome() == outcome);
                let whys: BTreeSet<_> = alike.clone().map(|c| c.reason.as_str()).collect();
                let whys = Vec::from_iter(whys).join(", ");
                let count: i64 = alike.map(|c| c.count).sum();
                if whys.is_empty() { count.to_string() } else { format!("{count} ({whys})") }
            };
            self.stage.say(format_args!(
                "{side}: the plan for {} exposed accounts: of its actions {} would run, {} be held, {} be refused",
                plan.accounts,
                count(api::PlanOutcome::Run),
                count(api::PlanOutcome::Held),
                count(api::PlanOutcome::Refused),
            ));
        }
        Ok(plan)
    }

    /// Waits until no mitigation is on its way.
    pub async fn wait_for_containment(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_mins(3);
        let (mut quiet, mut said) = (0, Instant::now());
        while quiet < 3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut open = 0;
            for side in &self.sides {
                open += self.mitigations(side).await?.iter().filter(|m| is_under_way(m)).count();
            }
            quiet = if open == 0 { quiet + 1 } else { 0 };
            if said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                self.stage.say(format_args!("{open} mitigations under way"));
            }
            if Instant::now() > deadline {
                bail!("{open} mitigations are still under way after three minutes");
            }
        }
        Ok(())
    }

    /// Who changed the policy may not let its first run go; a second person approves, and leaves the administrators to
    /// those who know them.
    async fn approve_what_is_held(&self, side: &Side, acts: &mut Acts) -> anyhow::Result<()> {
        let mut second = self.mitigation_client("second-analyst", side).await?;
        let open = api::ListPendingApprovalsRequest { page_size: PAGE, ..Default::default() };
        for approval in second.list_pending_approvals(open).await?.into_inner().approvals {
            let request = api::ApproveRequest {
                id: approval.id.clone(),
                mitigation_ids: Vec::new(),
                reason: "demo: looked at, they are real".to_owned(),
            };
            let api::Approval { accounts, sentence, .. } = &approval;
            let things = if *accounts == 1 { "account waits" } else { "accounts wait" };
            self.stage.say(format_args!("{side}: {accounts} {things} for one approval, because {sentence}"));
            if approval.held_by == "privileged_account" {
                self.stage.say(format_args!("{side}: a second person leaves that to those who know them"));
                continue;
            }
            if approval.held_by == "first_run" {
                let mut changer = self.mitigation_client("admin", side).await?;
                let heard = match changer.approve(request.clone()).await {
                    Ok(_) => "it was let run".to_owned(),
                    Err(status) => reason(&status),
                };
                self.stage.say(format_args!(
                    "{side}: the administrator who changed the policy tries to approve it and hears {heard}"
                ));
                acts.own_approvals.push(heard);
            }
            second.approve(request).await?;
            self.stage.say(format_args!("{side}: a second person approves it; what was planned runs"));
            acts.braked.push((side.clone(), approval));
        }
        Ok(())
    }

    /// One call takes back what was done automatically to one account.
    async fn undo_one(&self) -> anyhow::Result<Option<Act>> {
        let Some(side) = self.sides.last() else { return Ok(None) };
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let mut disabled = self.mitigations(side).await?;
        disabled.retain(|m| m.action() == api::MitigationAction::DisableAccount);
        for m in &disabled {
            *times.entry(m.account_id.clone()).or_default() += 1;
        }
        let once = |m: &api::Mitigation| times.get(&m.account_id) == Some(&1);
        let Some(of) = disabled.into_iter().find(|m| m.automatic && m.state == "verified" && once(m)) else {
            return Ok(None);
        };
        let request = api::UndoRequest {
            mitigation_ids: vec![of.id.clone()],
            reason: "demo: the owner called, it was a test account".to_owned(),
            idempotency_key: format!("demo-undo-{}", of.id),
            ..Default::default()
        };
        self.mitigation_client("analyst", side).await?.undo(request).await?;
        let mitigation = self.until(side, of.id, "undone").await?;
        self.stage.say(format_args!(
            "{side}: one call takes back that {} was disabled; Parapet says {}",
            mitigation.login, mitigation.state
        ));
        Ok(Some(Act { side: side.clone(), mitigation }))
    }

    /// An account that is mastered in Active Directory is disabled by hand; the next sync of that directory enables it
    /// again, and the executor's next look at it notices.
    async fn disable_one_mastered_in_ad(
        &self,
        plans: &[(Side, api::MitigationPlan)],
    ) -> anyhow::Result<Option<Act>> {
        let Some((side, plan)) = plans.first() else { return Ok(None) };
        let refused = plan.items.iter().find(|item| item.reason == "ad_mastered" && !item.is_admin);
        let Some(api::PlannedAction { account_id, login, .. }) = refused else { return Ok(None) };
        self.change_policy(side, "demo: try what a writeback looks like", |policy| {
            policy.disable_ad_mastered = true;
        })
        .await?;
        self.stage.say(format_args!(
            "{side}: the policy now lets accounts of Active Directory be disabled; {login} is, by hand"
        ));
        let mut client = self.mitigation_client("analyst", side).await?;
        let request = api::RequestMitigationRequest {
            account_ids: vec![account_id.clone()],
            actions: vec![api::MitigationAction::DisableAccount.into()],
            reason: "demo: disabled until AD's own administrators come in".to_owned(),
            idempotency_key: format!("demo-by-hand-{account_id}"),
            ..Default::default()
        };
        let asked = client.request_mitigation(request).await?.into_inner().request.unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        let planned = loop {
            let request = api::ListMitigationsRequest { request_id: asked.id.clone(), ..Default::default() };
            let found = client.list_mitigations(request).await?.into_inner().mitigations;
            match found.into_iter().next() {
                Some(planned) => break planned,
                None if Instant::now() > deadline => bail!("the request by hand is never planned"),
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let mitigation = self.until(side, planned.id, "reverted").await?;
        self.stage.say(format_args!(
            "{side}: Active Directory enabled it again; the re-check (here after 20 s, by default after 60) says {}",
            mitigation.state
        ));
        Ok(Some(Act { side: side.clone(), mitigation }))
    }

    /// Waits for a mitigation to come into this state, and returns it as it is when it does or is given up on.
    async fn until(&self, side: &Side, id: String, state: &str) -> anyhow::Result<api::Mitigation> {
        let mut client = self.mitigation_client("analyst", side).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = api::GetMitigationRequest { id: id.clone() };
            let found = client.get_mitigation(request).await?.into_inner().mitigation.unwrap_or_default();
            if found.state == state || Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Every mitigation of a tenant, newest first.
    pub async fn mitigations(&self, side: &Side) -> anyhow::Result<Vec<api::Mitigation>> {
        let mut client = self.mitigation_client("analyst", side).await?;
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = api::ListMitigationsRequest { page_size: PAGE, page_token, ..Default::default() };
            let page = client.list_mitigations(request).await?.into_inner();
            all.extend(page.mitigations);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }
}

/// The stable word of a refusal.
fn reason(status: &tonic::Status) -> String {
    let info = status.get_error_details().error_info().map(|info| info.reason.clone());
    info.unwrap_or_else(|| status.to_string())
}

fn is_under_way(mitigation: &api::Mitigation) -> bool {
    !matches!(
        mitigation.state.as_str(),
        "done" | "verified" | "held" | "refused" | "failed" | "undone" | "reverted" | "unknown" | "dropped"
    )
}
