//! Writing members and owners of groups, the trap beside it, and reading what changed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, HYBRID, PERMISSIONS, ROOT, Stage, TENANT, spec, stage_with};

const OUTER: &str = "99999999-0000-4000-8000-000000000001";
const INNER: &str = "99999999-0000-4000-8000-000000000002";
const GUEST: &str = "aaaaaaaa-0000-4000-8000-000000000009";
const NOBODY: &str = "bbbbbbbb-0000-4000-8000-000000000000";
const EXISTS: &str =
    "One or more added object references already exist for the following modified properties: 'members'.";

/// The tenant with an application that may write what is named, and groups of every kind.
fn writers(permissions: &[&str]) -> Value {
    let mut spec = spec();
    let all: Vec<&str> = PERMISSIONS.iter().chain(permissions).copied().collect();
    spec["provider"]["entra_id"]["apps"][0]["permissions"] = json!(all);
    spec["accounts"].as_array_mut().unwrap().push(json!({"id": GUEST, "login": "guest@contoso.example",
        "guest": true}));
    let kinds = [
        ("dynamic", json!(true)),
        ("synced", json!(true)),
        ("kind", json!("mail")),
        ("role_assignable", json!(true)),
        ("refuses_guests", json!(true)),
    ];
    for (name, value) in kinds {
        let group = json!({"id": format!("group-{name}"), "name": name, name: value});
        spec["groups"].as_array_mut().unwrap().push(group);
    }
    spec
}

fn reference(id: &str) -> Value {
    json!({"@odata.id": format!("https://graph.microsoft.com/v1.0/directoryObjects/{id}")})
}

async fn add(stage: &Stage, group: &str, id: &str) -> (u16, Value) {
    stage.graph(Method::POST, &format!("/groups/{group}/members/$ref"), Some(reference(id))).await
}

async fn remove(stage: &Stage, group: &str, id: &str) -> (u16, Value) {
    stage.graph(Method::DELETE, &format!("/groups/{group}/members/{id}/$ref"), None).await
}

async fn ids(stage: &Stage, path: &str) -> Vec<String> {
    let (_, page) = stage.get(path).await;
    let objects = page["value"].as_array().unwrap();
    objects.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_member_joins_and_leaves_and_the_log_tells_both() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    let members = format!("/groups/{INNER}/members");
    assert_eq!(add(&stage, INNER, ROOT).await, (204, Value::Null));
    assert_eq!(ids(&stage, &members).await, [ANN, ROOT]);
    let (status, body) = add(&stage, INNER, ROOT).await;
    assert_eq!((status, &body["error"]["message"]), (400, &json!(EXISTS)));
    assert_eq!(remove(&stage, INNER, ANN).await.0, 204);
    assert_eq!(ids(&stage, &members).await, [ROOT]);
    let log = stage.log("change").await;
    let told: Vec<_> = log.iter().map(|entry| (&entry["action"], &entry["account"])).collect();
    assert_eq!(told, [(&json!("joined"), &json!(ROOT)), (&json!("left"), &json!(ANN))]);
    let links = stage.control(Method::GET, &format!("/directories/{TENANT}/links"), &Value::Null).await;
    assert_eq!(links["links"][0]["present"], false);
    assert_eq!(links["links"][1]["to"], ROOT);
}

#[tokio::test]
async fn who_is_not_a_member_is_missing_or_a_bad_request() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    let (status, body) = remove(&stage, INNER, ROOT).await;
    assert_eq!((status, body["error"]["code"].as_str()), (404, Some("Request_ResourceNotFound")));
    stage.configure(json!({"not_a_member": "bad_request"})).await;
    let (status, body) = remove(&stage, INNER, ROOT).await;
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("references do not exist"));
}

#[tokio::test]
async fn a_missing_object_is_named_by_its_id() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    for (group, id, missing) in [(INNER, NOBODY, NOBODY), (NOBODY, ANN, NOBODY)] {
        let (status, body) = add(&stage, group, id).await;
        assert_eq!(status, 404);
        assert!(body["error"]["message"].as_str().unwrap().contains(missing));
    }
}

