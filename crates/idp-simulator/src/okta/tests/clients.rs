//! What official clients need beyond tokens, lists and sign-ins, and the steps of a user's life.

use super::*;

const SCOPES: &[&str] = &[
    "okta.users.read",
    "okta.users.manage",
    "okta.groups.read",
    "okta.roles.read",
    "okta.orgs.read",
    "okta.userRisk.read",
    "okta.userRisk.manage",
    "okta.universalLogout.manage",
];

fn stage(settings: &Value, app: &Value) -> Stage {
    let mut granted = json!({"scopes": SCOPES});
    crate::model::merge(&mut granted, app);
    Stage::with(settings, &granted)
}

fn with_groups() -> Stage {
    let stage = stage(&json!({}), &json!({}));
    let org = stage.world.directory("acme").unwrap();
    let spec = json!({"name": "Acme", "provider": {"okta": &match &*org.settings() {
            AnySettings::Okta(okta) => serde_json::to_value(okta).unwrap(),
            AnySettings::EntraId(_) => Value::Null,
        }},
        "accounts": [{"id": "00u1", "login": "ann@acme.example", "password": "right"},
            {"id": "00u2", "login": "bob@acme.example"}],
        "groups": [{"id": "00g1", "name": "Pilot", "members": ["00u1"]}, {"id": "00g2", "name": "Everyone else"}]});
    stage.world.put(serde_json::from_value(spec).unwrap()).unwrap();
    stage
}

#[tokio::test]
async fn groups_are_found_by_name_and_tell_their_members() {
    let stage = with_groups();
    let get = async |target: &str| stage.call(Method::GET, target, "okta.groups.read", Value::Null).await;
    let found = get("/api/v1/groups?q=pil").await;
    assert_eq!((found.body.as_array().unwrap().len(), &found.body[0]["id"]), (1, &json!("00g1")));
    assert_eq!(get("/api/v1/groups/00g1").await.body["profile"]["name"], "Pilot");
    assert_eq!(get("/api/v1/groups/00g9").await.word("errorCode"), (404, "E0000007"));
    assert_eq!(get("/api/v1/groups/00g1/users").await.body[0]["profile"]["login"], "ann@acme.example");
    let first = get("/api/v1/groups?limit=1").await;
    assert!(first.headers.get_all("link").iter().any(|link| link.to_str().unwrap().contains("rel=\"next\"")));
    let of = stage.call(Method::GET, "/api/v1/users/00u1/groups", "okta.users.read", Value::Null).await;
    assert_eq!(of.body[0]["id"], "00g1");
}

#[tokio::test]
async fn a_name_that_is_missing_is_null_because_okta_has_no_empty_ones() {
    let stage = stage(&json!({}), &json!({}));
    let ann = stage.call(Method::GET, "/api/v1/users/ann", "okta.users.read", Value::Null).await;
    assert_eq!(ann.body["profile"]["firstName"], Value::Null);
}

