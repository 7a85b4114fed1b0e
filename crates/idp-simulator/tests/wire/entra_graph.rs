//! Graph: permissions, paging, deltas, mitigations.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, APP, HYBRID, PUBLIC_APP, ROOT, SECRET, Stage, TENANT, spec, stage, stage_with};

fn generated(count: u64) -> Value {
    let mut spec = spec();
    spec["generated"] = json!({"seed": 7, "count": count});
    spec
}

async fn follow(stage: &Stage, link: &str) -> Value {
    stage.http.get(link).bearer_auth(stage.token().await).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn tokens_are_checked_for_presence_signature_audience_and_expiry() {
    let stage = stage().await;
    let ask = async |token: Option<String>| {
        let request = stage.http.get(stage.url("/graph/v1.0/users"));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask(None).await, 401);
    assert_eq!(ask(Some("garbage".into())).await, 401);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", APP),
        ("client_secret", SECRET),
        ("scope", "https://graph.microsoft.com/.default"),
    ];
    let elsewhere: Value = stage.token_request(TENANT, &form).await.json().await.unwrap();
    assert_eq!(ask(elsewhere["access_token"].as_str().map(str::to_owned)).await, 401, "another audience");
    let token = stage.token().await;
    assert_eq!(ask(Some(token.clone())).await, 200);
    stage.control(Method::POST, "/clock", &json!({"advance_s": 4000})).await;
    assert_eq!(ask(Some(token)).await, 401, "expired");
}

#[tokio::test]
async fn the_default_properties_do_not_contain_account_enabled() {
    let stage = stage().await;
    let (_, users) = stage.get("/users").await;
    assert!(users["value"][0].get("accountEnabled").is_none());
    assert!(users["value"][0].get("userPrincipalName").is_some());
    let (_, users) = stage.get("/users?$select=id,accountEnabled").await;
    assert_eq!(users["value"][0]["accountEnabled"], true);
    assert_eq!(stage.get("/users?$select=nonsense").await.0, 400);
}

#[tokio::test]
async fn pages_are_capped_and_links_keep_the_query_and_the_host() {
    let stage = stage_with(generated(2500)).await;
    let (status, body) = stage.get("/users?$top=1000").await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("Request_UnsupportedQuery")));
    let (_, first) = stage.get("/users").await;
    assert_eq!(first["value"].as_array().unwrap().len(), 100);

    let (_, mut page) = stage.get("/users?$select=id,userPrincipalName&$top=999").await;
    let mut seen = HashSet::new();
    let mut pages = 1;
    loop {
        for user in page["value"].as_array().unwrap() {
            assert!(user.get("displayName").is_none(), "the selection holds on every page");
            assert!(seen.insert(user["id"].as_str().unwrap().to_owned()));
        }
        let Some(next) = page["@odata.nextLink"].as_str() else { break };
        assert!(next.starts_with(&stage.url("/graph/v1.0/users?")));
        page = follow(&stage, next).await;
        pages += 1;
    }
    assert_eq!((seen.len(), pages), (2503, 3));
}

#[tokio::test]
async fn a_page_token_dies_and_a_forged_one_never_lived() {
    let stage = stage_with(generated(300)).await;
    let (_, page) = stage.get("/users").await;
    let next = page["@odata.nextLink"].as_str().unwrap().to_owned();
    stage.control(Method::POST, "/clock", &json!({"advance_s": 601})).await;
    assert_eq!(follow(&stage, &next).await["error"]["code"], "Directory_ExpiredPageToken");
    let (_, body) = stage.get("/users?$skiptoken=forged").await;
    assert_eq!(body["error"]["code"], "Directory_ExpiredPageToken");
}

#[tokio::test]
async fn advanced_queries_need_header_and_count() {
    let stage = stage_with(generated(50)).await;
    let filter = "$filter=endsWith(userPrincipalName,'@contoso.example')";
    assert_eq!(stage.get(&format!("/users?{filter}")).await.0, 400);
    let request = stage.http.get(stage.url(&format!("/graph/v1.0/users?$count=true&{filter}")));
    let request = request.header("ConsistencyLevel", "eventual").bearer_auth(stage.token().await);
    let body: Value = request.send().await.unwrap().json().await.unwrap();
    assert!(body["@odata.count"].as_u64().unwrap() > 0);
    let (_, plain) = stage.get("/users?$filter=userPrincipalName eq 'ANN@contoso.example'&$select=id").await;
    assert_eq!(plain["value"], json!([{"id": ANN}]));
}

