//! Quotas, lagging readers and refusals on request: what a client meets on a bad day.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::stage::{ANN, APP, HYBRID, ROOT, Stage, TENANT, spec, stage, stage_with};

async fn ask(stage: &Stage, token: &str, method: Method, path: &str, body: Value) -> Response {
    let request = stage.http.request(method, stage.url(&format!("/graph/v1.0{path}"))).bearer_auth(token);
    request.json(&body).send().await.unwrap()
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn resource_units_run_out_with_a_warning_a_delay_and_a_scope() {
    let stage = stage().await;
    stage.configure(json!({"resource_units": 10})).await;
    let token = stage.token().await;
    for _ in 0..3 {
        let answer = ask(&stage, &token, Method::GET, "/users", Value::Null).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "x-ms-resource-unit")), (200, "2"));
        assert_eq!(header(&answer, "x-ms-throttle-limit-percentage"), "");
    }
    let warned = ask(&stage, &token, Method::GET, "/users", Value::Null).await;
    assert_eq!(header(&warned, "x-ms-throttle-limit-percentage"), "0.8");
    let cheap = ask(&stage, &token, Method::GET, "/users?$select=id&$top=5", Value::Null).await;
    assert_eq!(header(&cheap, "x-ms-resource-unit"), "1");
    let beyond = ask(&stage, &token, Method::GET, "/users", Value::Null).await;
    assert_eq!(beyond.status(), 429);
    assert!(header(&beyond, "retry-after").parse::<u64>().unwrap() <= 11);
    assert_eq!(header(&beyond, "x-ms-throttle-information"), "ResourceUnitLimitExceeded");
    assert_eq!(
        header(&beyond, "x-ms-throttle-scope"),
        format!("Tenant_Application/ReadWrite/{APP}/{TENANT}")
    );
    stage.control(Method::POST, "/clock", &json!({"advance_s": 11})).await;
    assert_eq!(ask(&stage, &token, Method::GET, "/users", Value::Null).await.status(), 200);
}

#[tokio::test]
async fn writes_have_a_quota_of_their_own_inside_batches_too() {
    let stage = stage().await;
    stage.configure(json!({"writes": 2})).await;
    let item = |id: &str, user: &str| {
        json!({"id": id, "method": "POST", "url": format!("/users/{user}/revokeSignInSessions"),
            "headers": {"Content-Type": "application/json"}, "body": {}})
    };
    let batch = json!({"requests": [item("1", ANN), item("2", ROOT), item("3", HYBRID)]});
    let (status, body) = stage.graph(Method::POST, "/$batch", Some(batch)).await;
    assert_eq!(status, 200);
    let mut statuses: Vec<i64> =
        body["responses"].as_array().unwrap().iter().filter_map(|item| item["status"].as_i64()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(stage.get("/users").await.0, 200, "reads go on");
}

#[tokio::test]
async fn a_lagging_reader_sees_a_change_later() {
    let stage = stage().await;
    stage.configure(json!({"read_lag_s": 30})).await;
    let enabled =
        async || stage.get(&format!("/users/{ANN}?$select=accountEnabled")).await.1["accountEnabled"].clone();
    let disable = json!({"accountEnabled": false});
    assert_eq!(stage.graph(Method::PATCH, &format!("/users/{ANN}"), Some(disable)).await.0, 204);
    assert_eq!((enabled().await, &stage.account(ANN).await["status"]), (json!(true), &json!("disabled")));
    let new = json!({"id": "aaaaaaaa-0000-4000-8000-000000000009", "login": "new@contoso.example"});
    stage.control(Method::POST, &format!("/directories/{TENANT}/accounts"), &new).await;
    assert_eq!(stage.get("/users/new@contoso.example").await.0, 404);
    let listed = async || stage.get("/users").await.1["value"].as_array().unwrap().len();
    assert_eq!(listed().await, 3);
    stage.control(Method::POST, "/clock", &json!({"advance_s": 31})).await;
    assert_eq!((enabled().await, listed().await), (json!(false), 4));
}

#[tokio::test]
async fn a_fault_refuses_with_the_providers_own_code() {
    let stage = stage().await;
    let fault = async |fault: Value| stage.control(Method::POST, "/faults", &fault).await;
    fault(json!({"operation": "entra.password", "effect": {"code": {"code": "90033"}}})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(90033)));
    assert_eq!(stage.log("submission").await[0]["answer"], "not evaluated");
    let effect = json!({"code": {"code": "ServiceUnavailable", "status": 503}});
    fault(json!({"operation": "graph.users.list", "effect": effect})).await;
    let (status, body) = stage.get("/users").await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("ServiceUnavailable")));
}

#[tokio::test]
async fn a_delta_is_narrowed_to_the_objects_it_names() {
    let mut spec = spec();
    spec["generated"] = json!({"seed": 7, "count": 300});
    let stage = stage_with(spec).await;
    let (_, mut page) =
        stage.get(&format!("/users/delta?$select=id&$filter=id eq '{ANN}' or id eq '{ROOT}'")).await;
    let follow = async |link: &str| -> Value {
        stage.http.get(link).bearer_auth(stage.token().await).send().await.unwrap().json().await.unwrap()
    };
    let mut found = Vec::new();
    loop {
        found.extend(page["value"].as_array().unwrap().clone());
        let Some(next) = page["@odata.nextLink"].as_str().map(str::to_owned) else { break };
        page = follow(&next).await;
    }
    assert_eq!(found, [json!({"id": ANN}), json!({"id": ROOT})]);
    stage.patch(HYBRID, json!({"department": "Elsewhere"})).await;
    stage.patch(ANN, json!({"department": "Here"})).await;
    let changed = follow(page["@odata.deltaLink"].as_str().unwrap()).await;
    assert_eq!(changed["value"], json!([{"id": ANN}]));
    assert_eq!(stage.get("/users/delta?$filter=accountEnabled eq true").await.0, 400);
}
