//! Event hooks: verification and delivery to a receiver on loopback.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use super::*;

const SCOPES: &[&str] = &[
    "okta.users.read",
    "okta.users.manage",
    "okta.logs.read",
    "okta.eventHooks.manage",
    "okta.eventHooks.read",
];

/// Answers challenges when it is honest, and keeps what is delivered to it.
#[derive(Default)]
struct Receiver {
    honest: bool,
    refuses: AtomicU16,
    got: Mutex<Vec<(String, Value)>>,
}

async fn receiver(honest: bool) -> (Arc<Receiver>, String) {
    let kept = Arc::new(Receiver { honest, ..Receiver::default() });
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (challenged, delivered) = (Arc::clone(&kept), Arc::clone(&kept));
    let challenge = async move |headers: HeaderMap| {
        let challenge = text(&headers, "x-okta-verification-challenge");
        axum::Json(json!({"verification": if challenged.honest { challenge } else { String::new() }}))
    };
    let deliver = async move |headers: HeaderMap, axum::Json(body): axum::Json<Value>| {
        delivered.got.lock().unwrap().push((text(&headers, "authorization"), body));
        match delivered.refuses.swap(0, Ordering::SeqCst) {
            0 => StatusCode::NO_CONTENT,
            status => StatusCode::from_u16(status).unwrap(),
        }
    };
    let router = axum::Router::new().route("/", axum::routing::get(challenge).post(deliver));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (kept, url)
}