#[tokio::test]
async fn the_log_of_sign_ins_has_everybody_s_newest_first_and_needs_a_permission_and_a_licence() {
    let stage = stage().await;
    let owner = |what: &str| format!("/directories/{TENANT}/accounts/{ANN}/{what}");
    stage.control(Method::POST, &owner("sign-in"), &Value::Null).await;
    stage.control(Method::POST, "/clock", &json!({"advance_s": 60})).await;
    stage.control(Method::POST, &owner("wrong-passwords"), &json!({"count": 2})).await;
    stage.control(Method::POST, "/clock", &json!({"advance_s": 60})).await;
    let form = [
        ("grant_type", "password"),
        ("client_id", PUBLIC_APP),
        ("scope", "openid"),
        ("username", "ann@contoso.example"),
        ("password", "not-it"),
    ];
    assert_eq!(stage.token_request(TENANT, &form).await.status(), 400);
    let codes = |body: &Value| -> Vec<(u64, bool)> {
        let rows = body["value"].as_array().unwrap().iter();
        rows.map(|row| (row["status"]["errorCode"].as_u64().unwrap(), row["appId"] == PUBLIC_APP)).collect()
    };
    let path = format!("/auditLogs/signIns?$filter=userId eq '{ANN}'");
    let (status, all) = stage.get(&path).await;
    assert_eq!(status, 200);
    assert_eq!(codes(&all), [(50126, true), (50126, false), (50126, false), (0, false)]);
    let (_, page) = stage.get(&format!("{path}&$top=1")).await;
    assert_eq!((codes(&page).len(), page["@odata.nextLink"].is_string()), (1, true));
    let (_, good) =
        stage.get(&format!("{path} and status/errorCode eq 0&$orderby=createdDateTime desc")).await;
    assert_eq!(codes(&good), [(0, false)]);
    let since = all["value"][1]["createdDateTime"].as_str().unwrap();
    let (_, later) = stage.get(&format!("{path} and createdDateTime gt {since}")).await;
    assert_eq!(codes(&later).len(), 1);
    assert_eq!(stage.get(&path).await.0, 200, "the fifth");
    assert_eq!(stage.get(&path).await.0, 429);
    stage.configure(json!({"report_throttling": false})).await;
    assert_eq!(stage.get("/auditLogs/signIns?$filter=userId ne 'x'").await.0, 400);
    assert_eq!(stage.get("/auditLogs/signIns?$top=1001").await.0, 400);
    stage.configure(json!({"licences": []})).await;
    let (status, body) = stage.get(&path).await;
    assert_eq!(
        (status, body["error"]["code"].as_str().unwrap()),
        (403, "Authentication_RequestFromNonPremiumTenantOrB2CTenant")
    );
}

#[tokio::test]
async fn sign_in_activity_needs_a_permission_a_licence_and_small_pages() {
    let stage = stage().await;
    stage.control(Method::POST, &format!("/directories/{TENANT}/accounts/{ANN}/sign-in"), &Value::Null).await;
    let path = format!("/users/{ANN}?$select=id,signInActivity");
    let (_, user) = stage.get(&path).await;
    assert!(user["signInActivity"]["lastSuccessfulSignInDateTime"].is_string());
    let (_, never) = stage.get(&format!("/users/{ROOT}?$select=id,signInActivity")).await;
    assert!(never.get("signInActivity").is_none());
    assert_eq!(stage.get("/users?$select=id,signInActivity&$top=999").await.0, 400);
    stage.configure(json!({"licences": []})).await;
    let (status, body) = stage.get(&path).await;
    assert_eq!(
        (status, body["error"]["code"].as_str().unwrap()),
        (403, "Authentication_RequestFromNonPremiumTenantOrB2CTenant")
    );
}

#[tokio::test]
async fn a_delta_lists_everything_once_and_then_changes_and_removals() {
    let stage = stage_with(generated(450)).await;
    let (_, mut page) = stage.get("/users/delta?$select=id,accountEnabled").await;
    let mut seen = HashSet::new();
    while let Some(next) = page["@odata.nextLink"].as_str() {
        seen.extend(page["value"].as_array().unwrap().iter().map(|u| u["id"].as_str().unwrap().to_owned()));
        page = follow(&stage, next).await;
    }
    seen.extend(page["value"].as_array().unwrap().iter().map(|u| u["id"].as_str().unwrap().to_owned()));
    assert_eq!(seen.len(), 453);
    let delta = page["@odata.deltaLink"].as_str().unwrap().to_owned();
    assert_eq!(follow(&stage, &delta).await["value"], json!([]));

    stage.patch(ANN, json!({"status": "disabled"})).await;
    stage.control(Method::DELETE, &format!("/directories/{TENANT}/accounts/{ROOT}"), &Value::Null).await;
    let changes = follow(&stage, &delta).await;
    assert_eq!(
        changes["value"],
        json!([{"id": ANN, "accountEnabled": false}, {"id": ROOT, "@removed": {"reason": "changed"}}])
    );
    let later = changes["@odata.deltaLink"].as_str().unwrap();
    assert_eq!(follow(&stage, later).await["value"], json!([]));
}

