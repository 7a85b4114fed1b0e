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

pub async fn everybody_who_has_a_group_or_role_is_listed_and_too_many_are_an_error(of: &'static Subject) {
    let stage = Stage::with(of, groups(of), Granted::All).await;
    let [first, _, third] = of.groups;
    for name in ["p0", "p1", "off"] {
        stage.join(first, name);
    }
    stage.patch("p2", &json!({"roles": [of.role]}));
    let (asked, roles) = (owned(&[first]), owned(&[&of.role.to_lowercase(), "Lord High Everything Else"]));
    let ids =
        |names: &[&str]| names.iter().map(|name| stage.id(name)).collect::<std::collections::BTreeSet<_>>();
    let all = GroupsAndRoles { groups: &asked, roles: &roles };
    let read = stage.provider.members(all, 1000).await;
    let told: Vec<_> = read.into_iter().map(|(of, members)| (of, members.unwrap())).collect();
    let role = |role: &String| Membership::Role(role.clone());
    assert_eq!(told[0].0, Membership::Group(first.to_owned()));
    assert_eq!((&told[0].1.object_ids, told[0].1.known), (&ids(&["p0", "p1", "off"]), true));
    assert_eq!((&told[1].0, &told[1].1.object_ids), (&role(&roles[0]), &ids(&["p2"])));
    assert_eq!((&told[2].0, told[2].1.known), (&role(&roles[1]), false), "nobody has a role that is none");
    assert!(told[2].1.object_ids.is_empty());
    let few = stage.provider.members(GroupsAndRoles { groups: &asked, roles: &[] }, 2).await;
    assert!(
        matches!(&few[..], [(_, Err(ProviderError::Refused(m)))] if m.reason == "too_many_members"),
        "{few:?}"
    );
    // A group that is not there: Okta cannot tell it from one that it does not show.
    let gone = stage.provider.members(GroupsAndRoles { groups: &owned(&[third]), roles: &[] }, 2).await;
    assert!(!gone[0].1.as_ref().is_ok_and(|members| members.known), "{gone:?}");
}

pub async fn members_that_may_not_be_read_are_an_error_each(of: &'static Subject) {
    let stage = Stage::with(of, groups(of), Granted::ReadingOnly).await;
    let (asked, roles) = (owned(&of.groups[..1]), owned(&[of.role]));
    let read = stage.provider.members(GroupsAndRoles { groups: &asked, roles: &roles }, 1000).await;
    for ((_, members), permission) in read.iter().zip(of.membership_permissions) {
        let Err(ProviderError::Refused(missing)) = members else { panic!("not refused: {permission}") };
        assert!(missing.message.contains(permission), "{missing:?}");
    }
    assert_eq!(read.len(), 2);
}
