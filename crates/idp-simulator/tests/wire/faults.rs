//! Misbehaviour on request, and that the log sees through it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, PUBLIC_APP, ROOT, Stage, TENANT, stage};

async fn fault(stage: &Stage, operation: &str, effect: Value) {
    stage.control(Method::POST, "/faults", &json!({"operation": operation, "effect": effect})).await;
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_is_in_the_log_and_counts() {
    let stage = stage().await;
    fault(&stage, "entra.password", json!("reset")).await;
    let form = [
        ("grant_type", "password"),
        ("client_id", PUBLIC_APP),
        ("scope", "openid"),
        ("username", "ann@contoso.example"),
        ("password", "wrong-horse"),
    ];
    let url = stage.url(&format!("/entra-login/{TENANT}/oauth2/v2.0/token"));
    assert!(stage.http.post(url).form(&form).send().await.is_err());
    let submissions = stage.log("submission").await;
    assert_eq!(submissions.len(), 1);
    assert_eq!(submissions[0]["account"], ANN);
    assert_eq!(submissions[0]["answer"], "400 AADSTS50126");
    assert_eq!(submissions[0]["fault"], "reset");
    assert!(!submissions[0].to_string().contains("wrong-horse"), "passwords are logged as digests only");
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 1);
}

#[tokio::test]
async fn a_throttled_submission_is_logged_but_not_evaluated_and_hints_come_in_every_spelling() {
    let stage = stage().await;
    let hints =
        [json!({"seconds": 12}), json!({"fractional_ms": 2128}), json!({"http_date": 30}), Value::Null];
    for hint in hints {
        fault(&stage, "entra.password", json!({"throttle": {"hint": hint}})).await;
        let url = stage.url(&format!("/entra-login/{TENANT}/oauth2/v2.0/token"));
        let form = [("grant_type", "password"), ("username", "ann@contoso.example"), ("password", "wrong")];
        let response = stage.http.post(url).form(&form).send().await.unwrap();
        assert_eq!(response.status(), 429);
        let spelled = response.headers().get("retry-after").map(|h| h.to_str().unwrap().to_owned());
        match spelled.as_deref() {
            Some("12" | "2.128") | None => {}
            Some(date) => assert!(date.ends_with(" GMT"), "{date}"),
        }
    }
    assert_eq!(stage.log("submission").await.len(), 4);
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 0);
}

#[tokio::test]
async fn answers_turn_into_gateways_pages_strange_json_redirects_and_floods() {
    let stage = stage().await;
    let token = stage.token().await;
    let get = || stage.http.get(stage.url("/graph/v1.0/users")).bearer_auth(&token).send();
    fault(&stage, "graph.users.list", json!({"status": {"status": 503}})).await;
    assert_eq!(get().await.unwrap().status(), 503);
    fault(&stage, "graph.users.list", json!("html")).await;
    assert!(get().await.unwrap().text().await.unwrap().starts_with("<!doctype"));
    fault(&stage, "graph.users.list", json!("wrong_json")).await;
    assert!(get().await.unwrap().json::<Value>().await.unwrap().get("value").is_none());
    fault(&stage, "graph.users.list", json!({"redirect": {"location": "https://evil.example/"}})).await;
    assert_eq!(get().await.unwrap().status(), 307);
    fault(&stage, "graph.users.list", json!({"oversized": {"bytes": 3_000_000}})).await;
    assert!(get().await.unwrap().bytes().await.unwrap().len() >= 3_000_000);
    fault(&stage, "graph.users.list", json!({"delay": {"ms": 300}})).await;
    let before = std::time::Instant::now();
    assert_eq!(get().await.unwrap().status(), 200);
    assert!(before.elapsed().as_millis() >= 300);
    assert_eq!(get().await.unwrap().status(), 200, "every fault fired once");
}

#[tokio::test]
async fn a_fault_waits_for_its_account_lets_some_pass_and_is_reported_until_it_fired() {
    let stage = stage().await;
    let waiting = json!({"directory": "Contoso", "operation": "graph.users.get", "account": "root@contoso.example",
        "skip": 1, "times": 2, "effect": {"status": {"status": 500}}});
    stage.control(Method::POST, "/faults", &waiting).await;
    let status = async |id: &str| stage.get(&format!("/users/{id}")).await.0;
    assert_eq!(status(ANN).await, 200);
    assert_eq!(status(ROOT).await, 200, "the first is let pass");
    assert_eq!(status(ROOT).await, 500);
    let unfired = stage.control(Method::GET, "/faults", &Value::Null).await;
    assert_eq!(unfired[0]["times"], 1);
    assert_eq!(status(ROOT).await, 500);
    assert_eq!(status(ROOT).await, 200);
    assert_eq!(stage.control(Method::GET, "/faults", &Value::Null).await, json!([]));
    let (refused, _) =
        stage.try_control(Method::POST, "/faults", &json!({"operation": "x", "effect": "reset"})).await;
    assert_eq!(refused, 400);
}
