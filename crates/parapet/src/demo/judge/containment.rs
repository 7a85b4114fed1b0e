//! The judge on containment: what the directories show, what their logs saw, and what the audit log says, held against
//! what was planned, approved and taken back.

use std::collections::{HashMap, HashSet};

use shared::wire::v1::{self as api, PlanOutcome};
use time::OffsetDateTime;

use super::{
    super::{
        containment::{ACTIONS, Act, Acts},
        directory::{Account, Change, ENTRA_CLIENT, OKTA_CLIENT},
        report::Report,
        steps::{Run, Side, Told},
    },
    Changes, Key, key, name,
};

/// Every account found valid is contained at the directory, or something explains why not.
pub(super) fn judge(report: &mut Report, run: &Run, told: &[Told], truth: &HashMap<Key, Account>) {
    for Told { side, exposures, mitigations } in told {
        let mut by_account: HashMap<&str, Vec<&api::Mitigation>> = HashMap::new();
        for mitigation in mitigations {
            by_account.entry(&mitigation.account_id).or_default().push(mitigation);
        }
        let mut seen = HashSet::new();
        for exposure in exposures {
            let valid = name(exposure.verdict.clone().unwrap_or_default().kind()).starts_with("valid");
            if !valid || !seen.insert(exposure.account_id.as_str()) {
                continue;
            }
            let account = truth.get(&key(&side.directory.id, &exposure.object_id));
            let mitigations = by_account.get(exposure.account_id.as_str()).map_or(&[][..], Vec::as_slice);
            classify(report, run, exposure, account, mitigations);
        }
    }
    let valid_accounts: usize = report.contained + report.held + report.undone + report.reverted;
    if valid_accounts != report.valid_found {
        report.object(format!(
            "contained {} + held {} + undone {} + reverted {} is not the {} accounts found valid",
            report.contained, report.held, report.undone, report.reverted, report.valid_found
        ));
    }
}

fn classify(
    report: &mut Report,
    run: &Run,
    exposure: &api::Exposure,
    account: Option<&Account>,
    mitigations: &[&api::Mitigation],
) {
    let Some(account) = account else {
        report.object(format!("account {} is not in the directory", exposure.object_id));
        return;
    };
    let shown = ACTIONS.map(|action| (action, shows(account, action, run.began)));
    if !account.roles.is_empty() && shown.iter().any(|(_, shown)| *shown) {
        report.object(format!("account {} is an administrator and was acted on", exposure.object_id));
    }
    let missing: Vec<_> = shown.into_iter().filter(|(_, shown)| !shown).map(|(action, _)| action).collect();
    let mut whys = Vec::new();
    for action in &missing {
        let of: Vec<_> = mitigations.iter().filter(|m| m.action() == *action).collect();
        // What was held or refused first may have been done by hand later.
        let Some(why) = of.iter().filter_map(|m| Why::of(m)).min() else {
            let states: Vec<&str> = of.iter().map(|m| m.state.as_str()).collect();
            report.object(format!(
                "account {} is exposed, but the directory does not show {} and nothing explains it {states:?}",
                exposure.object_id,
                action.as_str_name(),
            ));
            return;
        };
        whys.push(why);
    }
    match whys.into_iter().min() {
        None => report.contained += 1,
        Some(Why::Undone) => report.undone += 1,
        Some(Why::Reverted) => report.reverted += 1,
        Some(Why::Held(why)) => {
            report.held += 1;
            *report.held_because.entry(why).or_default() += 1;
        }
    }
}

/// Why the directory does not show an action that was switched on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Undone,
    Reverted,
    /// By a brake, or by a protection of the account.
    Held(String),
}

impl Why {
    /// Refusals that protect: a disabled AD account would come back with the next sync, and our application is not
    /// given the role to act on administrators.
    const PROTECTIONS: [&str; 2] = ["ad_mastered", "admin_target"];

    fn of(mitigation: &api::Mitigation) -> Option<Self> {
        match mitigation.state.as_str() {
            _ if mitigation.undone_at.is_some() => Some(Self::Undone),
            "reverted" => Some(Self::Reverted),
            "held" if !mitigation.held_by.is_empty() => Some(Self::Held(mitigation.held_by.clone())),
            "refused" if Self::PROTECTIONS.contains(&mitigation.reason.as_str()) => {
                Some(Self::Held(mitigation.reason.clone()))
            }
            _ => None,
        }
    }
}