#[tokio::test]
async fn twenty_members_are_bound_at_once_all_or_none() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    let bind = async |ids: &[&str]| {
        let bound: Vec<Value> = ids.iter().map(|id| reference(id)["@odata.id"].clone()).collect();
        let body = json!({"members@odata.bind": bound});
        stage.graph(Method::PATCH, &format!("/groups/{INNER}"), Some(body)).await.0
    };
    assert_eq!(bind(&[ROOT, ANN]).await, 400, "Ann is in it already");
    assert_eq!(bind(&[ROOT, NOBODY]).await, 404);
    assert_eq!(ids(&stage, &format!("/groups/{INNER}/members")).await, [ANN], "none of them joined");
    assert_eq!(bind(&[ROOT; 21]).await, 400);
    assert_eq!(bind(&[ROOT, HYBRID]).await, 204);
    assert_eq!(ids(&stage, &format!("/groups/{INNER}/members")).await, [ANN, ROOT, HYBRID]);
}

#[tokio::test]
async fn without_ref_the_member_itself_is_deleted_when_the_application_may() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    let trap = format!("/groups/{INNER}/members/{ANN}");
    assert_eq!(stage.graph(Method::DELETE, &trap, None).await.0, 403);
    assert_eq!(stage.account(ANN).await["status"], "active");

    let stage = stage_with(writers(&["User.ReadWrite.All", "User.DeleteRestore.All"])).await;
    assert_eq!(stage.graph(Method::DELETE, &trap, None).await.0, 204);
    assert_eq!(stage.account(ANN).await["status"], "deleted");
    assert_eq!(stage.get(&format!("/users/{ANN}")).await.0, 404);
    let deleted = "/directory/deletedItems/microsoft.graph.user";
    assert_eq!(ids(&stage, deleted).await, [ANN]);
    let (status, restored) =
        stage.graph(Method::POST, &format!("/directory/deletedItems/{ANN}/restore"), None).await;
    assert_eq!((status, restored["id"].as_str()), (200, Some(ANN)));
    assert_eq!(stage.account(ANN).await["status"], "active");
    assert!(ids(&stage, deleted).await.is_empty());
}

#[tokio::test]
async fn a_deleted_user_cannot_be_restored_after_thirty_days() {
    let stage = stage_with(writers(&["User.ReadWrite.All", "User.DeleteRestore.All"])).await;
    let (_, latest) = stage.get("/users/delta?$deltatoken=latest").await;
    assert_eq!(stage.graph(Method::DELETE, &format!("/users/{ANN}"), None).await.0, 204);
    assert_eq!(stage.graph(Method::DELETE, &format!("/users/{ROOT}"), None).await.0, 403, "an administrator");
    let link = latest["@odata.deltaLink"].as_str().unwrap();
    let removed = async || -> Value {
        let got = stage.http.get(link).bearer_auth(stage.token().await).send().await.unwrap();
        got.json::<Value>().await.unwrap()["value"][0]["@removed"]["reason"].clone()
    };
    assert_eq!(removed().await, "changed");
    stage.control(Method::POST, "/clock", &json!({"advance_s": 31 * 86_400})).await;
    let restore = format!("/directory/deletedItems/{ANN}/restore");
    assert_eq!(stage.graph(Method::POST, &restore, None).await.0, 404);
}

#[tokio::test]
async fn groups_that_nobody_writes_refuse_in_their_own_words() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    for (group, id, status, words) in [
        ("group-dynamic", ANN, 403, "Insufficient privileges"),
        ("group-synced", ANN, 400, "on-premises mastered"),
        ("group-kind", ANN, 400, "mail-enabled"),
        ("group-role_assignable", ANN, 403, "Insufficient privileges"),
        ("group-refuses_guests", GUEST, 403, "Guests users are not allowed to join"),
    ] {
        let (got, body) = add(&stage, group, id).await;
        assert_eq!(got, status, "{group}");
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{group}: {body}");
    }
    assert_eq!(add(&stage, "group-refuses_guests", ANN).await.0, 204);
    assert!(
        stage_with(writers(&[]))
            .await
            .graph(Method::POST, &format!("/groups/{INNER}/members/$ref"), Some(reference(ROOT)))
            .await
            .0
            == 403
    );
}

