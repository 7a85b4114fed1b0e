//! The token endpoint: refusals, tokens and assertions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::stage::{ANN, APP, PUBLIC_APP, SECRET, TENANT, spec, stage, stage_with};

#[tokio::test]
async fn a_wrong_secret_is_refused_in_the_vendors_words() {
    let stage = stage().await;
    let scope = "https://graph.microsoft.com/.default";
    let form =
        [("grant_type", "client_credentials"), ("client_id", APP), ("client_secret", "no"), ("scope", scope)];
    let response = stage.token_request(TENANT, &form).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["pragma"], "no-cache");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"], "invalid_client");
    assert_eq!(body["error_codes"], json!([7_000_215]));
    let description = body["error_description"].as_str().unwrap();
    assert!(description.starts_with("AADSTS7000215: ") && description.contains(" Trace ID: "));
    assert!(!description.contains('\n'));
    assert!(body["error_uri"].as_str().unwrap().ends_with("/error?code=7000215"));
    assert_eq!(body["timestamp"].as_str().unwrap().len(), "2026-08-13 21:24:29Z".len());
}

#[tokio::test]
async fn refusals_come_in_the_order_of_the_reference() {
    type Form = &'static [(&'static str, &'static str)];
    const UNKNOWN: &str = "33333333-3333-4333-8333-333333333333";
    const NIL: &str = "00000000-0000-0000-0000-000000000000";
    let stage = stage().await;
    let cases: &[(&str, Form, u16, u64)] = &[
        (UNKNOWN, &[("grant_type", "client_credentials"), ("client_id", APP)], 400, 90002),
        ("nonsense", &[("grant_type", "client_credentials"), ("client_id", APP)], 400, 900_023),
        (TENANT, &[("grant_type", "client_credentials")], 400, 900_144),
        (TENANT, &[("grant_type", "client_credentials"), ("client_id", NIL)], 400, 700_038),
        (TENANT, &[("grant_type", "client_credentials"), ("client_id", UNKNOWN)], 400, 700_016),
        (TENANT, &[("grant_type", "client_credentials"), ("client_id", APP)], 401, 7_000_218),
        (TENANT, &[("grant_type", "magic"), ("client_id", APP), ("client_secret", SECRET)], 400, 70003),
        (TENANT, &[("client_id", APP), ("client_secret", SECRET)], 400, 900_144),
        (
            TENANT,
            &[("grant_type", "client_credentials"), ("client_id", APP), ("client_secret", SECRET)],
            400,
            900_144,
        ),
        (
            TENANT,
            &[
                ("grant_type", "client_credentials"),
                ("client_id", APP),
                ("client_secret", SECRET),
                ("scope", "openid"),
            ],
            400,
            1_002_012,
        ),
        (
            TENANT,
            &[
                ("grant_type", "client_credentials"),
                ("client_id", APP),
                ("client_secret", SECRET),
                ("scope", "https://graph.microsoft.us/.default"),
            ],
            400,
            500_011,
        ),
        ("common", &[("grant_type", "password"), ("client_id", PUBLIC_APP)], 400, 9_001_023),
    ];
    for (tenant, form, status, code) in cases {
        let response = stage.token_request(tenant, form).await;
        assert_eq!(response.status().as_u16(), *status, "AADSTS{code}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error_codes"][0], *code);
        assert_eq!(body.get("error_uri").is_none(), [70003, 700_038].contains(code), "AADSTS{code}");
    }
}

#[tokio::test]
async fn a_secret_may_be_expired_or_too_fresh() {
    let mut spec = spec();
    spec["provider"]["entra_id"]["apps"][0]["secrets"] = json!([
        {"value": "old", "expires": "2020-01-01T00:00:00Z"},
        {"value": "new", "usable_from": "2999-01-01T00:00:00Z"},
    ]);
    let stage = stage_with(spec).await;
    for (secret, code) in [("old", 7_000_222), ("new", 7_000_215)] {
        let form = [("grant_type", "client_credentials"), ("client_id", APP), ("client_secret", secret)];
        let body: Value = stage.token_request(TENANT, &form).await.json().await.unwrap();
        assert_eq!(body["error_codes"][0], code);
    }
}