impl Receiver {
    /// Waits until so many deliveries came.
    async fn deliveries(&self, count: usize) -> Vec<(String, Value)> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let got = self.got.lock().unwrap().clone();
            if got.len() >= count {
                return got;
            }
            assert!(std::time::Instant::now() < deadline, "{} of {count} came", got.len());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

fn hook(uri: &str, items: &[&str]) -> Value {
    json!({"name": "iem", "events": {"type": "EVENT_TYPE", "items": items}, "channel": {"type": "HTTP",
        "version": "1.0.0", "config": {"uri": uri, "headers": [],
        "authScheme": {"type": "HEADER", "key": "Authorization", "value": "shared-secret"}}}})
}

async fn hooks(stage: &Stage, method: Method, path: &str, body: Value) -> Reply {
    let scope = if method == Method::GET { "okta.eventHooks.read" } else { "okta.eventHooks.manage" };
    stage.call(method, &format!("/api/v1/eventHooks{path}"), scope, body).await
}

async fn suspend(stage: &Stage, step: &str) {
    let done = stage.api(Method::POST, &format!("/api/v1/users/ann/lifecycle/{step}")).await;
    assert_eq!(done.status, 200);
}

#[tokio::test]
async fn a_hook_delivers_what_it_subscribed_to_once_its_place_is_verified() {
    let stage = Stage::with(&json!({}), &json!({"scopes": SCOPES}));
    let (receiver, uri) = receiver(true).await;
    let made = hooks(&stage, Method::POST, "", hook(&uri, &["user.lifecycle.unsuspend"])).await;
    assert_eq!(made.word("verificationStatus"), (200, "UNVERIFIED"));
    let scheme = &made.body["channel"]["config"]["authScheme"];
    assert_eq!(scheme, &json!({"type": "HEADER", "key": "Authorization"}), "the secret is not shown");
    let id = made.body["id"].as_str().unwrap();
    suspend(&stage, "suspend").await;
    suspend(&stage, "unsuspend").await; // nobody is told: the place is not verified
    let verified = hooks(&stage, Method::POST, &format!("/{id}/lifecycle/verify"), Value::Null).await;
    assert_eq!(verified.word("verificationStatus"), (200, "VERIFIED"));
    suspend(&stage, "suspend").await;
    suspend(&stage, "unsuspend").await;
    let got = receiver.deliveries(1).await;
    let (secret, body) = &got[0];
    assert_eq!((secret.as_str(), &body["eventType"]), ("shared-secret", &json!("com.okta.event_hook")));
    assert!(body["source"].as_str().unwrap().ends_with(id));
    let event = &body["data"]["events"][0];
    assert_eq!(event["eventType"], "user.lifecycle.unsuspend");
    assert_eq!(event["target"][0]["alternateId"], "ann@acme.example");
}

#[tokio::test]
async fn a_place_that_does_not_answer_the_challenge_is_not_verified() {
    let stage = Stage::with(&json!({}), &json!({"scopes": SCOPES}));
    let (_, uri) = receiver(false).await;
    let made = hooks(&stage, Method::POST, "", hook(&uri, &["user.session.start"])).await;
    let path = format!("/{}", made.body["id"].as_str().unwrap());
    let refused = hooks(&stage, Method::POST, &format!("{path}/lifecycle/verify"), Value::Null).await;
    assert_eq!(refused.word("errorCode"), (400, "E0000001"));
    assert_eq!(hooks(&stage, Method::GET, &path, Value::Null).await.body["verificationStatus"], "UNVERIFIED");
    assert_eq!(hooks(&stage, Method::DELETE, &path, Value::Null).await.status, 400, "still active");
    hooks(&stage, Method::POST, &format!("{path}/lifecycle/deactivate"), Value::Null).await;
    assert_eq!(hooks(&stage, Method::DELETE, &path, Value::Null).await.status, 204);
    assert_eq!(hooks(&stage, Method::GET, &path, Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_failed_delivery_is_tried_once_more_and_a_refused_one_is_not() {
    let stage = Stage::with(&json!({}), &json!({"scopes": SCOPES}));
    let (receiver, uri) = receiver(true).await;
    let made = hooks(&stage, Method::POST, "", hook(&uri, &["user.lifecycle.suspend"])).await;
    let verify = format!("/{}/lifecycle/verify", made.body["id"].as_str().unwrap());
    hooks(&stage, Method::POST, &verify, Value::Null).await;
    for (status, before) in [(503, 0), (410, 2)] {
        receiver.refuses.store(status, Ordering::SeqCst);
        suspend(&stage, "suspend").await;
        receiver.deliveries(before + 1).await;
        suspend(&stage, "unsuspend").await;
        if status == 503 {
            let got = receiver.deliveries(2).await;
            assert_eq!(got[0].1["eventId"], got[1].1["eventId"], "the same delivery");
        }
    }
    suspend(&stage, "suspend").await;
    let got = receiver.deliveries(4).await;
    assert_ne!(got[2].1["eventId"], got[3].1["eventId"], "410 was not tried again");
}

#[tokio::test]
async fn everything_may_come_twice() {
    let stage = Stage::with(&json!({"hook_duplicates": true}), &json!({"scopes": SCOPES}));
    let (receiver, uri) = receiver(true).await;
    let made = hooks(&stage, Method::POST, "", hook(&uri, &["user.lifecycle.suspend"])).await;
    let verify = format!("/{}/lifecycle/verify", made.body["id"].as_str().unwrap());
    hooks(&stage, Method::POST, &verify, Value::Null).await;
    suspend(&stage, "suspend").await;
    let got = receiver.deliveries(2).await;
    assert_eq!(got[0].1["eventId"], got[1].1["eventId"]);
}

#[tokio::test]
async fn a_hook_leads_to_https_and_to_events_that_are_eligible() {
    let stage = Stage::with(&json!({}), &json!({"scopes": SCOPES}));
    for body in [
        hook("http://elsewhere.example/", &["user.session.start"]),
        hook("https://elsewhere.example/", &["user.authentication.sso"]),
        hook("https://elsewhere.example/", &[]),
    ] {
        assert_eq!(hooks(&stage, Method::POST, "", body).await.word("errorCode"), (400, "E0000001"));
    }
    let weak = Stage::with(&json!({}), &json!({"scopes": SCOPES, "roles": ["USER_ADMIN"]}));
    let body = hook("https://elsewhere.example/", &["user.session.start"]);
    assert_eq!(hooks(&weak, Method::POST, "", body).await.word("errorCode"), (403, "E0000006"));
}
