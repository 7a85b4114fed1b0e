//! Groups that the app's role hides, custom roles, and roles through groups.

use idp_simulator::model::{Kind, Link};
use serde_json::json;
use shared::provider::{GroupsAndRoles, Membership, Provider, ProviderError};

use super::{SCOPES, Stage, people};

const SHOWN: &str = "00gshown000000000001";
const HIDDEN: &str = "00ghidden00000000001";
const GONE: &str = "00ggone0000000000001";

async fn stage() -> Stage {
    let scopes: Vec<&str> = SCOPES.into_iter().chain(["okta.groups.read"]).collect();
    let custom = json!({"custom_roles": [{"id": "cr0keeper00000000001", "label": "Key Keeper"}]});
    let groups = json!([{"id": SHOWN, "name": "Shown"}, {"id": HIDDEN, "name": "Hidden"}]);
    let app = json!({"scopes": scopes, "covers_groups": [SHOWN]});
    let stage = Stage::with(custom, app, json!({"accounts": people(), "groups": groups})).await;
    for group in [SHOWN, HIDDEN] {
        let link = Link::new(Kind::Member, group, &stage.id("ann@acme.example"));
        stage.directory.links.set(link, true, stage.idp.simulator.world.now());
    }
    stage
}

async fn ask(
    stage: &Stage,
    login: &str,
    groups: &[&str],
    roles: &[&str],
) -> Result<Vec<Membership>, ProviderError> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let (groups, roles) = (owned(groups), owned(roles));
    stage.okta.memberships(&stage.id(login), GroupsAndRoles { groups: &groups, roles: &roles }).await
}

#[tokio::test]
async fn a_group_that_the_org_does_not_show_is_an_error_hidden_or_gone() {
    let stage = stage().await;
    assert_eq!(
        ask(&stage, "ann@acme.example", &[SHOWN], &[]).await.unwrap(),
        [Membership::Group(SHOWN.into())]
    );
    assert_eq!(ask(&stage, "mfa@acme.example", &[SHOWN], &[]).await.unwrap(), []);
    for unseen in [HIDDEN, GONE] {
        for login in ["ann@acme.example", "mfa@acme.example"] {
            let refused = ask(&stage, login, &[SHOWN, unseen], &[]).await;
            let Err(ProviderError::Refused(missing)) = refused else { panic!("{refused:?}") };
            assert!(missing.reason == "group_missing" && missing.message.contains(unseen), "{missing:?}");
        }
    }
}

#[tokio::test]
async fn a_role_is_found_by_its_type_or_label_and_through_a_group() {
    let stage = stage().await;
    stage.patch("mfa@acme.example", json!({"roles": ["Key Keeper"]}));
    let roles = ["org_admin", "key keeper", "cr0keeper00000000001", "SUPER_ADMIN"];
    let found = async |login: &str| ask(&stage, login, &[], &roles).await.unwrap();
    let role = |at: usize| Membership::Role(roles[at].into());
    assert_eq!(found("boss@acme.example").await, [role(0)]);
    assert_eq!(found("mfa@acme.example").await, [role(1), role(2)]);
    assert_eq!(found("ann@acme.example").await, []);
    let link = Link::new(Kind::Role, HIDDEN, "").labelled("SUPER_ADMIN");
    stage.directory.links.set(link, true, stage.idp.simulator.world.now());
    assert_eq!(found("ann@acme.example").await, [role(3)]);
}
