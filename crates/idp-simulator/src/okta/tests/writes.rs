//! Creating, updating and deleting users, what an app learns of itself, and refusals in rarer shapes.

use super::*;

const SCOPES: &[&str] = &[
    "okta.users.read",
    "okta.users.manage",
    "okta.groups.read",
    "okta.roles.read",
    "okta.logs.read",
    "okta.appGrants.read",
    "okta.principalRateLimits.read",
];

fn stage(settings: &Value, app: &Value) -> Stage {
    let mut granted = json!({"scopes": SCOPES});
    crate::model::merge(&mut granted, app);
    Stage::with(settings, &granted)
}

fn person(login: &str) -> Value {
    json!({"profile": {"login": login, "email": login, "firstName": "New", "lastName": "One"}})
}

async fn manage(stage: &Stage, method: Method, target: &str, body: Value) -> Reply {
    stage.call(method, target, "okta.users.manage", body).await
}

#[tokio::test]
async fn a_new_user_starts_as_the_reference_says() {
    let stage = stage(&json!({}), &json!({}));
    let mut secret = person("a@acme.example");
    secret["credentials"] = json!({"password": {"value": "long-enough"}});
    for (query, login, password, status) in [
        ("?activate=false", "b@acme.example", false, "STAGED"),
        ("", "c@acme.example", false, "PROVISIONED"),
        ("?activate=false", "d@acme.example", true, "STAGED"),
        ("", "e@acme.example", true, "ACTIVE"),
    ] {
        let mut body = person(login);
        if password {
            body["credentials"] = secret["credentials"].clone();
        }
        let made = manage(&stage, Method::POST, &format!("/api/v1/users{query}"), body).await;
        assert_eq!(made.word("status"), (200, status), "{login}");
        assert_eq!(made.body["profile"]["firstName"], "New");
    }
    assert_eq!(stage.sign_in("e@acme.example", "long-enough").await.word("status"), (200, "SUCCESS"));
    let again = manage(&stage, Method::POST, "/api/v1/users", person("c@acme.example")).await;
    assert_eq!(again.word("errorCode"), (400, "E0000001"));
    assert!(again.body["errorCauses"][0]["errorSummary"].as_str().unwrap().contains("already exists"));
    let logs =
        stage.api(Method::GET, "/api/v1/logs?filter=eventType%20eq%20%22user.lifecycle.create%22").await;
    assert_eq!(logs.body.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_new_user_is_refused_for_every_reason_of_its_own() {
    let stage = stage(&json!({}), &json!({}));
    let create = async |query: &str, patch: Value| {
        let mut body = person("new@acme.example");
        crate::model::merge(&mut body, &patch);
        let reply = manage(&stage, Method::POST, &format!("/api/v1/users{query}"), body).await;
        reply.word("errorCode").1.to_owned()
    };
    assert_eq!(create("", json!({"profile": {"login": "short"}})).await, "E0000001");
    assert_eq!(create("", json!({"profile": {"lastName": ""}})).await, "E0000001");
    let short = json!({"credentials": {"password": {"value": "short"}}});
    assert_eq!(create("", short).await, "E0000001");
    assert_eq!(create("?nextLogin=changePassword", json!({})).await, "E0000124");
    let secret = json!({"credentials": {"password": {"value": "long-enough"}}});
    assert_eq!(create("?activate=false&nextLogin=changePassword", secret).await, "E0000125");
    assert_eq!(create("", json!({"groupIds": vec!["00g1"; 21]})).await, "E0000093");
    assert_eq!(create("", json!({"groupIds": ["00g9"]})).await, "E0000001");
    assert_eq!(create("", json!({})).await, "", "and none of these left a user behind");
}

#[tokio::test]
async fn an_update_merges_or_replaces_and_may_insist_on_what_it_read() {
    let stage = stage(&json!({}), &json!({}));
    let read = stage.api(Method::GET, "/api/v1/users/ann").await;
    let tag = read.headers["etag"].to_str().unwrap().to_owned();
    let token = stage.token(&stage.claims(), "okta.users.manage").await;
    let bearer = format!("Bearer {}", token.body["access_token"].as_str().unwrap());
    let update = async |body: Value| {
        let headers = [("authorization", bearer.clone()), ("if-match", tag.clone())];
        stage.send(Method::POST, "/api/v1/users/ann", &headers, body.to_string()).await
    };
    let first = update(json!({"profile": {"title": "Chief"}})).await;
    assert_eq!((first.status, &first.body["profile"]["title"]), (200, &json!("Chief")));
    assert_ne!(first.headers["etag"].to_str().unwrap(), tag);
    assert_eq!(update(json!({"profile": {"title": "Thief"}})).await.word("errorCode"), (412, "E0000231"));
    let partial = json!({"profile": {"lastName": "Lee"}});
    let whole = manage(&stage, Method::PUT, "/api/v1/users/ann", partial).await;
    assert_eq!(whole.word("errorCode"), (400, "E0000001"), "a replacement needs what a user must have");
    let whole = manage(&stage, Method::PUT, "/api/v1/users/ann", person("ann@acme.example")).await;
    assert_eq!((whole.status, &whole.body["profile"]["title"]), (200, &Value::Null));
    let secret = json!({"credentials": {"password": {"value": "another-one"}}});
    assert_eq!(manage(&stage, Method::POST, "/api/v1/users/ann", secret).await.status, 200);
    assert_eq!(stage.sign_in("ann", "another-one").await.word("status"), (200, "SUCCESS"));
    let gone = manage(&stage, Method::POST, "/api/v1/users/gone", json!({"profile": {"title": "x"}})).await;
    assert_eq!(gone.word("errorCode"), (403, "E0000038"));
}

#[tokio::test]
async fn the_first_delete_deactivates_and_the_second_deletes() {
    let stage = stage(&json!({}), &json!({}));
    let delete = async || manage(&stage, Method::DELETE, "/api/v1/users/ann", Value::Null).await.status;
    assert_eq!(delete().await, 204);
    assert_eq!(stage.api(Method::GET, "/api/v1/users/ann").await.body["status"], "DEPROVISIONED");
    assert_eq!(delete().await, 204);
    assert_eq!(stage.api(Method::GET, "/api/v1/users/ann").await.status, 404);
    assert_eq!(delete().await, 404);
    let log = stage.world.log.after(0, 10, |_| true);
    let actions: Vec<&str> = log
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Change(change) => Some(change.action.as_str()),
            Event::Submission(_) => None,
        })
        .collect();
    assert_eq!(actions, ["deactivate", "deleted"]);
}

