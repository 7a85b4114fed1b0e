//! What would be done, told so that it cannot be taken for what was done.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};
use shared::wire::v1::{self as api, PlanOutcome};
use time::OffsetDateTime;

use super::output;
use crate::cli::Global;

/// The most planned actions that the API returns one by one.
pub const MOST_ITEMS: u32 = 10_000;
/// The largest plan: so many actions with their sentences.
pub const MOST_BYTES: usize = 16 * 1024 * 1024;

/// People are told how many accounts there are of each kind, which takes all items.
pub fn items_to_ask_for(global: &Global, limit: u32) -> i32 {
    i32::try_from(if global.json { limit } else { MOST_ITEMS }).unwrap_or(i32::MAX)
}

const COUNTS: [output::Column; 4] =
    [("ACTION", "action"), ("OUTCOME", "outcome"), ("HOW MANY", "count"), ("BECAUSE", "because")];

const ITEMS: [output::Column; 8] = [
    ("LOGIN", "login"),
    ("ACTION", "action"),
    ("OUTCOME", "outcome"),
    ("BECAUSE", "reason"),
    ("ADMIN", "is_admin"),
    ("UNDOABLE", "undoable"),
    ("READ", "known_since"),
    ("ACCOUNT", "account_id"),
];

const SIMULATED: [output::Column; 8] = [
    ("LOGIN", "login"),
    ("ACTION", "action"),
    ("OUTCOME", "outcome"),
    ("BECAUSE", "reason"),
    ("ADMIN", "is_admin"),
    ("VERDICT", "verdict_at"),
    ("ACCOUNT", "account_id"),
    ("EXPOSURE", "exposure_id"),
];

/// A plan for people: how many accounts, how old what is known, then why, then one by one at most `limit`.
pub fn told(plan: &api::MitigationPlan, limit: u32) -> anyhow::Result<String> {
    tell(plan, limit, &ITEMS, &format!("It follows {}.{}{}", policy(plan), age(plan), foreseen(plan)))
}

/// What another policy would have done, likewise: each action with the verdict that it would have followed.
pub fn simulated(plan: &api::MitigationPlan, limit: u32) -> anyhow::Result<String> {
    let note = "Verdicts are those of that time; accounts and switches are those of today.";
    tell(plan, limit, &SIMULATED, &format!("{note}{}{}", age(plan), foreseen(plan)))
}

fn tell(
    plan: &api::MitigationPlan,
    limit: u32,
    columns: &[output::Column],
    note: &str,
) -> anyhow::Result<String> {
    let mut text = format!("{}\n{note}\n\n", headline(plan));
    let counts: Vec<Value> = plan
        .counts
        .iter()
        .map(|count| {
            json!({
                "action": count.action().as_str_name(),
                "outcome": outcome(count.outcome()),
                "count": count.count,
                "because": (!count.sentence.is_empty()).then_some(&count.sentence),
            })
        })
        .collect();
    if counts.is_empty() {
        return Ok(text);
    }
    writeln!(text, "{}\n", output::table(&COUNTS, &counts))?;
    let shown: Vec<&api::PlannedAction> = plan.items.iter().take(usize::try_from(limit)?).collect();
    let mut rows = Vec::new();
    for item in &shown {
        let mut row = output::json("PlannedAction", *item)?;
        if let Some(row) = row.as_object_mut() {
            row.insert("outcome".into(), outcome(item.outcome()).into());
            row.insert("is_admin".into(), if item.is_admin { "yes" } else { "no" }.into());
            row.insert("undoable".into(), if item.undoable { "yes" } else { "no" }.into());
        }
        rows.push(row);
    }
    writeln!(text, "{}", output::table(columns, &rows))?;
    let all: i64 = plan.counts.iter().map(|count| count.count).sum();
    let hidden = all - i64::try_from(shown.len())?;
    if hidden > 0 {
        writeln!(text, "and {hidden} more; --limit shows more of them")?;
    }
    Ok(text)
}

fn outcome(outcome: PlanOutcome) -> &'static str {
    match outcome {
        PlanOutcome::Run => "would run",
        PlanOutcome::Held => "would be held",
        PlanOutcome::Refused => "would be refused",
        PlanOutcome::Already => "is so already",
        PlanOutcome::Unspecified => "unknown to this version",
    }
}

// Each account once, by the strongest that would happen to it.
fn headline(plan: &api::MitigationPlan) -> String {
    let (of, run, held, refused, already) = if plan.truncated {
        let count = |outcome| {
            plan.counts
                .iter()
                .filter(|count| count.outcome() == outcome)
                .map(|count| count.count)
                .sum::<i64>()
        };
        let all: i64 = plan.counts.iter().map(|count| count.count).sum();
        (
            format!("{all} actions on {}", things(plan.accounts, "account")),
            count(PlanOutcome::Run),
            count(PlanOutcome::Held),
            count(PlanOutcome::Refused),
            count(PlanOutcome::Already),
        )
    } else {
        let mut strongest = BTreeMap::<&str, u8>::new();
        for item in &plan.items {
            let rank = match item.outcome() {
                PlanOutcome::Run => 4,
                PlanOutcome::Held => 3,
                PlanOutcome::Refused => 2,
                PlanOutcome::Already => 1,
                PlanOutcome::Unspecified => 0,
            };
            let of = strongest.entry(&item.account_id).or_default();
            *of = rank.max(*of);
        }
        let count =
            |rank| i64::try_from(strongest.values().filter(|r| **r == rank).count()).unwrap_or(i64::MAX);
        (things(plan.accounts, "account"), count(4), count(3), count(2), count(1))
    };
    let idle = if run == 0 && held == 0 { " There is nothing to do." } else { "" };
    format!(
        "Of {of}, {run} WOULD BE ACTED ON, {held} would be HELD for a second person, {refused} would be REFUSED, and \
         {already} ALREADY SO.{idle}"
    )
}

