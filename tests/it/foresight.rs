//! A plan foresees whom a named group or role protects, and says whom it cannot foresee.

use shared::{id::ProviderKind, provider::Action, wire::v1::MitigationPlan};

use crate::{
    containment::{login, outcomes, wire},
    mitigation_stage::{GROUPS, OKTA_GROUP, Stage, people, protecting, switched},
};

const DISABLE: [Action; 1] = [Action::DisableAccount];

/// What would become of disabling an account, and why.
fn becomes(plan: &MitigationPlan, n: usize) -> (&'static str, String) {
    outcomes(plan).remove(&(login(n), wire(Action::DisableAccount))).unwrap()
}

fn held() -> (&'static str, String) {
    ("held", "protected_account".to_owned())
}

fn runs() -> (&'static str, String) {
    ("run", String::new())
}

fn logins(count: usize) -> Vec<String> {
    (0..count).map(login).collect()
}

/// The first account is in the group, the second has the role, the third neither.
async fn who_is_protected_is_held_in_the_plan(provider: ProviderKind, group: &str, joined: &str, role: &str) {
    let policy = protecting(|protected| {
        protected.administrators = false;
        protected.group_ids.insert(group.to_owned());
        protected.roles.insert(role.to_lowercase());
    });
    let mut stage = Stage::new(provider, people(3), switched(&DISABLE, false, true), policy).await;
    stage.member(&login(0), joined, true);
    stage.somebody(&login(1), &serde_json::json!({ "roles": [role] }));
    let before = stage.plan(&logins(3), &DISABLE).await;
    assert_eq!(before.unforeseen.len(), 2, "nothing was read yet: {before:?}");
    assert_eq!(before.memberships_known_since, None);

    let (stop, ended) = stage.sync_worker();
    stage.read_again(2).await;
    let plan = stage.plan(&logins(3), &DISABLE).await;
    assert_eq!([0, 1, 2].map(|n| becomes(&plan, n)), [held(), held(), runs()]);
    assert_eq!((plan.unforeseen.len(), plan.warnings.len()), (0, 0), "{plan:?}");
    assert!(plan.memberships_known_since.is_some());

    stage.member(&login(0), joined, false);
    assert_eq!(becomes(&stage.plan(&logins(3), &DISABLE).await, 0), held(), "as it was read last");
    stage.read_again(2).await;
    assert_eq!(becomes(&stage.plan(&logins(3), &DISABLE).await, 0), runs(), "it has left the group");

    assert_eq!(stage.done(), [] as [&str; 0], "nothing was done for a plan");
    let agreed = stage.agrees(&logins(3), &DISABLE).await;
    assert_eq!(agreed[&(login(1), wire(Action::DisableAccount))], held());
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_holds_who_is_in_a_nested_group_or_has_a_role_at_entra() {
    let (provider, [outer, inner, _]) = (ProviderKind::EntraId, GROUPS);
    Box::pin(who_is_protected_is_held_in_the_plan(provider, outer, inner, "Helpdesk Administrator")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_holds_who_is_in_a_group_or_has_a_role_at_okta() {
    let (provider, group) = (ProviderKind::Okta, OKTA_GROUP);
    Box::pin(who_is_protected_is_held_in_the_plan(provider, group, group, "HELP_DESK_ADMIN")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_called_unforeseen_and_what_the_directory_does_not_know_is_a_warning() {
    let [_, within, hidden] = GROUPS;
    let policy = protecting(|protected| {
        protected.group_ids.extend([within.to_owned(), hidden.to_owned()]);
        protected.roles.insert("Globl Administrator".to_owned());
    });
    let mut stage =
        Stage::new(ProviderKind::EntraId, people(2), switched(&DISABLE, false, true), policy).await;
    stage.member(&login(0), hidden, true);
    stage.member(&login(1), within, true);
    let (stop, ended) = stage.sync_worker();
    stage.read_again(3).await;
    let plan = stage.plan(&logins(2), &DISABLE).await;
    assert_eq!(becomes(&plan, 0), runs(), "nobody can tell");
    assert_eq!(becomes(&plan, 1), held(), "the others are read all the same");
    let [unforeseen] = &plan.unforeseen[..] else { panic!("{:?}", plan.unforeseen) };
    assert!(unforeseen.contains(hidden) && unforeseen.contains("Member.Read.Hidden"), "{unforeseen}");
    let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
    assert!(warning.contains("Globl Administrator"), "{warning}");

    // What fails later keeps what was read before, and says so.
    stage.idp.fault(serde_json::json!({
        "operation": "graph.groups", "effect": { "status": { "status": 503 } }, "times": 1000
    }));
    stage.read_again(3).await;
    let plan = stage.plan(&logins(2), &DISABLE).await;
    assert_eq!(becomes(&plan, 1), held());
    assert!(plan.unforeseen.iter().any(|told| told.contains(within) && told.contains("as of")), "{plan:?}");
    assert_eq!(stage.done(), [] as [&str; 0]);
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
    stage.stop().await;
}