#[tokio::test]
async fn a_temporary_password_works_once_and_factors_are_registered_anew() {
    let stage = stage(&json!({}), &json!({}));
    let step = async |step: &str| {
        manage(&stage, Method::POST, &format!("/api/v1/users/ann/lifecycle/{step}"), Value::Null).await
    };
    let temporary = step("expire_password_with_temp_password?revokeSessions=true").await;
    let password = temporary.body["tempPassword"].as_str().unwrap();
    assert_eq!(stage.sign_in("ann", password).await.word("status"), (200, "PASSWORD_EXPIRED"));
    assert_eq!(stage.sign_in("ann", "right").await.status, 401);
    let log = format!("{:?}", stage.world.log.after(0, 10, |_| true));
    assert!(!log.contains(password), "the log keeps no passwords");
    let change = json!({"credentials": {"password": {"value": "long-enough"}}});
    manage(&stage, Method::POST, "/api/v1/users/ann", change).await;
    let ann = stage.world.directory("acme").unwrap().accounts.by_login("ann@acme.example").unwrap().id;
    stage.world.directory("acme").unwrap().accounts.update_quietly(&ann, |account| {
        account.second_factor = crate::model::SecondFactor::Required;
    });
    assert_eq!(stage.sign_in("ann", "long-enough").await.word("status"), (200, "MFA_REQUIRED"));
    assert_eq!(step("reset_factors").await.status, 200);
    assert_eq!(stage.sign_in("ann", "long-enough").await.word("status"), (200, "MFA_ENROLL"));
}