#[tokio::test]
async fn a_delta_token_answers_410_after_a_week_or_a_maintenance() {
    let stage = stage().await;
    let (_, page) = stage.get("/users/delta?$select=id&$deltatoken=latest").await;
    assert_eq!(page["value"], json!([]));
    let delta = page["@odata.deltaLink"].as_str().unwrap().to_owned();
    stage.configure(json!({"delta_valid_from": "2999-01-01T00:00:00Z"})).await;
    let gone = stage.http.get(&delta).bearer_auth(stage.token().await).send().await.unwrap();
    assert_eq!(gone.status(), 410);
    assert!(gone.headers()["location"].to_str().unwrap().ends_with("/users/delta?$deltatoken="));
    stage.configure(json!({"delta_valid_from": null})).await;
    stage.control(Method::POST, "/clock", &json!({"advance_s": 8 * 86_400})).await;
    assert_eq!(follow(&stage, &delta).await["error"]["code"], "resyncRequired");
}

#[tokio::test]
async fn mitigations_change_the_account_and_are_logged() {
    let stage = stage().await;
    let (status, body) = stage.graph(Method::POST, &format!("/users/{ANN}/revokeSignInSessions"), None).await;
    assert_eq!((status, &body["value"]), (200, &json!(true)));
    let disabled = json!({"accountEnabled": false});
    assert_eq!(stage.graph(Method::PATCH, &format!("/users/{ANN}"), Some(disabled.clone())).await.0, 204);
    assert_eq!(stage.account(ANN).await["status"], "disabled");
    let ids = json!({"userIds": [ANN]});
    let path = "/identityProtection/riskyUsers";
    assert_eq!(stage.get(&format!("{path}/{ANN}")).await.0, 404);
    assert_eq!(
        stage.graph(Method::POST, &format!("{path}/confirmCompromised"), Some(ids.clone())).await.0,
        204
    );
    assert_eq!(stage.get(&format!("{path}/{ANN}")).await.1["riskState"], "confirmedCompromised");
    assert_eq!(stage.graph(Method::POST, &format!("{path}/dismiss"), Some(ids)).await.0, 204);
    assert_eq!(stage.get(&format!("{path}/{ANN}")).await.1["riskLevel"], "none");
    let actions: Vec<Value> = stage.log("change").await.iter().map(|e| e["action"].clone()).collect();
    assert_eq!(actions, ["revoke_sessions", "disable", "confirm_compromised", "dismiss_risk"]);
    let (status, body) = stage.graph(Method::PATCH, &format!("/users/{ROOT}"), Some(disabled)).await;
    assert_eq!((status, body["error"]["code"].as_str()), (403, Some("Authorization_RequestDenied")));
    assert_eq!(stage.graph(Method::POST, &format!("/users/{ROOT}/revokeSignInSessions"), None).await.0, 200);
}

#[tokio::test]
async fn writing_to_a_hybrid_account_stays_is_undone_or_is_refused() {
    let stage = stage().await;
    let disable = || {
        stage.graph(
            Method::PATCH,
            "/users/aaaaaaaa-0000-4000-8000-000000000003",
            Some(json!({"accountEnabled": false})),
        )
    };
    stage.configure(json!({"hybrid_writes": "refuse"})).await;
    let (status, body) = disable().await;
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("on-premises mastered"));
    stage.configure(json!({"hybrid_writes": {"revert": {"after_s": 120}}})).await;
    assert_eq!(disable().await.0, 204);
    assert_eq!(stage.account(HYBRID).await["status"], "disabled");
    stage.control(Method::POST, "/clock", &json!({"advance_s": 121})).await;
    assert_eq!(stage.account(HYBRID).await["status"], "active");
}

#[tokio::test]
async fn identity_protection_tells_licence_from_permission_and_paces_without_a_hint() {
    let stage = stage().await;
    stage.configure(json!({"licences": ["P1"]})).await;
    let (status, body) = stage.get("/identityProtection/riskyUsers?$top=1").await;
    assert_eq!(status, 403);
    assert!(body["error"]["message"].as_str().unwrap().contains("not licensed"));
    stage.configure(json!({"licences": ["P2"], "risk_throttling": true})).await;
    let token = stage.token().await;
    let url = stage.url("/graph/v1.0/identityProtection/riskyUsers");
    let ask = async || stage.http.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(ask().await.status(), 200);
    let throttled = ask().await;
    assert_eq!(throttled.status(), 429);
    assert!(throttled.headers().get("retry-after").is_none());
}