#[tokio::test]
async fn a_group_keeps_its_last_owner_and_has_at_most_a_hundred() {
    let mut spec = writers(&["Group.ReadWrite.All"]);
    let owners: Vec<String> = (0..100).map(|n| format!("owner-{n}")).collect();
    spec["groups"][0]["owners"] = json!([ANN]);
    spec["groups"][1]["owners"] = json!(owners);
    let stage = stage_with(spec).await;
    let owners = format!("/groups/{OUTER}/owners");
    let drop = async |id: &str| stage.graph(Method::DELETE, &format!("{owners}/{id}/$ref"), None).await;
    let (status, body) = drop(ANN).await;
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().starts_with("The group must have at least one owner"));
    let join = format!("{owners}/$ref");
    assert_eq!(stage.graph(Method::POST, &join, Some(reference(ROOT))).await.0, 204);
    assert_eq!(stage.graph(Method::POST, &join, Some(reference(ROOT))).await.0, 400);
    assert_eq!(drop(ANN).await.0, 204);
    assert_eq!(ids(&stage, &owners).await, [ROOT]);
    let full = format!("/groups/{INNER}/owners/$ref");
    let (status, body) = stage.graph(Method::POST, &full, Some(reference(ANN))).await;
    assert_eq!((status, body["error"]["code"].as_str()), (403, Some("Directory_QuotaExceeded")));
}

#[tokio::test]
async fn a_lagging_reader_sees_a_member_later() {
    let stage = stage_with(writers(&["GroupMember.ReadWrite.All"])).await;
    stage.configure(json!({"read_lag_s": 30})).await;
    assert_eq!(add(&stage, INNER, ROOT).await.0, 204);
    let members = format!("/groups/{INNER}/members");
    assert_eq!(ids(&stage, &members).await, [ANN]);
    assert_eq!(add(&stage, INNER, ROOT).await.0, 400, "writing does not lag");
    stage.control(Method::POST, "/clock", &json!({"advance_s": 30})).await;
    assert_eq!(ids(&stage, &members).await, [ANN, ROOT]);
}

/// Follows a round to its end: its objects, its pages, and the delta link.
async fn round(stage: &Stage, mut url: String) -> (Vec<Value>, usize, String) {
    let (mut objects, mut pages) = (Vec::new(), 0);
    loop {
        let got = stage.http.get(&url).bearer_auth(stage.token().await).send().await.unwrap();
        let page: Value = got.json().await.unwrap();
        objects.extend(page["value"].as_array().unwrap().clone());
        pages += 1;
        if let Some(done) = page["@odata.deltaLink"].as_str() {
            return (objects, pages, done.to_owned());
        }
        page["@odata.nextLink"].as_str().unwrap().clone_into(&mut url);
    }
}

fn members_of(objects: &[Value], group: &str) -> Vec<Value> {
    let chunks = objects.iter().filter(|object| object["id"] == group);
    chunks.filter_map(|group| group["members@delta"].as_array()).flatten().cloned().collect()
}