#[tokio::test]
async fn a_token_carries_the_granted_permissions_and_none_at_all_without_a_grant() {
    let stage = stage().await;
    let claims = |token: &str| -> Value {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    };
    let with = claims(&stage.token().await);
    assert_eq!(with["ver"], "1.0");
    assert_eq!(with["iss"], format!("https://sts.windows.net/{TENANT}/"));
    assert!(with["roles"].as_array().unwrap().contains(&json!("User.Read.All")));

    stage.configure(json!({"apps": [{"client_id": APP, "secrets": [{"value": SECRET}]}]})).await;
    let token = stage.token().await;
    assert!(claims(&token).get("roles").is_none());
    let response = stage.http.get(stage.url("/graph/v1.0/users")).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "Authorization_RequestDenied");
}

#[tokio::test]
async fn the_password_grant_checks_the_application_before_the_password() {
    let stage = stage().await;
    let ask = async |form: &[(&str, &str)]| -> Value {
        let mut whole = vec![
            ("grant_type", "password"),
            ("scope", "openid"),
            ("username", "ann@contoso.example"),
            ("password", "wrong"),
        ];
        whole.extend(form);
        stage.token_request(TENANT, &whole).await.json().await.unwrap()
    };
    assert_eq!(ask(&[("client_id", PUBLIC_APP), ("client_secret", "x")]).await["error_codes"][0], 700_025);
    assert_eq!(ask(&[("client_id", APP)]).await["error_codes"][0], 7_000_218);
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 0);
    assert_eq!(ask(&[("client_id", APP), ("client_secret", SECRET)]).await["error_codes"][0], 50126);
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 1);
    // All three reached the token endpoint, so the judge knows of all three.
    assert_eq!(stage.log("submission").await.len(), 3);
}

#[tokio::test]
async fn account_states_answer_with_their_codes_only_behind_the_right_password() {
    let stage = stage().await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (200, None));
    assert_eq!(stage.sign_in("ANN@Contoso.Example", "right-horse").await, (200, None));
    assert_eq!(stage.sign_in("nobody@contoso.example", "x").await, (400, Some(50034)));
    let cases = [
        (json!({"status": "disabled"}), 50057),
        (json!({"status": "active", "second_factor": "required"}), 50076),
        (json!({"second_factor": "unregistered"}), 50079),
        (json!({"second_factor": "none", "gate": "53003"}), 53003),
        (json!({"gate": null, "password_expired": true}), 50055),
    ];
    for (patch, code) in cases {
        stage.patch(ANN, patch).await;
        assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(code)));
        assert_eq!(stage.sign_in("ann@contoso.example", "wrong-horse").await, (400, Some(50126)));
    }
    stage.patch(ANN, json!({"password": null})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(50056)));
    stage.patch(ANN, json!({"guest": true})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(50020)));
}

#[tokio::test]
async fn a_federated_password_is_never_checked_and_agents_fail_in_their_own_words() {
    let stage = stage().await;
    let add = |login: &'static str| json!({"login": login, "password": "right-horse"});
    let path = format!("/directories/{TENANT}/accounts");
    stage.control(reqwest::Method::POST, &path, &add("fay@fed.contoso.example")).await;
    stage.control(reqwest::Method::POST, &path, &add("pia@pta.contoso.example")).await;
    assert_eq!(stage.sign_in("fay@fed.contoso.example", "right-horse").await, (400, Some(50126)));
    assert_eq!(stage.sign_in("pia@pta.contoso.example", "right-horse").await, (200, None));
    for (agents, code) in [("down", 80001), ("timing_out", 80002), ("slow", 80014)] {
        stage.configure(json!({"agents": agents})).await;
        assert_eq!(stage.sign_in("pia@pta.contoso.example", "right-horse").await, (400, Some(code)));
    }
    let realm = |user: &str| {
        stage.http.get(stage.url(&format!("/entra-login/common/userrealm/{user}?api-version=1.0")))
    };
    let federated: Value = realm("fay@fed.contoso.example").send().await.unwrap().json().await.unwrap();
    assert_eq!(federated["account_type"], "Federated");
    let managed: Value = realm("pia@pta.contoso.example").send().await.unwrap().json().await.unwrap();
    assert_eq!(managed["account_type"], "Managed");
}