/// Whether the directory shows an action's effect since the run began.
fn shows(account: &Account, action: api::MitigationAction, began: OffsetDateTime) -> bool {
    match action {
        api::MitigationAction::DisableAccount => matches!(account.status.as_str(), "disabled" | "suspended"),
        _ => account.sessions_valid_from >= began,
    }
}

/// The action that a change at a directory is, if it is one and we did it.
fn ours(change: &Change) -> Option<api::MitigationAction> {
    match change.action.as_str() {
        _ if ![ENTRA_CLIENT, OKTA_CLIENT].contains(&change.actor.as_str()) => None,
        "disable" | "suspend" => Some(api::MitigationAction::DisableAccount),
        "revoke_sessions" => Some(api::MitigationAction::RevokeSessions),
        _ => None,
    }
}

/// What the judge looks at when it judges the plan, the approvals, the undo and the writeback.
pub(super) struct Acted<'a> {
    pub(super) run: &'a Run,
    pub(super) acts: &'a Acts,
    pub(super) told: &'a [Told],
    pub(super) truth: &'a HashMap<Key, Account>,
    pub(super) changes: &'a Changes,
    pub(super) events: &'a [(String, api::AuditEvent)],
}

impl Acted<'_> {
    pub(super) fn judge(&self, report: &mut Report) {
        for told in self.told {
            let plan = self.acts.plans.iter().find(|(side, _)| side.tenant == told.side.tenant);
            match plan {
                Some((_, plan)) => self.plan(report, told, plan),
                None => report.object(format!("{}: nothing was planned", told.side)),
            }
            self.approvals(report, &told.side);
        }
        report.own_approvals = self.acts.own_approvals.len();
        report.own_approvals_refused =
            self.acts.own_approvals.iter().filter(|heard| *heard == "SAME_PERSON").count();
        if report.own_approvals == 0 || report.own_approvals_refused < report.own_approvals {
            let heard = &self.acts.own_approvals;
            report
                .object(format!("who changed a policy wanted to approve its first run and heard {heard:?}"));
        }
        self.undone(report);
        self.written_back(report);
    }

    /// What was done at the directory is what the plan said.
    fn plan(&self, report: &mut Report, told: &Told, plan: &api::MitigationPlan) {
        let objects: HashMap<&str, &str> =
            told.exposures.iter().map(|e| (e.account_id.as_str(), e.object_id.as_str())).collect();
        let by_hand = self.acts.written_back.as_ref().map(|act| act.mitigation.account_id.as_str());
        let mut planned = HashSet::new();
        for item in &plan.items {
            let (by, action) = (item.account_id.as_str(), item.action());
            let account = key(&told.side.directory.id, objects.get(by).copied().unwrap_or_default());
            planned.insert((account.1.clone(), action));
            let count = match item.outcome() {
                PlanOutcome::Run => &mut report.planned.run,
                PlanOutcome::Held => &mut report.planned.held,
                PlanOutcome::Already => &mut report.planned.already,
                PlanOutcome::Refused | PlanOutcome::Unspecified => &mut report.planned.refused,
            };
            *count += 1;
            let changes = self.changes.get(&account).map_or(&[][..], Vec::as_slice);
            let later = by_hand == Some(by) && action == api::MitigationAction::DisableAccount;
            let called = !later && changes.iter().any(|(_, change)| ours(change) == Some(action));
            let shown = self.truth.get(&account).is_some_and(|a| shows(a, action, self.run.began));
            let about = |m: &&api::Mitigation| m.automatic && m.account_id == by && m.action() == action;
            let mitigations: Vec<_> = told.mitigations.iter().filter(about).collect();
            match became(item, called, shown, &mitigations) {
                Ok(None) => report.planned.kept += 1,
                Ok(Some(why)) => *report.planned.dropped.entry(why).or_default() += 1,
                Err(why) => {
                    report.object(format!("{} of {}: {why}", action.as_str_name(), item.login));
                }
            }
        }
        if plan.truncated || planned.is_empty() {
            report.object(format!("{}: the plan is empty or not whole", told.side));
        }
        for (account, changes) in self.of(&told.side) {
            for action in changes.iter().filter_map(|(_, change)| ours(change)) {
                if !planned.contains(&(account.1.clone(), action)) {
                    report.object(format!(
                        "{} of account {} was in no plan",
                        action.as_str_name(),
                        account.1
                    ));
                }
            }
        }
    }

    fn of(&self, side: &Side) -> impl Iterator<Item = (&Key, &Vec<(OffsetDateTime, Change)>)> {
        let directory = side.directory.id.to_lowercase();
        self.changes.iter().filter(move |(account, _)| account.0 == directory)
    }

    /// Nothing was done before a second person approved, and that was nobody who had changed the policy.
    fn approvals(&self, report: &mut Report, side: &Side) {
        if !self.acts.braked.iter().any(|(at, approval)| at.tenant == side.tenant && approval.held > 0) {
            report.object(format!("{side}: nothing stopped at a brake"));
        }
        let directory = side.directory.id.to_lowercase();
        let events: Vec<&api::AuditEvent> =
            self.events.iter().filter(|(of, _)| *of == directory).map(|(_, event)| event).collect();
        if let Some(by) = approved_their_own(&events) {
            report.object(format!("{side}: {by} changed the policy and approved its first run"));
        }
        let approved = events
            .iter()
            .filter(|e| e.r#type == "mitigation.approved")
            .filter_map(|e| e.occurred_at)
            .map(|at| (at.seconds, at.nanos))
            .min();
        let early = self
            .of(side)
            .flat_map(|(_, changes)| changes)
            .filter(|(at, change)| {
                let at = (at.unix_timestamp(), i32::try_from(at.nanosecond()).unwrap_or_default());
                ours(change).is_some() && approved.is_none_or(|approved| at < approved)
            })
            .count();
        report.before_approval += early;
        if early > 0 {
            report.object(format!("{side}: {early} actions before a second person approved"));
        }
    }

    /// The account, what the log saw of it, and its object id.
    fn account(&self, act: &Act) -> Option<(&Account, &[(OffsetDateTime, Change)])> {
        let told = self.told.iter().find(|told| told.side.tenant == act.side.tenant)?;
        let exposure = told.exposures.iter().find(|e| e.account_id == act.mitigation.account_id)?;
        let account = key(&act.side.directory.id, &exposure.object_id);
        Some((self.truth.get(&account)?, self.changes.get(&account)?))
    }

    fn undone(&self, report: &mut Report) {
        let found = self.acts.undone.as_ref().and_then(|act| self.account(act));
        match found {
            Some((account, changes)) if account.status == "active" && taken_back(changes) => {
                report.undone_account = Some(account.login.clone());
            }
            _ => report
                .object("the directory does not show that an account was disabled and undone".to_owned()),
        }
    }

    fn written_back(&self, report: &mut Report) {
        let act = self.acts.written_back.as_ref();
        match act.and_then(|act| self.account(act).map(|found| (act, found))) {
            Some((act, (account, changes)))
                if account.hybrid && account.status == "active" && synced_back(changes) =>
            {
                let alert = self.events.iter().any(|(_, event)| {
                    event.r#type == "alert.mitigation_reverted"
                        && event.object_id == act.mitigation.id
                        && event.user_object_id.eq_ignore_ascii_case(&account.id)
                });
                if alert && act.mitigation.state == "reverted" {
                    report.written_back_account = Some(account.login.clone());
                } else {
                    let state = &act.mitigation.state;
                    let heard = if alert { "an alert" } else { "no alert" };
                    report.object(format!(
                        "Active Directory wrote {} back, but that is told as {state}, with {heard}",
                        account.login
                    ));
                }
            }
            _ => report.object("no account was disabled and written back by Active Directory".to_owned()),
        }
    }
}