#[tokio::test]
async fn a_large_group_is_split_over_pages_of_a_delta_and_changes_follow() {
    let mut spec = writers(&["GroupMember.ReadWrite.All", "User.ReadWrite.All"]);
    spec["generated"] = json!({"seed": 7, "count": 700});
    spec["groups"][1]["every"] = json!(1);
    let stage = stage_with(spec).await;
    let start = stage.url("/graph/v1.0/groups/delta?$select=displayName,members");
    let (objects, pages, link) = round(&stage, start).await;
    assert!(pages > 3, "{pages}");
    assert!(objects.iter().filter(|object| object["id"] == INNER).count() > 3, "in chunks");
    assert_eq!(members_of(&objects, INNER).len(), 701);
    let inner = json!([{"@odata.type": "#microsoft.graph.group", "id": INNER}]);
    assert_eq!(json!(members_of(&objects, OUTER)), inner);

    let (nothing, _, link) = round(&stage, link).await;
    assert_eq!(nothing, [] as [Value; 0]);
    add(&stage, INNER, ROOT).await;
    remove(&stage, INNER, ANN).await;
    let (changes, _, link) = round(&stage, link).await;
    let user = |id: &str| json!({"@odata.type": "#microsoft.graph.user", "id": id});
    let mut gone = user(ANN);
    gone["@removed"] = json!({"reason": "deleted"});
    assert_eq!(members_of(&changes, INNER), [user(ROOT), gone]);
    let (_, page) = stage.get("/users?$top=1&$select=id").await;
    let first = page["value"][0]["id"].as_str().unwrap();
    assert_eq!(stage.graph(Method::DELETE, &format!("/users/{first}"), None).await.0, 204);
    let (changes, ..) = round(&stage, link).await;
    assert_eq!(members_of(&changes, INNER)[0]["@removed"]["reason"], "deleted", "a deleted user leaves");
    let (plain, ..) = round(&stage, stage.url("/graph/v1.0/groups/delta")).await;
    assert!(plain.iter().all(|group| group.get("members@delta").is_none()), "members only when selected");
}

#[tokio::test]
async fn a_minimal_delta_shows_only_what_changed() {
    let stage = stage_with(spec()).await;
    let select = "$select=displayName,department,accountEnabled";
    let (_, latest) = stage.get(&format!("/users/delta?{select}&$deltatoken=latest")).await;
    let link = latest["@odata.deltaLink"].as_str().unwrap();
    stage.patch(ANN, json!({"display_name": "Ann", "department": "Sales"})).await;
    let (_, again) = stage.get(&format!("/users/delta?{select}&$deltatoken=latest")).await;
    let later = again["@odata.deltaLink"].as_str().unwrap();
    stage.patch(ANN, json!({"department": null})).await;
    let ask = async |link: &str, prefer: &str| {
        let request = stage.http.get(link).header("Prefer", prefer).bearer_auth(stage.token().await);
        request.send().await.unwrap()
    };
    let minimal = ask(later, "return=minimal").await;
    assert_eq!(minimal.headers()["preference-applied"], "return=minimal");
    let minimal: Value = minimal.json().await.unwrap();
    assert_eq!(minimal["value"], json!([{"id": ANN, "department": null}]), "cleared is null");
    let both: Value = ask(link, "return=minimal").await.json().await.unwrap();
    assert_eq!(both["value"], json!([{"id": ANN, "displayName": "Ann", "department": null}]));
    let whole: Value = ask(later, "respond-async").await.json().await.unwrap();
    assert_eq!(whole["value"], json!([{"id": ANN, "displayName": "Ann", "accountEnabled": true}]));
}

#[tokio::test]
async fn membership_is_checked_at_any_depth_for_twenty_groups_and_for_guids_only() {
    let stage = stage_with(spec()).await;
    let check = async |id: &str, groups: Vec<&str>| {
        let body = json!({ "groupIds": groups });
        stage.graph(Method::POST, &format!("/users/{id}/checkMemberGroups"), Some(body)).await
    };
    let (status, body) = check(ANN, vec![INNER, NOBODY, OUTER]).await;
    assert_eq!((status, &body["value"]), (200, &json!([INNER, OUTER])));
    assert_eq!(check(ROOT, vec![INNER]).await.1["value"], json!([]));
    assert_eq!(check(NOBODY, vec![INNER]).await.0, 404);
    assert_eq!(check(ANN, vec![INNER, "Inner"]).await.0, 400);
    assert_eq!(check(ANN, vec![INNER; 21]).await.0, 400);
    assert_eq!(check(ANN, vec![]).await.0, 400);
}
