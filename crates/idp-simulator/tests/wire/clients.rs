//! What official clients send and expect beyond the bare protocol; each of these once kept one of them from working.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, PUBLIC_APP, Stage, TENANT, spec, stage, stage_with};

const OUTER: &str = "99999999-0000-4000-8000-000000000001";
const INNER: &str = "99999999-0000-4000-8000-000000000002";

async fn read(stage: &Stage, path: &str) -> (u16, Value) {
    let answer = stage.http.get(stage.url(path)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

/// The claims of a token, unchecked.
fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

async fn grant(stage: &Stage, form: &[(&str, &str)]) -> Value {
    stage.token_request(TENANT, form).await.json().await.unwrap()
}

async fn sign_in(stage: &Stage) -> Value {
    let form = [
        ("grant_type", "password"),
        ("client_id", PUBLIC_APP),
        ("scope", "User.Read openid profile offline_access"),
        ("username", "ann@contoso.example"),
        ("password", "right-horse"),
        ("client_info", "1"),
        ("x-client-SKU", "MSAL.Python"),
        ("claims", "{}"),
    ];
    grant(stage, &form).await
}

async fn redeem(stage: &Stage, token: &Value) -> Value {
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", PUBLIC_APP),
        ("scope", "Mail.Read openid offline_access"),
        ("refresh_token", token.as_str().unwrap()),
    ];
    grant(stage, &form).await
}

#[tokio::test]
async fn instance_discovery_knows_the_clouds_and_refuses_strangers() {
    let stage = stage().await;
    let path = "/entra-login/common/discovery/instance?api-version=1.1&authorization_endpoint=";
    let (_, known) =
        read(&stage, &format!("{path}https://login.microsoftonline.com/common/oauth2/authorize")).await;
    assert_eq!(known["metadata"][0]["preferred_network"], "login.microsoftonline.com");
    assert!(known["metadata"][0]["aliases"].as_array().unwrap().contains(&json!("login.windows.net")));
    let (status, unknown) =
        read(&stage, &format!("{path}https://login.evil.example/common/oauth2/authorize")).await;
    assert_eq!((status, &unknown["error"]), (400, &json!("invalid_instance")));
}

#[tokio::test]
async fn metadata_of_the_shared_names_leaves_the_tenant_open() {
    let stage = stage().await;
    let (_, common) = read(&stage, "/entra-login/organizations/v2.0/.well-known/openid-configuration").await;
    assert!(common["issuer"].as_str().unwrap().ends_with("/entra-login/{tenantid}/v2.0"));
    assert!(common["token_endpoint"].as_str().unwrap().ends_with("/organizations/oauth2/v2.0/token"));
    assert_eq!(common["cloud_instance_name"], "microsoftonline.com");
}

#[tokio::test]
async fn a_sign_in_tells_who_it_was_in_an_id_token_and_in_client_info() {
    let stage = stage().await;
    let answer = sign_in(&stage).await;
    let identity = claims(&answer["id_token"]);
    assert_eq!(
        (&identity["oid"], &identity["tid"], &identity["aud"]),
        (&json!(ANN), &json!(TENANT), &json!(PUBLIC_APP))
    );
    assert_eq!(identity["preferred_username"], "ann@contoso.example");
    assert!(
        identity["sub"].is_string()
            && identity["iss"].as_str().unwrap().ends_with(&format!("/{TENANT}/v2.0"))
    );
    let info = URL_SAFE_NO_PAD.decode(answer["client_info"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&info).unwrap(), json!({"uid": ANN, "utid": TENANT}));
    assert_eq!(claims(&answer["access_token"])["scp"], "User.Read openid profile offline_access");
}

#[tokio::test]
async fn a_refresh_token_lives_until_sessions_are_revoked_or_the_account_is_disabled() {
    let stage = stage().await;
    let first = sign_in(&stage).await;
    let second = redeem(&stage, &first["refresh_token"]).await;
    assert!(second["access_token"].is_string() && second["refresh_token"].is_string());
    stage.graph(Method::POST, &format!("/users/{ANN}/revokeSignInSessions"), None).await;
    assert_eq!(redeem(&stage, &second["refresh_token"]).await["error_codes"], json!([50173]));
    let third = sign_in(&stage).await;
    stage.patch(ANN, json!({"status": "disabled"})).await;
    assert_eq!(redeem(&stage, &third["refresh_token"]).await["error_codes"], json!([50057]));
    assert_eq!(redeem(&stage, &json!("1.Aforged")).await["error_codes"], json!([9_002_313]));
}

#[tokio::test]
async fn annotations_in_a_patch_say_nothing_new() {
    let stage = stage().await;
    let body = json!({"@odata.type": "#microsoft.graph.user", "accountEnabled": false});
    assert_eq!(stage.graph(Method::PATCH, &format!("/users/{ANN}"), Some(body)).await.0, 204);
    assert_eq!(stage.account(ANN).await["status"], "disabled");
}

#[tokio::test]
async fn headers_inside_a_batch_are_spelt_as_graph_spells_them() {
    let stage = stage().await;
    let batch = json!({"requests": [{"id": "1", "method": "GET", "url": format!("/users/{ANN}")},
        {"id": "2", "method": "GET", "url": format!("https://graph.microsoft.com/v1.0/users/{ANN}")}]});
    let (_, body) = stage.graph(Method::POST, "/$batch", Some(batch)).await;
    let answer =
        |id: &str| body["responses"].as_array().unwrap().iter().find(|r| r["id"] == id).unwrap().clone();
    assert_eq!(answer("1")["headers"]["Content-Type"], "application/json");
    assert!(answer("1")["headers"]["x-ms-resource-unit"].is_string());
    assert_eq!(answer("2")["status"], 400, "only URLs relative to the version are understood");
}

#[tokio::test]
async fn members_are_listed_without_a_cast_as_objects_that_say_what_they_are() {
    let stage = stage().await;
    let (_, body) = stage.get(&format!("/groups/{OUTER}/members?$select=id")).await;
    assert_eq!(body["value"][0]["@odata.type"], "#microsoft.graph.group");
    assert_eq!((&body["value"][0]["id"], body["value"].as_array().unwrap().len()), (&json!(INNER), 1));
    let (_, body) = stage.get(&format!("/groups/{OUTER}/transitiveMembers?$select=id")).await;
    let kinds: Vec<&Value> = body["value"].as_array().unwrap().iter().map(|m| &m["@odata.type"]).collect();
    assert_eq!(kinds, ["#microsoft.graph.user", "#microsoft.graph.group"]);
    let (_, group) = stage.get(&format!("/groups/{INNER}")).await;
    assert_eq!(group["displayName"], "Inner");
    assert_eq!(stage.get("/groups/00000000-0000-4000-8000-00000000000f").await.0, 404);
}

#[tokio::test]
async fn counts_are_plain_text_and_need_the_eventual_index() {
    let mut spec = spec();
    spec["generated"] = json!({"seed": 7, "count": 40});
    let stage = stage_with(spec).await;
    for (path, wanted) in [
        (format!("/groups/{OUTER}/transitiveMembers/microsoft.graph.user/$count"), "1"),
        ("/users/$count".to_owned(), "43"),
        ("/users/$count?$count=true&$filter=userPrincipalName eq 'ann@contoso.example'".to_owned(), "1"),
    ] {
        assert_eq!(stage.get(&path).await.0, 400, "{path}");
        let request =
            stage.http.get(stage.url(&format!("/graph/v1.0{path}"))).header("ConsistencyLevel", "eventual");
        let answer = request.bearer_auth(stage.token().await).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain");
        assert_eq!(answer.text().await.unwrap(), wanted, "{path}");
    }
}

#[tokio::test]
async fn queries_that_are_not_simulated_are_refused_and_not_ignored() {
    let stage = stage().await;
    for query in ["$search=\"displayName:ann\"", "$orderby=displayName", "$expand=manager"] {
        let (status, body) = stage.get(&format!("/users?{query}")).await;
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (400, Some("Request_UnsupportedQuery")),
            "{query}"
        );
    }
}

#[tokio::test]
async fn risky_users_are_filtered_by_their_state() {
    let stage = stage().await;
    let path = "/identityProtection/riskyUsers";
    let ids = json!({"userIds": [ANN]});
    stage.graph(Method::POST, &format!("{path}/confirmCompromised"), Some(ids)).await;
    let (_, found) = stage.get(&format!("{path}?$filter=riskState eq 'confirmedCompromised'")).await;
    assert_eq!(found["value"][0]["id"], ANN);
    let (_, none) = stage.get(&format!("{path}?$filter=riskState eq 'dismissed'")).await;
    assert_eq!(none["value"], json!([]));
}