fn policy(plan: &api::MitigationPlan) -> String {
    match plan.policy_version {
        0 => "the default policy".to_owned(),
        version => format!("version {version} of the policy"),
    }
}

fn age(plan: &api::MitigationPlan) -> String {
    let read = plan.known_since.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok());
    read.map_or_else(String::new, |at| {
        format!(" All of these accounts were read from the directory {} or later.", output::distance(at))
    })
}

// Whom protected groups and roles protect, as far as that is known before it is read just before an action.
fn foreseen(plan: &api::MitigationPlan) -> String {
    let mut text = String::new();
    let read =
        plan.memberships_known_since.and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok());
    if let Some(at) = read {
        let ago = output::distance(at);
        text = format!(
            "\nMembers of protected groups and roles were read {ago} or later, and are read again just before."
        );
    }
    for warning in &plan.warnings {
        text = format!("{text}\nWARNING: {warning}.");
    }
    if !plan.unforeseen.is_empty() {
        text = format!("{text}\nCANNOT BE FORESEEN, and is held just before an action: who has");
        for of in &plan.unforeseen {
            text = format!("{text}\n  {of}");
        }
    }
    text
}

fn things(count: i64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(account: &str, action: api::MitigationAction, outcome: PlanOutcome) -> api::PlannedAction {
        api::PlannedAction {
            account_id: account.into(),
            login: format!("{account}@x.example"),
            action: action.into(),
            outcome: outcome.into(),
            ..Default::default()
        }
    }

    fn plan() -> api::MitigationPlan {
        let (disable, revoke) =
            (api::MitigationAction::DisableAccount, api::MitigationAction::RevokeSessions);
        let count =
            |action: api::MitigationAction, outcome: PlanOutcome, sentence: &str, count| api::PlanCount {
                action: action.into(),
                outcome: outcome.into(),
                sentence: sentence.into(),
                count,
                ..Default::default()
            };
        api::MitigationPlan {
            accounts: 4,
            policy_version: 3,
            known_since: Some(prost_types::Timestamp {
                seconds: OffsetDateTime::now_utc().unix_timestamp() - 3 * 3600 - 5,
                nanos: 0,
            }),
            counts: vec![
                count(disable, PlanOutcome::Refused, "mastered in Active Directory", 1),
                count(revoke, PlanOutcome::Held, "it is an administrator", 1),
                count(revoke, PlanOutcome::Run, "", 2),
                count(disable, PlanOutcome::Already, "", 1),
            ],
            items: vec![
                item("hybrid", disable, PlanOutcome::Refused),
                item("admin", revoke, PlanOutcome::Held),
                item("hybrid", revoke, PlanOutcome::Run),
                item("plain", revoke, PlanOutcome::Run),
                item("gone", disable, PlanOutcome::Already),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn a_plan_says_first_how_many_accounts_would_be_touched_and_how_old_it_is() {
        let text = told(&plan(), 100).unwrap();
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap(),
            "Of 4 accounts, 2 WOULD BE ACTED ON, 1 would be HELD for a second person, 0 would be REFUSED, and 1 ALREADY SO."
        );
        let age = lines.next().unwrap();
        assert!(
            age.contains("version 3 of the policy") && age.contains("from the directory 3 h ago or later"),
            "{age}"
        );
        assert!(text.contains("would be held") && text.contains("it is an administrator"), "{text}");
        assert!(!text.contains("more"), "{text}");
        let disabled = text.lines().find(|line| line.starts_with("hybrid@")).unwrap();
        assert!(disabled.contains("would be refused"), "what does not run comes first: {text}");
    }

    #[test]
    fn what_cannot_be_foreseen_is_said_only_where_it_is_true() {
        let text = told(&plan(), 100).unwrap();
        assert!(!text.contains("FORESEEN") && !text.contains("protected groups"), "{text}");
        let read_at = plan().known_since;
        let known = api::MitigationPlan { memberships_known_since: read_at, ..plan() };
        let text = told(&known, 100).unwrap();
        assert!(
            text.contains("protected groups and roles were read 3 h ago") && !text.contains("FORESEEN"),
            "{text}"
        );
        let unread = api::MitigationPlan { unforeseen: vec!["group 00g1: it is hidden".into()], ..plan() };
        let text = told(&unread, 100).unwrap();
        assert!(text.contains("CANNOT BE FORESEEN") && text.contains("group 00g1: it is hidden"), "{text}");
    }

    #[test]
    fn there_is_nothing_to_do_only_if_nothing_would_be_done_or_held() {
        let of = |outcomes: &[PlanOutcome]| {
            let disable = api::MitigationAction::DisableAccount;
            let item = |(n, outcome): (usize, &PlanOutcome)| item(&n.to_string(), disable, *outcome);
            let items = outcomes.iter().enumerate().map(item).collect();
            headline(&api::MitigationPlan { accounts: 2, items, ..Default::default() })
        };
        for outcome in [PlanOutcome::Run, PlanOutcome::Held] {
            let told = of(&[outcome, PlanOutcome::Already]);
            assert!(!told.contains("nothing to do"), "{told}");
        }
        let told = of(&[PlanOutcome::Refused, PlanOutcome::Already]);
        assert!(told.ends_with("There is nothing to do."), "{told}");
    }

    #[test]
    fn what_is_not_shown_is_counted_and_a_part_is_not_told_as_the_whole() {
        assert!(told(&plan(), 2).unwrap().contains("and 3 more"));
        let part = api::MitigationPlan { truncated: true, ..plan() };
        assert!(headline(&part).starts_with("Of 5 actions on 4 accounts, 2 WOULD"), "{}", headline(&part));
    }
}