/// What became of a planned action: nothing but what was planned, or why it was dropped; or what is wrong.
fn became(
    item: &api::PlannedAction,
    called: bool,
    shown: bool,
    mitigations: &[&api::Mitigation],
) -> Result<Option<String>, String> {
    match (item.outcome(), called) {
        (PlanOutcome::Run, true) | (PlanOutcome::Already, false) => Ok(None),
        (PlanOutcome::Run, false) => {
            let refused = mitigations.iter().find(|m| m.state == "refused" && !m.reason.is_empty());
            match refused {
                Some(m) => Ok(Some(m.reason.clone())),
                None if shown => Ok(Some("the directory showed it already".to_owned())),
                None => Err("planned to run, and neither done nor dropped with a reason".to_owned()),
            }
        }
        (PlanOutcome::Held | PlanOutcome::Refused, false) => {
            let alike = |m: &&api::Mitigation| match item.outcome() {
                PlanOutcome::Held => m.state == "held" && m.held_by == item.reason,
                _ => m.state == "refused" && m.reason == item.reason,
            };
            match mitigations.iter().copied().find(alike) {
                Some(_) => Ok(None),
                None => Err(format!("planned to stop at {}, but it did not", item.reason)),
            }
        }
        (outcome, _) => Err(format!("planned as {}, but done", outcome.as_str_name())),
    }
}