#[tokio::test]
async fn an_app_learns_its_scopes_and_its_share_of_the_limits() {
    let stage = stage(&json!({"buckets": {"other": 100}}), &json!({"share_percent": 20}));
    let grants =
        stage.call(Method::GET, "/api/v1/apps/0oa1/grants", "okta.appGrants.read", Value::Null).await;
    let scopes: Vec<&str> =
        grants.body.as_array().unwrap().iter().map(|grant| grant["scopeId"].as_str().unwrap()).collect();
    assert_eq!(scopes, SCOPES);
    assert_eq!(grants.headers["x-rate-limit-limit"], "20", "its share of the bucket");
    let limits = "/api/v1/principal-rate-limits";
    let read = async |target: &str| {
        stage.call(Method::GET, target, "okta.principalRateLimits.read", Value::Null).await
    };
    assert_eq!(read(limits).await.word("errorCode"), (400, "E0000028"));
    let own = format!("{limits}?filter=principalType%20eq%20%22OAUTH_CLIENT%22");
    let own = read(&own).await;
    assert_eq!(own.body[0]["defaultPercentage"], 20);
    let tokens = read(&format!("{limits}?filter=principalType%20eq%20%22SSWS_TOKEN%22")).await;
    assert_eq!(tokens.body, json!([]));
}

#[tokio::test]
async fn custom_roles_and_resource_sets_wrap_their_lists_and_link_to_the_console() {
    let settings = json!({
        "custom_roles": [{"id": "cr01", "label": "Creator", "permissions": ["okta.users.create"]}],
        "resource_sets": [{"id": "iam1", "label": "People", "resources": ["orn:okta:directory:00o1:users"],
            "bindings": [{"role": "cr01", "members": ["00u1", "00g1"]}]}],
    });
    let stage = stage(&settings, &json!({}));
    let get = async |path: &str| {
        stage.call(Method::GET, &format!("/api/v1/iam/{path}"), "okta.roles.read", Value::Null).await
    };
    let roles = get("roles").await.body;
    let href = roles["roles"][0]["_links"]["permissions"]["href"].as_str().unwrap();
    assert!(href.starts_with("https://acme-admin.okta.com/"), "{href}");
    assert_eq!(get("roles/Creator/permissions").await.body["permissions"][0]["label"], "okta.users.create");
    assert_eq!(get("resource-sets").await.body["resource-sets"][0]["label"], "People");
    let orn = "orn:okta:directory:00o1:users";
    assert_eq!(get("resource-sets/iam1/resources").await.body["resources"][0]["orn"], orn);
    assert_eq!(get("resource-sets/iam1/bindings").await.body["roles"][0]["id"], "cr01");
    let members = get("resource-sets/iam1/bindings/cr01/members").await.body;
    let group = members["members"][1]["_links"]["self"]["href"].as_str().unwrap();
    assert!(group.ends_with("/groups/00g1"));
    assert_eq!(get("resource-sets/iam2").await.word("errorCode"), (404, "E0000007"));
}

#[tokio::test]
async fn causes_may_come_as_an_object() {
    let stage = stage(&json!({"causes_as_object": true}), &json!({}));
    let refused = manage(&stage, Method::POST, "/api/v1/users/gone/lifecycle/suspend", Value::Null).await;
    assert!(refused.body["errorCauses"]["errorSummary"].is_string(), "{}", refused.body);
    let missing = stage.api(Method::GET, "/api/v1/users/nobody").await;
    assert_eq!(missing.body["errorCauses"], json!({}));
}