#[tokio::test]
async fn a_proof_may_encode_the_path_in_its_own_way() {
    let stage = stage(&json!({}), &json!({"dpop": "required"}));
    let key = stage.key.jwks()["keys"][0].clone();
    let public = json!({"kty": "RSA", "n": key["n"], "e": key["e"]});
    let proof = |method: &str, target: &str, token: Option<&str>| {
        let now = stage.world.now().unix_timestamp();
        let mut claims = json!({"htm": method, "htu": target, "iat": now, "jti": uuid::Uuid::new_v4()});
        if let Some(token) = token {
            claims["ath"] = json!(jwt::sha256(token));
        }
        stage.key.sign_with(&json!({"typ": "dpop+jwt", "alg": "RS256", "jwk": public}), &claims)
    };
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("scope", "okta.users.read")
        .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
        .append_pair("client_assertion", &stage.key.sign("JWT", &stage.claims()))
        .finish();
    let headers = [("dpop", proof("POST", &format!("{HOST}/oauth2/v1/token"), None))];
    let granted = stage.send(Method::POST, "/oauth2/v1/token", &headers, form).await;
    let token = granted.body["access_token"].as_str().unwrap();
    let encoded = format!("{HOST}/api/v1/users/ann%40acme.example");
    let headers = [("authorization", format!("DPoP {token}")), ("dpop", proof("GET", &encoded, Some(token)))];
    let reply = stage.send(Method::GET, "/api/v1/users/ann@acme.example", &headers, String::new()).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_risk_is_created_updated_and_read_where_the_org_has_it() {
    let stage = stage(&json!({}), &json!({}));
    let path = "/api/v1/users/ann/risk";
    let put = async |level: &str| {
        stage.call(Method::PUT, path, "okta.userRisk.manage", json!({"riskLevel": level})).await
    };
    let get = async || stage.call(Method::GET, path, "okta.userRisk.read", Value::Null).await;
    assert_eq!(get().await.word("riskLevel"), (200, "NONE"));
    assert_eq!(put("HIGH").await.word("riskLevel"), (201, "HIGH"));
    assert_eq!(put("LOW").await.word("reason"), (200, "override.by.admin"));
    assert_eq!(get().await.word("riskLevel"), (200, "LOW"));
    assert_eq!(put("NONE").await.word("errorCode"), (400, "E0000001"));
    let without = self::stage(&json!({"threat_protection": false}), &json!({}));
    let reply = without.call(Method::GET, path, "okta.userRisk.read", Value::Null).await;
    assert_eq!(reply.word("errorCode"), (401, "E0000015"));
}

#[tokio::test]
async fn a_transaction_is_looked_at_and_cancelled_by_its_state_token() {
    let stage = Stage::plain();
    let org = stage.world.directory("acme").unwrap();
    let ann = org.accounts.by_login("ann@acme.example").unwrap().id;
    org.accounts.patch(&ann, &json!({"second_factor": "required"}), stage.world.now()).unwrap();
    let begun = stage.sign_in("ann", "right").await;
    assert_eq!(begun.word("status"), (200, "MFA_REQUIRED"));
    let factor = &begun.body["_embedded"]["factors"][0];
    assert!(factor["_links"]["verify"]["href"].as_str().unwrap().starts_with(HOST));
    let token = json!({"stateToken": begun.body["stateToken"]}).to_string();
    let post = async |path: &str| stage.send(Method::POST, path, &[], token.clone()).await;
    assert_eq!(post("/api/v1/authn").await.word("status"), (200, "MFA_REQUIRED"));
    assert_eq!(post("/api/v1/authn/cancel").await.status, 200);
    assert_eq!(post("/api/v1/authn").await.word("errorCode"), (401, "E0000011"));
    let submissions = stage.world.log.after(0, 100, |e| matches!(e.event, Event::Submission(_)));
    assert_eq!(submissions.len(), 1, "looking at a transaction submits no password");

    org.accounts
        .patch(&ann, &json!({"second_factor": "none", "password_expired": true}), stage.world.now())
        .unwrap();
    let expired = stage.sign_in("ann", "right").await;
    assert_eq!(expired.body["_links"]["next"]["name"], "changePassword");
}

#[tokio::test]
async fn a_user_goes_through_the_states_of_the_reference() {
    let stage = stage(&json!({}), &json!({}));
    let step = async |step: &str| {
        let path = format!("/api/v1/users/ann/lifecycle/{step}");
        stage.call(Method::POST, &path, "okta.users.manage", Value::Null).await
    };
    let state = async || {
        stage.call(Method::GET, "/api/v1/users/ann", "okta.users.read", Value::Null).await.body["status"]
            .clone()
    };
    assert_eq!(step("activate").await.word("errorCode"), (403, "E0000016"));
    assert_eq!(step("expire_password").await.word("status"), (200, "PASSWORD_EXPIRED"));
    assert_eq!(step("reset_password").await.word("errorCode"), (400, "E0000028"));
    let reset = step("reset_password?sendEmail=false").await;
    assert!(reset.body["resetPasswordUrl"].as_str().unwrap().starts_with(HOST));
    assert_eq!(state().await, "RECOVERY");
    assert_eq!(step("suspend").await.word("errorCode"), (400, "E0000001"));
    assert_eq!(step("reactivate").await.status, 200);
    assert_eq!(step("deactivate").await.status, 200);
    assert_eq!(state().await, "DEPROVISIONED");
    assert_eq!(step("deactivate").await.word("errorCode"), (403, "E0000038"));
    assert_eq!(step("activate").await.status, 200);
    assert_ne!(state().await, "DEPROVISIONED");
}

#[tokio::test]
async fn universal_logout_ends_sessions_by_id() {
    let stage = stage(&json!({}), &json!({}));
    let org = stage.world.directory("acme").unwrap();
    let ann = org.accounts.by_login("ann@acme.example").unwrap();
    let revoke = async |body: Value| {
        let path = "/oauth2/v1/global-token-revocation";
        stage.call(Method::POST, path, "okta.universalLogout.manage", body).await.status
    };
    assert_eq!(revoke(json!({"sub_id": {"format": "opaque", "id": ann.id}})).await, 204);
    assert!(org.accounts.get(&ann.id).unwrap().sessions_valid_from > ann.sessions_valid_from);
    assert_eq!(revoke(json!({"sub_id": {"format": "email", "email": "ann@acme.example"}})).await, 400);
}

#[tokio::test]
async fn the_policy_of_a_users_group_decides_when_the_user_is_locked() {
    let strict = json!({"name": "Strict", "max_attempts": 1, "groups": ["00g1"]});
    let stage = with_groups();
    let org = stage.world.directory("acme").unwrap();
    if let AnySettings::Okta(okta) = &*org.settings() {
        let mut settings = okta.clone();
        settings.policies = vec![serde_json::from_value(strict).unwrap()];
        org.set_settings(AnySettings::Okta(settings));
    }
    stage.sign_in("ann", "wrong").await;
    assert!(org.accounts.get("00u1").unwrap().lock.locked);
    stage.sign_in("bob", "wrong").await;
    assert!(!org.accounts.get("00u2").unwrap().lock.locked);
}

#[tokio::test]
async fn roles_have_the_same_id_for_every_user() {
    let stage = stage(&json!({}), &json!({}));
    let roles = stage.call(Method::GET, "/api/v1/users/boss/roles", "okta.roles.read", Value::Null).await;
    assert_eq!(
        (&roles.body[0]["type"], &roles.body[0]["id"]),
        (&json!("ORG_ADMIN"), &json!("J5JEOX2BIRGUSTQ"))
    );
    let path = "/attack-protection/api/v1/user-lockout-settings";
    let lockout = stage.call(Method::GET, path, "okta.orgs.read", Value::Null).await;
    assert_eq!(lockout.body, json!([{"preventBruteForceLockoutFromUnknownDevices": false}]));
}

#[tokio::test]
async fn the_system_log_tells_what_happened_elsewhere_and_is_filtered_by_beginnings_and_targets() {
    let stage = Stage::plain();
    let org = stage.world.directory("acme").unwrap();
    let ann = org.accounts.by_login("ann@acme.example").unwrap();
    outside(&stage.world, &org, &ann, "user.lifecycle.suspend", None);
    outside(&stage.world, &org, &ann, "user.account.update_profile", None);
    let filter = format!(
        "eventType sw \"user.lifecycle\" and target.id eq \"{}\" or eventType eq \"group.lifecycle.create\"",
        ann.id
    );
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("filter", &filter).finish();
    let reply = stage.api(Method::GET, &format!("/api/v1/logs?{query}")).await;
    let kinds: Vec<&Value> = reply.body.as_array().unwrap().iter().map(|e| &e["eventType"]).collect();
    assert_eq!(kinds, ["user.lifecycle.suspend"]);
}

#[tokio::test]
async fn a_search_lags_behind_what_a_filter_and_a_single_read_see() {
    let stage = stage(&json!({"search_lag_s": 60}), &json!({}));
    assert_eq!(
        stage
            .call(Method::POST, "/api/v1/users/ann/lifecycle/suspend", "okta.users.manage", Value::Null)
            .await
            .status,
        200
    );
    let found = async |by: &str| {
        let path = format!("/api/v1/users?{by}=status+eq+%22SUSPENDED%22");
        stage.call(Method::GET, &path, "okta.users.read", Value::Null).await.body.as_array().unwrap().len()
    };
    assert_eq!((found("filter").await, found("search").await), (1, 0));
    stage.world.advance(Duration::seconds(61));
    assert_eq!(found("search").await, 1);
}

#[tokio::test]
async fn a_fault_tells_too_many_calls_at_once_or_any_code_of_okta() {
    let stage = Stage::plain();
    let list = async |effect: Value| {
        let fault = json!({"operation": "okta.users.list", "effect": effect});
        stage.world.faults.add(serde_json::from_value(fault).unwrap());
        let granted = stage.token(&stage.claims(), "okta.users.read").await;
        let token = format!("Bearer {}", granted.body["access_token"].as_str().unwrap());
        let request = Request {
            surface: Surface::Okta("acme".into()),
            base: HOST.into(),
            method: Method::GET,
            path: "/api/v1/users".into(),
            query: String::new(),
            headers: [(http::header::AUTHORIZATION, token.parse().unwrap())].into_iter().collect(),
            body: Bytes::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        let fault = answer(&stage.world, &request).await.fault.unwrap();
        fault.instead(&request, stage.world.now()).unwrap()
    };
    let busy = list(json!({"throttle": {"hint": "concurrency"}})).await;
    assert_eq!((busy.status().as_u16(), &busy.headers()["x-rate-limit-limit"]), (429, &"0".parse().unwrap()));
    let read_only = list(json!({"code": {"code": "E0000010"}})).await;
    assert_eq!(read_only.status(), 503);
    let gateway =
        list(json!({"answer": {"status": 404, "json": {"status": 404, "message": "Resource not found"}}}));
    assert_eq!(gateway.await.status(), 404);
}

#[tokio::test]
async fn the_password_grant_counts_like_a_sign_in_and_speaks_oauth() {
    let stage = Stage::with(&json!({}), &json!({"password_grant": true, "secret": "shh"}));
    let org = stage.world.directory("acme").unwrap();
    let ann = org.accounts.by_login("ann@acme.example").unwrap().id;
    let grant = async |secret: &str, password: &str| {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "password")
            .append_pair("client_id", CLIENT)
            .append_pair("client_secret", secret)
            .append_pair("scope", "openid")
            .append_pair("username", "ann@acme.example")
            .append_pair("password", password)
            .finish();
        stage.send(Method::POST, "/oauth2/v1/token", &[], form).await
    };
    assert_eq!(grant("no", "right").await.word("error"), (401, "invalid_client"));
    assert!(grant("shh", "right").await.body["id_token"].is_string());
    org.accounts.patch(&ann, &json!({"second_factor": "required"}), stage.world.now()).unwrap();
    let second = grant("shh", "right").await;
    assert_eq!(second.word("error"), (403, "mfa_required"));
    assert!(second.body["mfa_token"].is_string());
    stage.world.advance(Duration::seconds(2));
    for _ in 0..3 {
        assert_eq!(grant("shh", "wrong").await.word("error"), (400, "invalid_grant"));
    }
    assert!(org.accounts.get(&ann).unwrap().lock.locked);
    let submissions = stage.world.log.after(0, 100, |e| matches!(e.event, Event::Submission(_)));
    assert_eq!(submissions.len(), 6);
    let told: Vec<&str> = submissions
        .iter()
        .filter_map(|e| if let Event::Submission(s) = &e.event { Some(s.answer.as_str()) } else { None })
        .collect();
    assert_eq!(told[2..4], ["403 mfa_required", "400 invalid_grant"]);
}
