//! `parapet removal`: what a directory no longer shows, when it is too much to be believed without a person.

use shared::wire::v1::{self as api, removal_service_client::RemovalServiceClient};

use super::{ROWS, integration_id_or_any, output, pages, words::RemovalState};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// Removals of accounts that a brake holds: shown, applied, dropped
#[derive(Debug, clap::Subcommand)]
pub enum Removal {
    /// List the plans, newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
        /// Of this integration (name or id)
        #[arg(long)]
        integration: Option<String>,
        /// In these states
        #[arg(long, value_enum, value_delimiter = ',')]
        state: Vec<RemovalState>,
    },
    /// Show one with its accounts
    Show {
        /// Id
        id: String,
        /// At most so many of its accounts
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Remove the accounts of a held plan that no sync has seen since
    Apply {
        /// Id
        id: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// End a held plan without removing anything; the next full sync looks again
    Drop {
        /// Id
        id: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
}

const PLANS: [output::Column; 8] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("BECAUSE", "reason"),
    ("MISSING", "accounts_missing"),
    ("OF", "accounts_known"),
    ("ADMINS", "administrators"),
    ("CAME BACK", "accounts_came_back"),
    ("WHEN", "created_at"),
];

const ACCOUNTS: [output::Column; 8] = [
    ("LOGIN", "login"),
    ("ADMIN", "administrator"),
    ("MISSING SINCE", "missing_since"),
    ("CAME BACK", "came_back_at"),
    ("REMOVED", "removed_at"),
    ("IDENTIFIERS", "identifiers"),
    ("EXPOSURES", "exposures"),
    ("OBJECT", "object_id"),
];

impl Removal {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = RemovalServiceClient::new(api.clone());
        match self {
            Self::List { limit, integration, state } => {
                let integration_id = integration_id_or_any(&api, integration.as_deref()).await?;
                let states: Vec<i32> = state.into_iter().map(RemovalState::wire).collect();
                let rows = pages(limit, async |page_size, page_token| {
                    let request = api::ListRemovalPlansRequest {
                        page_size,
                        page_token,
                        integration_id: integration_id.clone(),
                        states: states.clone(),
                    };
                    let page = client.list_removal_plans(request).await?.into_inner();
                    Ok((output::rows("RemovalPlan", &page.plans)?, page.next_page_token))
                })
                .await?;
                output::list(global, &PLANS, &rows, "no removals were held")
            }
            Self::Show { id, limit } => {
                let mut plan = api::RemovalPlan::default();
                // The plan itself is wanted even when none of its accounts is.
                let accounts = pages(limit.max(1), async |page_size, page_token| {
                    let request = api::GetRemovalPlanRequest { id: id.clone(), page_size, page_token };
                    let page = client.get_removal_plan(request).await?.into_inner();
                    plan = page.plan.unwrap_or_default();
                    Ok((output::rows("RemovalPlanAccount", &page.accounts)?, page.next_page_token))
                })
                .await?;
                let shown = output::json("RemovalPlan", &plan)?;
                if global.json {
                    return output::show(global, &serde_json::json!({"plan": shown, "accounts": accounts}));
                }
                output::show(global, &shown)?;
                println!();
                output::list(global, &ACCOUNTS, &accounts, "its accounts are not kept")?;
                if let Some(next) = next_step(&plan) {
                    eprintln!("\nnext: {next}");
                }
                Ok(())
            }
            Self::Apply { id, reason } => {
                let request = api::ApplyRemovalPlanRequest { id, reason };
                let plan = client.apply_removal_plan(request).await?.into_inner().plan.unwrap_or_default();
                output::show(global, &output::json("RemovalPlan", &plan)?)
            }
            Self::Drop { id, reason } => {
                let request = api::DropRemovalPlanRequest { id, reason };
                let plan = client.drop_removal_plan(request).await?.into_inner().plan.unwrap_or_default();
                output::show(global, &output::json("RemovalPlan", &plan)?)
            }
        }
    }
}

// What a person can do about a plan: an empty answer is never a deletion.
fn next_step(plan: &api::RemovalPlan) -> Option<String> {
    let id = &plan.id;
    match (plan.state(), plan.reason()) {
        (api::RemovalPlanState::Held, api::RemovalPlanReason::Shrunk) => Some(format!(
            "parapet removal apply {id} --reason WHY, or parapet removal drop {id} --reason WHY"
        )),
        (api::RemovalPlanState::Held, _) => Some(format!(
            "find out why the directory shows no accounts; then parapet removal drop {id} --reason WHY"
        )),
        _ => None,
    }
}

/// After a run that ended without removing what it did not find: names the command that shows what is held.
pub(super) async fn hint(global: &Global, api: &Api, phase: api::SyncPhase, integration_id: &str) {
    if global.json || !matches!(phase, api::SyncPhase::Held | api::SyncPhase::Failed) {
        return;
    }
    let request = api::ListRemovalPlansRequest {
        page_size: 1,
        integration_id: integration_id.to_owned(),
        states: vec![api::RemovalPlanState::Held.into()],
        ..Default::default()
    };
    // Without an answer there is nothing to hint at; the command itself has done its work.
    let held = RemovalServiceClient::new(api.clone()).list_removal_plans(request).await;
    if let Some(plan) = held.ok().and_then(|page| page.into_inner().plans.into_iter().next()) {
        eprintln!("\nnext: parapet removal show {}", plan.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_apply_what_an_empty_answer_holds() {
        let plan = |state: api::RemovalPlanState, reason: api::RemovalPlanReason| api::RemovalPlan {
            id: "p".into(),
            state: state.into(),
            reason: reason.into(),
            ..Default::default()
        };
        let held = api::RemovalPlanState::Held;
        assert!(next_step(&plan(held, api::RemovalPlanReason::Shrunk)).unwrap().contains("removal apply p"));
        assert!(!next_step(&plan(held, api::RemovalPlanReason::Empty)).unwrap().contains("apply"));
        let applied = api::RemovalPlanState::Applied;
        assert_eq!(next_step(&plan(applied, api::RemovalPlanReason::Shrunk)), None);
    }
}