#[tokio::test]
async fn the_tenant_describes_itself_as_far_as_permitted() {
    let stage = stage().await;
    let (_, body) = stage.get("/organization").await;
    assert_eq!(body["value"][0]["id"], TENANT);
    assert_eq!(body["value"][0]["verifiedDomains"][1]["type"], "Federated");
    let (_, skus) = stage.get("/subscribedSkus").await;
    let plan = &skus["value"][0]["servicePlans"][0];
    assert_eq!(plan["servicePlanId"], "eec0eb4f-6444-4f95-aba0-50c24d67f998");
    let (_, granted) = stage.get(&format!("/servicePrincipals(appId='{APP}')/appRoleAssignments")).await;
    let ids: Vec<&str> =
        granted["value"].as_array().unwrap().iter().filter_map(|a| a["appRoleId"].as_str()).collect();
    assert!(ids.contains(&"df021288-bdef-4463-88db-98f22de89214"));
    assert_eq!(stage.get("/groupSettings").await.1["value"], json!([]));
    stage.configure(json!({"lockout": {"threshold": 6, "duration_s": 60}})).await;
    let (_, settings) = stage.get("/groupSettings").await;
    assert!(
        settings["value"][0]["values"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "LockoutThreshold", "value": "6"}))
    );
    let (_, synchronised) = stage.get("/directory/onPremisesSynchronization").await;
    assert_eq!(synchronised["value"][0]["features"]["passwordSyncEnabled"], true);
    let (_, roles) = stage.get("/roleManagement/directory/roleAssignments").await;
    assert_eq!(roles["value"][0]["principalId"], ROOT);
}

#[tokio::test]
async fn nested_members_need_the_advanced_pair() {
    let stage = stage().await;
    let path = "/groups/99999999-0000-4000-8000-000000000001/transitiveMembers/microsoft.graph.user?$count=true&$select=id";
    assert_eq!(stage.get(path).await.0, 400);
    let request =
        stage.http.get(stage.url(&format!("/graph/v1.0{path}"))).header("ConsistencyLevel", "eventual");
    let body: Value = request.bearer_auth(stage.token().await).send().await.unwrap().json().await.unwrap();
    assert_eq!(body["value"], json!([{"id": ANN}]));
}

#[tokio::test]
async fn a_batch_answers_each_item_by_id_with_its_own_status() {
    let stage = stage().await;
    stage
        .control(
            Method::POST,
            "/faults",
            &json!({"operation": "graph.users.revoke_sessions",
        "effect": {"throttle": {"hint": {"seconds": 7}}}}),
        )
        .await;
    let batch = json!({"requests": [
        {"id": "1", "method": "GET", "url": format!("/users/{ANN}?$select=id")},
        {"id": "2", "method": "POST", "url": format!("/users/{ANN}/revokeSignInSessions"), "headers": {"Content-Type": "application/json"}, "body": {}},
        {"id": "3", "dependsOn": ["2"], "method": "GET", "url": "/users"},
    ]});
    let (status, body) = stage.graph(Method::POST, "/$batch", Some(batch)).await;
    assert_eq!(status, 200);
    let answer =
        |id: &str| body["responses"].as_array().unwrap().iter().find(|r| r["id"] == id).unwrap().clone();
    assert_eq!(answer("1")["body"]["id"], ANN);
    assert_eq!((&answer("2")["status"], &answer("2")["headers"]["Retry-After"]), (&json!(429), &json!("7")));
    assert_eq!(answer("3")["status"], 424);
    let many: Vec<Value> =
        (0..21).map(|n| json!({"id": n.to_string(), "method": "GET", "url": "/users"})).collect();
    assert_eq!(stage.graph(Method::POST, "/$batch", Some(json!({"requests": many}))).await.0, 400);
}

#[tokio::test]
async fn a_risk_call_takes_sixty_ids_and_is_processed_for_a_while() {
    let mut spec = generated(61);
    spec["provider"]["entra_id"]["risk_processing_s"] = json!(30);
    let stage = stage_with(spec).await;
    let (_, users) = stage.get("/users?$select=id").await;
    let ids: Vec<&str> =
        users["value"].as_array().unwrap().iter().map(|u| u["id"].as_str().unwrap()).collect();
    let confirm = async |ids: &[&str]| {
        let body = json!({"userIds": ids});
        stage.graph(Method::POST, "/identityProtection/riskyUsers/confirmCompromised", Some(body)).await.0
    };
    assert_eq!(confirm(&ids[..61]).await, 400);
    assert_eq!(confirm(&ids[..60]).await, 204);
    let risk = format!("/identityProtection/riskyUsers/{}", ids[0]);
    assert_eq!(stage.get(&risk).await.1["isProcessing"], true);
    stage.control(Method::POST, "/clock", &json!({"advance_s": 30})).await;
    assert_eq!(stage.get(&risk).await.1["isProcessing"], false);
    let last = format!("/identityProtection/riskyUsers/{}", ids[60]);
    assert_eq!(stage.get(&last).await.0, 404, "the call of sixty-one marked nobody");
}