#[tokio::test]
async fn discovery_names_links_on_the_host_the_caller_used() {
    let stage = stage().await;
    let path = format!("/{TENANT}/v2.0/.well-known/openid-configuration");
    let by_prefix: Value =
        stage.http.get(stage.url(&format!("/entra-login{path}"))).send().await.unwrap().json().await.unwrap();
    assert!(by_prefix["token_endpoint"].as_str().unwrap().starts_with(&stage.url("/entra-login/")));
    let by_host = stage.http.get(stage.url(&path)).header("host", "login.microsoftonline.com");
    let by_host: Value = by_host.send().await.unwrap().json().await.unwrap();
    assert!(by_host["token_endpoint"].as_str().unwrap().starts_with("http://login.microsoftonline.com/"));
    assert_eq!(by_host["msgraph_host"], "graph.microsoft.com");
    let elsewhere =
        stage.http.get(stage.url(&path)).header("host", "login.microsoftonline.us").send().await.unwrap();
    assert_eq!(elsewhere.status(), 400, "a tenant of another cloud is unknown here");
    let unknown = stage.http.get(stage.url("/x")).header("host", "example.org").send().await.unwrap();
    assert_eq!(unknown.status(), 421);
}

/// A certificate made for these tests, with its key; it signs nothing else.
mod assertion {
    use super::*;
    use aws_lc_rs::digest;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    fn pair() -> (String, EncodingKey, String) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["parapet".into()]).unwrap().self_signed(&key).unwrap();
        let pem = certificate.pem();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let print = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der));
        (pem, EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap(), print)
    }

    fn signed(key: &EncodingKey, print: &str, audience: &str, lives_s: i64) -> String {
        let header = Header {
            alg: Algorithm::PS256,
            typ: Some("JWT".into()),
            x5t_s256: Some(print.to_owned()),
            ..Header::default()
        };
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({"aud": audience, "iss": APP, "sub": APP, "jti": uuid::Uuid::new_v4(), "nbf": now,
            "iat": now, "exp": now + lives_s});
        jsonwebtoken::encode(&header, &claims, key).unwrap()
    }

    #[tokio::test]
    async fn assertions_are_checked_for_key_signature_audience_time_and_replay() {
        let (pem, key, print) = pair();
        let (_, stranger, _) = pair();
        let mut spec = spec();
        spec["provider"]["entra_id"]["apps"][0]["certificates"] = json!([pem]);
        let stage = stage_with(spec).await;
        let endpoint = stage.url(&format!("/entra-login/{TENANT}/oauth2/v2.0/token"));
        let ask = async |jwt: String| {
            let form = [
                ("grant_type", "client_credentials"),
                ("client_id", APP),
                ("scope", "https://graph.microsoft.com/.default"),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", &jwt),
            ];
            let body: Value = stage.token_request(TENANT, &form).await.json().await.unwrap();
            (
                body.get("access_token").is_some(),
                body["error_description"].as_str().unwrap_or_default().to_owned(),
            )
        };
        let good = signed(&key, &print, &endpoint, 300);
        assert!(ask(good.clone()).await.0);
        assert!(ask(good).await.1.contains("used before"));
        assert!(ask(signed(&key, "AAAA", &endpoint, 300)).await.1.contains("key was not found"));
        assert!(ask(signed(&stranger, &print, &endpoint, 300)).await.1.contains("signature is invalid"));
        assert!(ask(signed(&key, &print, "https://elsewhere.example/", 300)).await.1.contains("audience"));
        assert!(ask(signed(&key, &print, &endpoint, -1)).await.1.contains("expired"));
        // MSAL for Python pads the thumbprint, and its times have fractions.
        let header =
            Header { alg: Algorithm::PS256, x5t_s256: Some(format!("{print}=")), ..Header::default() };
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({"aud": endpoint, "iss": APP, "sub": APP, "jti": uuid::Uuid::new_v4(),
            "exp": format!("{}.25", now + 300).parse::<f64>().unwrap()});
        assert!(ask(jsonwebtoken::encode(&header, &claims, &key).unwrap()).await.0);
        assert!(ask("garbage".into()).await.1.contains("malformed"));
    }
}
