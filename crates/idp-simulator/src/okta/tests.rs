use std::sync::Arc;

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use time::Duration;

use super::*;
use crate::log::{Event, Log};
use crate::tokens::Issuer;

mod clients;
mod hooks;
mod writes;

const CLIENT: &str = "0oa1";
const HOST: &str = "https://acme.okta.com";

struct Stage {
    world: Arc<World>,
    key: Issuer,
}

impl Stage {
    fn with(settings: &Value, app: &Value) -> Self {
        let world = Arc::new(World::new(Log::default(), None).unwrap());
        let key = Issuer::generate().unwrap();
        let mut service = json!({"client_id": CLIENT, "dpop": "off", "jwks": key.jwks(), "roles": ["SUPER_ADMIN"],
            "scopes": ["okta.users.read", "okta.users.manage", "okta.logs.read"]});
        crate::model::merge(&mut service, app);
        let mut org = json!({"org_id": "00o1", "subdomain": "acme", "mail_domain": "acme.example",
            "apps": [service], "max_attempts": 3});
        crate::model::merge(&mut org, settings);
        let accounts = json!([
            {"login": "ann@acme.example", "password": "right"},
            {"login": "gone@acme.example", "password": "right", "status": "deprovisioned"},
            {"login": "boss@acme.example", "password": "right", "roles": ["ORG_ADMIN"]},
        ]);
        let spec = json!({"name": "Acme", "provider": {"okta": org}, "accounts": accounts});
        world.put(serde_json::from_value(spec).unwrap()).unwrap();
        Self { world, key }
    }

