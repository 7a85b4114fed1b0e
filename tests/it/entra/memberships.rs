//! Groups within groups, hidden groups, and roles through groups.

use idp_simulator::model::{Kind, Link};
use serde_json::{Value, json};
use shared::provider::{GroupsAndRoles, Membership, Provider, ProviderError};

use super::{APP, PERMISSIONS, SECRET, Stage, people};

const OUTER: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000001";
const INNER: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000002";
const GONE: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000003";
const HIDDEN: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000004";
const GLOBAL_ADMINISTRATOR: &str = "62e90394-69f5-4237-9190-012177145e10";

/// Ann is in the inner group only.
async fn stage(groups: Value) -> Stage {
    let stage = Stage::with(json!({}), json!({"accounts": people(), "groups": groups})).await;
    let link = Link::new(Kind::Member, INNER, &stage.id("ann@contoso.example"));
    stage.directory.links.set(link, true, stage.idp.simulator.world.now());
    stage
}

async fn nested() -> Stage {
    stage(json!([
        {"id": OUTER, "name": "Outer", "groups": [INNER]},
        {"id": INNER, "name": "Inner", "role_assignable": true},
    ]))
    .await
}

async fn ask(
    stage: &Stage,
    login: &str,
    groups: &[&str],
    roles: &[&str],
) -> Result<Vec<Membership>, ProviderError> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let (groups, roles) = (owned(groups), owned(roles));
    stage.entra.memberships(&stage.id(login), GroupsAndRoles { groups: &groups, roles: &roles }).await
}

#[tokio::test]
async fn a_member_of_a_group_is_a_member_of_the_groups_around_it() {
    let stage = nested().await;
    let shouted = OUTER.to_uppercase();
    let found = ask(&stage, "ann@contoso.example", &[&shouted, INNER], &[]).await.unwrap();
    assert_eq!(found, [Membership::Group(shouted), Membership::Group(INNER.into())]);
    assert_eq!(ask(&stage, "mfa@contoso.example", &[OUTER, INNER], &[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_group_that_is_gone_has_no_members_and_spoils_no_answer() {
    let stage = nested().await;
    let found = ask(&stage, "ann@contoso.example", &[GONE, INNER], &[]).await.unwrap();
    assert_eq!(found, [Membership::Group(INNER.into())]);
}

#[tokio::test]
async fn a_group_is_found_among_more_than_one_question_takes() {
    let stage = nested().await;
    let gone: Vec<String> = (100..124).map(|n| format!("00000000-1f0a-4a53-9d2e-000000000{n}")).collect();
    let asked: Vec<&str> = gone.iter().map(String::as_str).chain([INNER]).collect();
    let found = ask(&stage, "ann@contoso.example", &asked, &[]).await.unwrap();
    assert_eq!(found, [Membership::Group(INNER.into())]);
}

#[tokio::test]
async fn hidden_members_are_an_error_unless_we_may_see_them() {
    let stage = stage(json!([
        {"id": HIDDEN, "name": "Hidden", "kind": "unified", "hidden": true, "groups": [INNER]},
        {"id": INNER, "name": "Inner"},
    ]))
    .await;
    for _ in 0..2 {
        let refused = ask(&stage, "ann@contoso.example", &[HIDDEN], &[]).await;
        let Err(ProviderError::Refused(missing)) = refused else { panic!("{refused:?}") };
        assert!(missing.not_granted && missing.message.contains("Member.Read.Hidden"), "{missing:?}");
    }

    let permissions: Vec<&str> = PERMISSIONS.into_iter().chain(["Member.Read.Hidden"]).collect();
    let app = json!({"client_id": APP, "secrets": [{"value": SECRET}], "permissions": permissions});
    stage.configure(&json!({ "apps": [app] }));
    let entra = super::adapter(&stage.idp, SECRET);
    let groups = [HIDDEN.to_owned()];
    let asked = GroupsAndRoles { groups: &groups, roles: &[] };
    let of = async |login: &str| entra.memberships(&stage.id(login), asked).await.unwrap();
    assert_eq!(of("ann@contoso.example").await, [Membership::Group(HIDDEN.into())]);
    assert_eq!(of("mfa@contoso.example").await, []);
}

#[tokio::test]
async fn a_role_is_found_by_its_name_and_its_template_and_through_a_group() {
    let stage = nested().await;
    let roles = ["Global Administrator", GLOBAL_ADMINISTRATOR, "Reports Reader"];
    let found = async |login: &str| ask(&stage, login, &[], &roles).await.unwrap();
    let own = [Membership::Role(roles[0].into()), Membership::Role(roles[1].into())];
    assert_eq!(found("boss@contoso.example").await, own);
    assert_eq!(found("ann@contoso.example").await, []);
    let link = Link::new(Kind::Role, INNER, "").labelled("Reports Reader");
    stage.directory.links.set(link, true, stage.idp.simulator.world.now());
    assert_eq!(found("ann@contoso.example").await, [Membership::Role("Reports Reader".into())]);
    assert_eq!(found("boss@contoso.example").await, own);
}
