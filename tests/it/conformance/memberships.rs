//! Groups and roles of an account, as far as they can be seen.

use serde_json::{Value, json};
use shared::integration::SyncScope;
use shared::provider::{GroupsAndRoles, Membership, ProviderError, http::Egress};

use super::subject::{ENTRA_ID, Granted, OKTA, Stage, Subject, directory, people};

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// People and two groups.
fn groups(of: &Subject) -> Value {
    let [first, second, _] = of.groups;
    json!({"accounts": people(of), "groups": [{"id": first, "name": "Protected"}, {"id": second, "name": "Others"}]})
}

async fn ask(
    stage: &Stage,
    name: &str,
    groups: &[&str],
    roles: &[&str],
) -> Result<Vec<Membership>, ProviderError> {
    let (groups, roles) = (owned(groups), owned(roles));
    stage.provider.memberships(&stage.id(name), GroupsAndRoles { groups: &groups, roles: &roles }).await
}

pub async fn an_account_has_those_of_the_groups_and_roles_asked_for_that_are_its_own(of: &'static Subject) {
    let stage = Stage::with(of, groups(of), Granted::All).await;
    let [first, second, _] = of.groups;
    stage.join(first, "p0");
    stage.join(second, "p1");
    stage.patch("p0", &json!({"roles": [of.role]}));
    // A tenant names the groups of all its directories in one list.
    let asked = [first, second, ENTRA_ID.groups[2], OKTA.groups[2]];
    let asked: Vec<&str> = asked.into_iter().filter(|group| *group != of.groups[2]).collect();
    let roles = [of.role.to_lowercase(), "Lord High Everything Else".to_owned()];
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();

    let group = |group: &str| Membership::Group(group.to_owned());
    let role = Membership::Role(of.role.to_lowercase());
    assert_eq!(ask(&stage, "p0", &asked, &roles).await.unwrap(), [group(first), role]);
    assert_eq!(ask(&stage, "p1", &asked, &roles).await.unwrap(), [group(second)]);
    assert_eq!(ask(&stage, "p2", &asked, &roles).await.unwrap(), []);
    assert_eq!(ask(&stage, "p0", &[second], &[]).await.unwrap(), []);
    let gone = GroupsAndRoles { groups: &owned(&[first]), roles: &[] };
    let gone = stage.provider.memberships(of.nobody, gone).await;
    assert!(gone.is_err(), "nobody is no account without groups: {gone:?}");
    let named = ask(&stage, "p0", &["Protected"], &[]).await;
    assert!(
        matches!(&named, Err(ProviderError::Refused(m)) if m.reason == "group_id_invalid"),
        "a name is no id: {named:?}"
    );
}

pub async fn a_membership_that_may_not_be_read_is_an_error_that_names_what_to_grant(of: &'static Subject) {
    let stage = Stage::with(of, groups(of), Granted::ReadingOnly).await;
    let [for_groups, for_roles] = of.membership_permissions;
    for (groups, roles, permission) in
        [(&of.groups[..1], &[][..], for_groups), (&[][..], &[of.role][..], for_roles)]
    {
        let Err(ProviderError::Refused(missing)) = ask(&stage, "p0", groups, roles).await else {
            panic!("not refused: {permission}")
        };
        assert!(missing.not_granted && missing.message.contains(permission), "{missing:?}");
    }
}

pub async fn asking_for_nothing_costs_no_call(of: &'static Subject) {
    let stage = Stage::with(of, groups(of), Granted::All).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = stage.idp.egress_config();
    config.resolve.iter_mut().for_each(|fixed| fixed.address = closed);
    let unreachable = directory(of, Granted::All).1(Egress::new(&config).unwrap(), SyncScope::default());
    let id = stage.id("p0");
    assert_eq!(unreachable.memberships(&id, GroupsAndRoles::default()).await.unwrap(), []);
    let something = owned(&of.groups[..1]);
    let asked = GroupsAndRoles { groups: &something, roles: &[] };
    assert!(unreachable.memberships(&id, asked).await.is_err());
}