    fn plain() -> Self {
        Self::with(&json!({}), &json!({}))
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut map = HeaderMap::new();
        map.insert(CONTENT_LENGTH, body.len().into());
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let request = Request {
            surface: Surface::Okta("acme".into()),
            base: HOST.into(),
            method,
            path: path.into(),
            query: query.into(),
            headers: map,
            body: body.into(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        let response = answer(&self.world, &request).await.response;
        let body = serde_json::from_slice(response.body()).unwrap_or_default();
        Reply { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    fn claims(&self) -> Value {
        let now = self.world.now().unix_timestamp();
        json!({"iss": CLIENT, "sub": CLIENT, "aud": format!("{HOST}/oauth2/v1/token"), "exp": now + 300,
            "jti": uuid::Uuid::new_v4()})
    }

    async fn token(&self, claims: &Value, scope: &str) -> Reply {
        let assertion = self.key.sign("JWT", claims);
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("scope", scope)
            .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .append_pair("client_assertion", &assertion)
            .finish();
        self.send(Method::POST, "/oauth2/v1/token", &[], form).await
    }

    /// A call under one scope.
    async fn call(&self, method: Method, target: &str, scope: &str, body: Value) -> Reply {
        let granted = self.token(&self.claims(), scope).await;
        let token = format!("Bearer {}", granted.body["access_token"].as_str().unwrap());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, target, &[("authorization", token)], body).await
    }

    async fn api(&self, method: Method, target: &str) -> Reply {
        let granted = self.token(&self.claims(), "okta.users.read okta.users.manage okta.logs.read").await;
        let token = granted.body["access_token"].as_str().unwrap().to_owned();
        self.send(method, target, &[("authorization", format!("Bearer {token}"))], String::new()).await
    }

    async fn sign_in(&self, username: &str, password: &str) -> Reply {
        let body = json!({"username": username, "password": password}).to_string();
        self.send(Method::POST, "/api/v1/authn", &[], body).await
    }
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn word(&self, name: &str) -> (u16, &str) {
        (self.status, self.body[name].as_str().unwrap_or_default())
    }
}

#[tokio::test]
async fn assertions_are_checked_in_the_documented_order() {
    let stage = Stage::plain();
    let now = stage.world.now().unix_timestamp();
    for (patch, words) in [
        (json!({"iss": "0oa2", "exp": 0}), "issuer claim"),
        (json!({"sub": "0oa2", "aud": "x"}), "subject claim"),
        (json!({"aud": "https://acme.okta.com", "exp": 0}), "audience claim"),
        (json!({"exp": "soon"}), "must contain the 'exp'"),
        (json!({"exp": now - 1}), "is expired"),
        (json!({"exp": now + 4000}), "too far into the future"),
        (json!({"iat": now + 100}), "before the current time"),
    ] {
        let mut claims = stage.claims();
        crate::model::merge(&mut claims, &patch);
        let reply = stage.token(&claims, "okta.users.read").await;
        assert_eq!(reply.word("error"), (401, "invalid_client"));
        let description = reply.body["error_description"].as_str().unwrap();
        assert!(description.contains(words), "{description}");
    }
}

#[tokio::test]
async fn an_assertion_works_once() {
    let stage = Stage::plain();
    let claims = stage.claims();
    assert_eq!(stage.token(&claims, "okta.users.read").await.status, 200);
    let again = stage.token(&claims, "okta.users.read").await;
    assert!(again.body["error_description"].as_str().unwrap().contains("already been used"));
}

#[tokio::test]
async fn scopes_not_granted_are_left_out_silently() {
    let stage = Stage::plain();
    let some = stage.token(&stage.claims(), "okta.users.read okta.roles.read").await;
    assert_eq!(some.word("scope"), (200, "okta.users.read"));
    let none = stage.token(&stage.claims(), "okta.roles.read").await;
    assert_eq!(none.word("error"), (400, "consent_required"));
    let unknown = stage.token(&stage.claims(), "okta.user.read").await;
    assert_eq!(unknown.word("error"), (400, "invalid_scope"));
}

#[tokio::test]
async fn a_missing_proof_of_possession_is_refused_with_the_recorded_words() {
    let stage = Stage::with(&json!({}), &json!({"dpop": "nonce"}));
    let reply = stage.token(&stage.claims(), "okta.users.read").await;
    assert_eq!(reply.word("error"), (400, "invalid_dpop_proof"));
    assert_eq!(reply.body["error_description"], "The DPoP proof JWT header is missing.");
}

#[tokio::test]
async fn the_oauth_layer_answers_without_a_body() {
    let stage = Stage::with(&json!({}), &json!({"scopes": ["okta.users.read"]}));
    let granted = stage.token(&stage.claims(), "okta.users.read").await;
    let token = format!("Bearer {}", granted.body["access_token"].as_str().unwrap());
    let headers = [("authorization", token)];
    let id = stage.world.directory("acme").unwrap().accounts.by_login("ann@acme.example").unwrap().id;
    let path = format!("/api/v1/users/{id}/lifecycle/suspend");
    let reply = stage.send(Method::POST, &path, &headers, String::new()).await;
    assert_eq!((reply.status, reply.body), (403, Value::Null));
    let challenge = reply.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("insufficient_scope") && challenge.contains("okta.users.manage"),
        "{challenge}"
    );

    stage.world.advance(Duration::hours(2));
    let reply = stage.send(Method::GET, "/api/v1/users", &headers, String::new()).await;
    assert_eq!((reply.status, reply.body), (401, Value::Null));
    assert!(reply.headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));
}

#[tokio::test]
async fn an_app_without_a_role_sees_no_users_and_may_do_nothing_else() {
    let stage = Stage::with(&json!({}), &json!({"roles": []}));
    let users = stage.api(Method::GET, "/api/v1/users").await;
    assert_eq!((users.status, users.body), (200, json!([])));
    let user = stage.api(Method::GET, "/api/v1/users/ann").await;
    assert_eq!(user.word("errorCode"), (403, "E0000006"));
}

#[tokio::test]
async fn lists_are_paged_by_two_link_lines_and_hide_the_deprovisioned() {
    let stage = Stage::plain();
    let first = stage.api(Method::GET, "/api/v1/users?limit=1").await;
    let links: Vec<&str> = first.headers.get_all("link").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(links.len(), 2);
    assert!(links[0].ends_with("rel=\"self\"") && links[1].ends_with("rel=\"next\""));
    let all = stage.api(Method::GET, "/api/v1/users?limit=500").await;
    assert_eq!(all.body.as_array().unwrap().len(), 2);
    let gone = stage.api(Method::GET, "/api/v1/users?filter=status+eq+%22DEPROVISIONED%22").await;
    assert_eq!(gone.body[0]["profile"]["login"], "gone@acme.example");
    let bad = stage.api(Method::GET, "/api/v1/users?filter=nickName+eq+%22x%22").await;
    assert_eq!(bad.word("errorCode"), (400, "E0000031"));
}

#[tokio::test]
async fn wrong_passwords_lock_by_the_policy_and_a_lock_looks_like_a_wrong_password() {
    let stage = Stage::with(&json!({"auto_unlock_minutes": 10}), &json!({}));
    for _ in 0..3 {
        assert_eq!(stage.sign_in("ann@acme.example", "wrong").await.word("errorCode"), (401, "E0000004"));
    }
    assert_eq!(stage.sign_in("ann", "right").await.word("errorCode"), (401, "E0000004"));
    let entries = stage.world.log.after(0, 100, |_| true);
    let locks = entries.iter().filter(|e| matches!(&e.event, Event::Change(c) if c.action == "lock")).count();
    let locking = entries.iter().filter(|e| matches!(&e.event, Event::Submission(s) if s.locked)).count();
    assert_eq!((locks, locking), (1, 1));
    stage.world.advance(Duration::minutes(11));
    assert_eq!(stage.sign_in("ann", "right").await.word("status"), (200, "SUCCESS"));
}

#[tokio::test]
async fn a_lock_is_shown_only_where_the_policy_shows_it() {
    let stage = Stage::with(&json!({"show_lockout_failures": true, "max_attempts": 1}), &json!({}));
    stage.sign_in("ann", "wrong").await;
    assert_eq!(stage.sign_in("ann", "right").await.word("status"), (200, "LOCKED_OUT"));
}

#[tokio::test]
async fn nobody_signs_in_more_than_four_times_a_second() {
    let stage = Stage::with(&json!({"max_attempts": 0}), &json!({}));
    let mut throttled = 0;
    for _ in 0..6 {
        throttled += u16::from(stage.sign_in("ann", "wrong").await.status == 429);
    }
    assert!(throttled >= 1);
    let answers = stage.world.log.after(0, 100, |e| matches!(e.event, Event::Submission(_)));
    assert_eq!(answers.len(), 6, "throttled ones are submissions too");
    assert_eq!(stage.sign_in("boss", "wrong").await.status, 401);
}

#[tokio::test]
async fn only_super_administrators_act_on_administrators() {
    let stage = Stage::with(&json!({}), &json!({"roles": ["USER_ADMIN"]}));
    let reply = stage.api(Method::POST, "/api/v1/users/boss/lifecycle/suspend").await;
    assert_eq!(reply.word("errorCode"), (403, "E0000006"));
    assert_eq!(stage.api(Method::POST, "/api/v1/users/ann/lifecycle/suspend").await.status, 200);
    let again = stage.api(Method::POST, "/api/v1/users/ann/lifecycle/suspend").await;
    assert_eq!(again.word("errorCode"), (400, "E0000001"));
    let unlocked = stage.api(Method::POST, "/api/v1/users/ann/lifecycle/unlock").await;
    assert_eq!(unlocked.word("errorCode"), (403, "E0000032"));
}

#[tokio::test]
async fn the_system_log_tells_failed_sign_ins_apart_and_is_polled_for_ever() {
    let stage = Stage::plain();
    stage.sign_in("ann", "wrong").await;
    stage.sign_in("nobody", "wrong").await;
    let path = "/api/v1/logs?filter=eventType+eq+%22user.session.start%22&sortOrder=ASCENDING";
    let reply = stage.api(Method::GET, path).await;
    let reasons: Vec<&str> =
        reply.body.as_array().unwrap().iter().filter_map(|e| e["outcome"]["reason"].as_str()).collect();
    assert_eq!(reasons, ["INVALID_CREDENTIALS", "UNKNOWN_USER"]);
    let next = reply.headers["link"].to_str().unwrap();
    let next = next.trim_start_matches('<').split('>').next().unwrap().trim_start_matches(HOST).to_owned();
    let empty = stage.api(Method::GET, &next).await;
    assert_eq!(empty.body, json!([]));
    assert!(empty.headers.contains_key("link"), "the polling form never ends");
}

#[tokio::test]
async fn the_bounded_log_is_read_page_by_page_by_what_the_user_agent_begins_with() {
    let stage = Stage::with(&json!({"log_page": 2, "sign_ins_per_second": 99}), &json!({}));
    for agent in ["Parapet/1", "Mozilla/5.0", "Parapet/2", "Parapets", "Parapet/1"] {
        let body = json!({"username": "ann", "password": "wrong"}).to_string();
        let headers = [("user-agent", agent.to_owned()), ("content-type", "application/json".to_owned())];
        stage.send(Method::POST, "/api/v1/authn", &headers, body).await;
    }
    let until = user::timestamp(stage.world.now() + Duration::seconds(1));
    let since = user::timestamp(stage.world.now() - Duration::hours(1));
    let mut path = format!(
        "/api/v1/logs?since={since}&until={until}&limit=1000&filter=eventType+eq+%22user.session.start%22\
         +and+client.userAgent.rawUserAgent+sw+%22Parapet/%22"
    );
    let mut pages = Vec::new();
    loop {
        let reply = stage.api(Method::GET, &path).await;
        pages.push(reply.body.as_array().unwrap().len());
        let Some(next) = reply.headers.get("link") else { break };
        let next = next.to_str().unwrap().trim_start_matches('<').split('>').next().unwrap();
        path = next.trim_start_matches(HOST).to_owned();
    }
    assert_eq!(pages, [2, 1]);
    let refused =
        stage.api(Method::GET, "/api/v1/logs?filter=client.userAgent.rawUserAgent+co+%22Para%22").await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn an_application_may_use_half_of_a_bucket() {
    let stage = Stage::with(&json!({"buckets": {"users": 20}}), &json!({}));
    let granted = stage.token(&stage.claims(), "okta.users.read").await;
    let token = format!("Bearer {}", granted.body["access_token"].as_str().unwrap());
    let headers = [("authorization", token)];
    let mut last = None;
    for _ in 0..11 {
        last = Some(stage.send(Method::GET, "/api/v1/users", &headers, String::new()).await);
    }
    let last = last.unwrap();
    assert_eq!(last.word("errorCode"), (429, "E0000047"));
    assert_eq!(last.headers["x-rate-limit-limit"], "10");
    assert_eq!(last.headers["x-rate-limit-remaining"], "0");
    stage.world.advance(Duration::seconds(61));
    assert_eq!(stage.send(Method::GET, "/api/v1/users", &headers, String::new()).await.status, 200);
}