/// Who approved the first run of their own change of the policy, if somebody did. Events are newest first.
fn approved_their_own<'a>(events: &[&'a api::AuditEvent]) -> Option<&'a str> {
    let actor = |event: &'a api::AuditEvent| event.actor.as_ref().map(|actor| actor.id.as_str());
    events.iter().enumerate().find_map(|(place, event)| {
        let first_run = event.r#type == "mitigation.approved"
            && event.details.get("held_by").is_some_and(|by| by == "first_run");
        let changed = events.iter().skip(place).find(|e| e.r#type == "mitigation_policy.updated")?;
        actor(event).filter(|by| first_run && actor(changed) == Some(by))
    })
}

/// We disabled the account, and later we enabled it again.
fn taken_back(changes: &[(OffsetDateTime, Change)]) -> bool {
    let disabled = changes.iter().position(|(_, c)| ours(c) == Some(api::MitigationAction::DisableAccount));
    disabled.is_some_and(|at| {
        changes.iter().skip(at).any(|(_, c)| {
            matches!(c.action.as_str(), "enable" | "unsuspend")
                && [ENTRA_CLIENT, OKTA_CLIENT].contains(&c.actor.as_str())
        })
    })
}

/// We disabled the account, and later the directory itself enabled it again.
fn synced_back(changes: &[(OffsetDateTime, Change)]) -> bool {
    let disabled = changes.iter().position(|(_, c)| ours(c) == Some(api::MitigationAction::DisableAccount));
    disabled.is_some_and(|at| {
        changes.iter().skip(at).any(|(_, c)| c.action == "reverted" && c.actor == "directory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_is_not_seen_is_explained_by_a_brake_or_a_protection_and_by_nothing_else() {
        let why = |state: &str, reason: &str, held_by: &str| {
            let mitigation = api::Mitigation {
                state: state.into(),
                reason: reason.into(),
                held_by: held_by.into(),
                ..Default::default()
            };
            Why::of(&mitigation)
        };
        assert_eq!(why("held", "", "privileged_account"), Some(Why::Held("privileged_account".into())));
        assert_eq!(why("refused", "ad_mastered", ""), Some(Why::Held("ad_mastered".into())));
        assert_eq!(why("reverted", "", ""), Some(Why::Reverted));
        for (state, reason) in [
            ("held", ""),
            ("refused", "refused_by_provider"),
            ("verified", ""),
            ("done", ""),
            ("planned", "retry"),
        ] {
            assert_eq!(why(state, reason, ""), None, "{state} {reason}");
        }
    }

    fn changed(steps: &[(&str, &str)]) -> Vec<(OffsetDateTime, Change)> {
        let change = |(action, actor): &(&str, &str)| {
            let change = Change { account: "a".into(), action: (*action).into(), actor: (*actor).into() };
            (OffsetDateTime::UNIX_EPOCH, change)
        };
        steps.iter().map(change).collect()
    }

    #[test]
    fn an_undo_is_ours_and_comes_after_our_disabling() {
        let ours = OKTA_CLIENT;
        assert!(taken_back(&changed(&[("revoke_sessions", ours), ("suspend", ours), ("unsuspend", ours)])));
        assert!(taken_back(&changed(&[("disable", ENTRA_CLIENT), ("enable", ENTRA_CLIENT)])));
        for steps in [
            &[("suspend", ours)][..],
            &[("unsuspend", ours), ("suspend", ours)],
            &[("suspend", ours), ("unsuspend", "control")],
            &[("suspend", "owner"), ("unsuspend", ours)],
        ] {
            assert!(!taken_back(&changed(steps)), "{steps:?}");
        }
    }

    #[test]
    fn a_writeback_is_the_directorys_and_comes_after_our_disabling() {
        let ours = ENTRA_CLIENT;
        assert!(synced_back(&changed(&[("disable", ours), ("reverted", "directory")])));
        for steps in [
            &[("disable", ours)][..],
            &[("reverted", "directory"), ("disable", ours)],
            &[("disable", ours), ("enable", ours)],
            &[("disable", "control"), ("reverted", "directory")],
        ] {
            assert!(!synced_back(&changed(steps)), "{steps:?}");
        }
    }

    #[test]
    fn a_planned_action_is_done_or_dropped_with_a_reason_and_what_stops_stops() {
        let item = |outcome: PlanOutcome, reason: &str| api::PlannedAction {
            outcome: outcome.into(),
            reason: reason.into(),
            ..Default::default()
        };
        let stood = |state: &str, reason: &str, held_by: &str| api::Mitigation {
            state: state.into(),
            reason: reason.into(),
            held_by: held_by.into(),
            ..Default::default()
        };
        let run = item(PlanOutcome::Run, "");
        let verified = stood("verified", "", "");
        assert_eq!(became(&run, true, true, &[&verified]), Ok(None));
        let changed = stood("refused", "password_changed", "");
        assert_eq!(became(&run, false, false, &[&changed]), Ok(Some("password_changed".into())));
        assert!(became(&run, false, true, &[&verified]).is_ok_and(|why| why.is_some()));
        assert!(
            became(&run, false, false, &[&verified]).is_err(),
            "said to be done, but the log saw nothing"
        );

        let held = item(PlanOutcome::Held, "privileged_account");
        assert_eq!(became(&held, false, false, &[&stood("held", "", "privileged_account")]), Ok(None));
        assert!(
            became(&held, false, false, &[&stood("held", "", "first_run")]).is_err(),
            "by something else"
        );
        assert!(became(&held, true, true, &[&stood("held", "", "privileged_account")]).is_err(), "but done");
        let refused = item(PlanOutcome::Refused, "ad_mastered");
        assert_eq!(became(&refused, false, false, &[&stood("refused", "ad_mastered", "")]), Ok(None));
        assert!(became(&refused, false, false, &[]).is_err());
        let already = item(PlanOutcome::Already, "");
        assert_eq!(became(&already, false, true, &[]), Ok(None));
        assert!(became(&already, true, true, &[&verified]).is_err());
    }

    #[test]
    fn nobody_approves_the_first_run_of_the_change_they_made_last_before_it() {
        let event = |kind: &str, by: &str, held_by: &str| api::AuditEvent {
            r#type: kind.into(),
            actor: Some(api::AuditActor { id: by.into(), ..Default::default() }),
            details: [("held_by".to_owned(), held_by.to_owned())].into(),
            ..Default::default()
        };
        let (changed, approved) = ("mitigation_policy.updated", "mitigation.approved");
        let log = |events: &[(&str, &str, &str)]| {
            let events: Vec<_> = events.iter().map(|(kind, by, held)| event(kind, by, held)).collect();
            approved_their_own(&events.iter().collect::<Vec<_>>()).map(str::to_owned)
        };
        assert_eq!(log(&[(approved, "ada", "first_run"), (changed, "ada", "")]), Some("ada".into()));
        assert_eq!(log(&[(approved, "sam", "first_run"), (changed, "ada", "")]), None);
        assert_eq!(log(&[(changed, "sam", ""), (approved, "sam", "first_run"), (changed, "ada", "")]), None);
        assert_eq!(log(&[(approved, "ada", "many_accounts"), (changed, "ada", "")]), None);
    }
}
