//! A simulator with one Entra tenant, and a client that speaks to it.

use idp_simulator::{Config, Running};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

pub const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
pub const APP: &str = "11111111-2222-4333-8444-555555555555";
pub const PUBLIC_APP: &str = "22222222-3333-4444-8555-666666666666";
pub const SECRET: &str = "Zx8Q~secret+value/with=signs";

/// Every permission the tests use.
pub const PERMISSIONS: &[&str] = &[
    "User.Read.All",
    "User.RevokeSessions.All",
    "User.EnableDisableAccount.All",
    "IdentityRiskyUser.ReadWrite.All",
    "IdentityRiskyUser.Read.All",
    "AuditLog.Read.All",
    "Organization.Read.All",
    "Domain.Read.All",
    "LicenseAssignment.Read.All",
    "Application.Read.All",
    "Directory.Read.All",
    "GroupMember.Read.All",
    "OnPremDirectorySynchronization.Read.All",
];

pub struct Stage {
    pub simulator: Running,
    pub http: reqwest::Client,
}

/// The tenant's specification, for tests that change it first.
pub fn spec() -> Value {
    json!({
        "name": "Contoso",
        "provider": {"entra_id": {
            "tenant_id": TENANT,
            "domains": [
                {"name": "contoso.example"},
                {"name": "fed.contoso.example", "authority": "federated"},
                {"name": "pta.contoso.example", "authority": "pass_through"},
            ],
            "apps": [
                {"client_id": APP, "name": "Parapet", "secrets": [{"value": SECRET}], "permissions": PERMISSIONS},
                {"client_id": PUBLIC_APP, "name": "Password checks", "public": true},
            ],
            "licences": ["P2"],
            "risk_throttling": false,
        }},
        "accounts": [
            {"id": "aaaaaaaa-0000-4000-8000-000000000001", "login": "ann@contoso.example", "password": "right-horse"},
            {"id": "aaaaaaaa-0000-4000-8000-000000000002", "login": "root@contoso.example", "password": "root-horse",
             "roles": ["Global Administrator"]},
            {"id": "aaaaaaaa-0000-4000-8000-000000000003", "login": "hy@contoso.example", "password": "hybrid-horse",
             "hybrid": true},
        ],
        "groups": [
            {"id": "99999999-0000-4000-8000-000000000001", "name": "Outer", "groups": ["99999999-0000-4000-8000-000000000002"]},
            {"id": "99999999-0000-4000-8000-000000000002", "name": "Inner",
             "members": ["aaaaaaaa-0000-4000-8000-000000000001"]},
        ],
    })
}

pub const ANN: &str = "aaaaaaaa-0000-4000-8000-000000000001";
pub const ROOT: &str = "aaaaaaaa-0000-4000-8000-000000000002";
pub const HYBRID: &str = "aaaaaaaa-0000-4000-8000-000000000003";

pub async fn stage() -> Stage {
    stage_with(spec()).await
}

pub async fn stage_with(spec: Value) -> Stage {
    let simulator = idp_simulator::start(Config::default()).await.unwrap();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let stage = Stage { simulator, http };
    stage.control(Method::PUT, "/directories", &spec).await;
    stage
}

impl Stage {
    /// A call to the control port that must succeed.
    pub async fn control(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, body) = self.try_control(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub async fn try_control(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.simulator.control_url());
        let response = self.http.request(method, url).json(body).send().await.unwrap();
        (response.status(), response.json().await.unwrap_or_default())
    }

    pub async fn account(&self, key: &str) -> Value {
        self.control(Method::GET, &format!("/directories/{TENANT}/accounts/{key}"), &Value::Null).await
    }

    pub async fn patch(&self, key: &str, patch: Value) -> Value {
        self.control(Method::PATCH, &format!("/directories/{TENANT}/accounts/{key}"), &patch).await
    }

    pub async fn configure(&self, patch: Value) {
        self.control(Method::PATCH, &format!("/directories/{TENANT}"), &patch).await;
    }

    pub async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.control(Method::GET, &format!("/log?kind={kind}"), &Value::Null).await;
        log["entries"].as_array().unwrap().clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.simulator.addr)
    }

    pub async fn token_request(&self, tenant: &str, form: &[(&str, &str)]) -> Response {
        let url = self.url(&format!("/entra-login/{tenant}/oauth2/v2.0/token"));
        self.http.post(url).form(form).send().await.unwrap()
    }

    /// An app-only token, requested as a client addresses us under our prefix.
    pub async fn token(&self) -> String {
        let scope = self.url("/graph/.default");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", APP),
            ("client_secret", SECRET),
            ("scope", &scope),
        ];
        let body: Value = self.token_request(TENANT, &form).await.json().await.unwrap();
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// A password grant by the public application: status and first code.
    pub async fn sign_in(&self, username: &str, password: &str) -> (u16, Option<u64>) {
        let form = [
            ("grant_type", "password"),
            ("client_id", PUBLIC_APP),
            ("scope", "openid"),
            ("username", username),
            ("password", password),
        ];
        let response = self.token_request(TENANT, &form).await;
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap_or_default();
        (status, body["error_codes"][0].as_u64())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.graph(Method::GET, path, None).await
    }

    pub async fn graph(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, self.url(&format!("/graph/v1.0{path}")));
        request = request.bearer_auth(self.token().await);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }
}
