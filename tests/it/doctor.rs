//! The setup doctor: `parapet integration test` tells apart what can be wrong with a connection, and says what to do.

use e2e::Idp;
use serde_json::{Value, json};
use shared::provider::{
    Capability, Provider as _,
    entra::Entra,
    http::{Egress, EgressConfig},
};
use shared::{
    integration::{EntraCloud, EntraConnection},
    secret::SecretBytes,
};

use crate::api_stage::{Desk, Stage};

const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const APP: &str = "11111111-2222-4333-8444-555555555555";
const BARE: &str = "22222222-3333-4444-8555-666666666666";
const STRANGER: &str = "33333333-4444-4555-8666-777777777777";
const SECRET: &str = "Zx8Q~secret+value/with=signs";
const EXPIRED: &str = "Ex8Q~expired";
const FRESH: &str = "Fr8Q~fresh";
const SECRET_ID: &str = "44444444-5555-4666-8777-888888888888";

fn contoso(fresh_from: time::OffsetDateTime) -> Value {
    let at = |at: time::OffsetDateTime| at.format(&time::format_description::well_known::Rfc3339).unwrap();
    let everything = [
        "User.Read.All",
        "User.RevokeSessions.All",
        "User.EnableDisableAccount.All",
        "IdentityRiskyUser.ReadWrite.All",
        "IdentityRiskyUser.Read.All",
        "Directory.Read.All",
        "AuditLog.Read.All",
        "OnPremDirectorySynchronization.Read.All",
    ];
    json!({"name": "contoso", "provider": {"entra_id": {
        "tenant_id": TENANT, "domains": [{"name": "contoso.example"}], "licences": ["P1"],
        "apps": [
            {"client_id": APP, "permissions": everything, "secrets": [{"value": SECRET},
                {"value": EXPIRED, "expires": "2026-01-01T00:00:00Z"},
                {"value": FRESH, "usable_from": at(fresh_from)}]},
            {"client_id": BARE, "permissions": ["User.Read.All"], "secrets": [{"value": SECRET}]},
        ]}},
        "accounts": [{"login": "ada@contoso.example"}]})
}

/// Tests and returns whether it passed, the result of each capability, and what was said to a person.
async fn tested(desk: &Desk, line: &str) -> (bool, Vec<Value>, String) {
    let line = format!("--json {line}");
    let output = desk.command(line.split_whitespace()).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let results = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {said}"));
    (output.status.success(), results, said)
}

fn result<'v>(results: &'v [Value], capability: &str) -> (&'v str, &'v str) {
    let name = format!("CAPABILITY_{}", capability.to_uppercase());
    let found =
        results.iter().find(|r| r["capability"] == name).unwrap_or_else(|| panic!("{name}: {results:?}"));
    (found["reason"].as_str().unwrap_or_default(), found["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_entra_connection_is_told_apart() {
    let idp = Idp::start().await;
    idp.directory(contoso(time::OffsetDateTime::now_utc() + time::Duration::seconds(2)));
    let stage = Stage::with_directories(&idp).await;
    let admin = stage.desk("ann", &["org_admin"]);
    let cases = [
        // directory, application, secret, reason, what the advice has to name
        (TENANT, STRANGER, SECRET, "app_missing", "client id"),
        (STRANGER, APP, SECRET, "tenant_missing", "tenant"),
        ("nowhere.example", APP, SECRET, "tenant_missing", "tenant"),
        (TENANT, APP, "wrong~value", "secret_invalid", "secret's value"),
        (TENANT, APP, SECRET_ID, "secret_id_given", "Give the secret's value"),
        (TENANT, APP, EXPIRED, "secret_expired", "create a new one"),
        (TENANT, APP, FRESH, "", ""),
    ];
    for (n, (directory, client, secret, reason, advice)) in cases.into_iter().enumerate() {
        let file = admin.file("secret", secret);
        let (passed, results, _) = tested(
            &admin,
            &format!(
                "integration add entra --name c{n} --directory {directory} --client-id {client} --secret-file {} --dry-run",
                file.display()
            ),
        )
        .await;
        let (found, message) = result(&results, "read");
        assert_eq!((found, passed), (reason, reason.is_empty()), "{secret}: {message}");
        assert!(message.contains(advice), "{message}");
    }

    // Consent is judged for each capability by itself; a licence is not a permission.
    let file = admin.file("secret", SECRET);
    let bare = format!(
        "integration add entra --name bare --directory {TENANT} --client-id {BARE} --secret-file {}",
        file.display()
    );
    admin.asks(&bare).await;
    let (passed, results, _) = tested(&admin, "integration test bare").await;
    assert!(!passed);
    assert_eq!(result(&results, "read").0, "");
    for (capability, permission) in
        [("revoke_sessions", "User.RevokeSessions.All"), ("disable_account", "User.EnableDisableAccount.All")]
    {
        let (reason, message) = result(&results, capability);
        assert!(reason == "consent_missing" && message.contains(permission), "{reason}: {message}");
    }
    let line = format!(
        "integration add entra --name p2 --directory {TENANT} --client-id {APP} --manual mark-compromised --secret-file {} --dry-run",
        file.display()
    );
    let (_, results, _) = tested(&admin, &line).await;
    let (reason, message) = result(&results, "mark_compromised");
    assert!(reason == "licence_missing" && message.contains("P2"), "{reason}: {message}");

    // What works, but less well than it could, is told to a person.
    let said = admin.fails("integration test bare").await.1;
    for warning in ["admins_unknown", "sign_ins_unknown", "lockout_unknown", "licences_unknown"] {
        assert!(said.contains(&format!("warning: {warning}: ")), "{said}");
    }
    assert!(idp.submissions().iter().all(|s| s.account.is_none()), "nobody's name was used");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_credential_is_shown_and_warned_about() {
    let idp = Idp::start().await;
    let end = (time::OffsetDateTime::now_utc() + time::Duration::days(20)).replace_nanosecond(0).unwrap();
    let text = end.format(&time::format_description::well_known::Rfc3339).unwrap();
    let permissions = ["Directory.ReadWrite.All", "Application.Read.All"];
    idp.directory(json!({"name": "contoso", "provider": {"entra_id": {
        "tenant_id": TENANT, "domains": [{"name": "contoso.example"}],
        "apps": [{"client_id": APP, "permissions": permissions, "secrets": [{"value": SECRET, "expires": text}]}]}},
        "accounts": [{"login": "ada@contoso.example"}]}));
    let stage = Stage::with_directories(&idp).await;
    let admin = stage.desk("ann", &["org_admin"]);
    let file = admin.file("secret", SECRET);
    admin
        .types(&format!(
            "integration add entra --name contoso --directory {TENANT} --client-id {APP} --secret-file {}",
            file.display()
        ))
        .await;
    let tested = admin.command(["integration", "test", "contoso"]).output().await.unwrap();
    let said = String::from_utf8(tested.stderr).unwrap();
    assert!(tested.status.success() && said.contains("warning: secret_expires: "), "{said}");
    admin.types("sync watch contoso").await;
    let shown = admin.asks("integration show contoso").await;
    let health = &shown["sync_health"];
    assert_eq!(health["credential_expires_at"].as_str().unwrap(), text, "{health}");
    for known in ["last_success_at", "next_due_at", "next_full_at"] {
        assert!(health[known].is_string(), "{known}: {health}");
    }
    assert_eq!(stage.bus.count("SELECT expiry_warned_days::bigint FROM sync.directories").await, 30);
    stage.stop().await;
}

/// A certificate and its key, PEM.
fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let made = rcgen::CertificateParams::new(vec!["parapet".into()]).unwrap().self_signed(&key).unwrap();
    (made.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_proves_itself_with_a_certificate_for_reading_and_for_passwords() {
    let idp = Idp::start().await;
    let (known, key) = certificate();
    idp.directory(json!({"name": "contoso", "provider": {"entra_id": {
        "tenant_id": TENANT, "domains": [{"name": "contoso.example"}],
        "apps": [{"client_id": APP, "certificates": [known], "permissions": ["Directory.ReadWrite.All"]}]}}}));
    let stage = Stage::with_directories(&idp).await;
    let admin = stage.desk("ann", &["org_admin"]);
    let add = |pem: &str| {
        let file = admin.file("pem", pem);
        format!(
            "integration add entra --name contoso --directory {TENANT} --client-id {APP} --certificate-file {}",
            file.display()
        )
    };
    let (stranger, strangers_key) = certificate();
    for (pem, complaint) in [
        (known.clone(), "no private key"),
        (key.clone(), "no certificate"),
        (format!("{known}{strangers_key}"), "does not belong"),
    ] {
        let (_, said) = admin.fails(&add(&pem)).await;
        assert!(said.contains(complaint) && said.contains("credentials.entra.certificate_pem"), "{said}");
        assert!(!said.contains("PRIVATE KEY-"), "nothing of it is quoted: {said}");
    }
    let unknown = add(&format!("{stranger}{strangers_key}"));
    let (passed, results, _) = tested(&admin, &format!("{unknown} --dry-run")).await;
    assert_eq!((result(&results, "read").0, passed), ("credential_invalid", false));

    admin.asks(&add(&format!("{key}{known}"))).await;
    let (passed, results, said) = tested(&admin, "integration test contoso").await;
    assert!(passed, "{results:?} {said}");
    assert_eq!(result(&results, "validate").0, "");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_says_what_each_provider_needs_before_anything_is_set_up() {
    let stage = Stage::new().await;
    let viewer = stage.desk("vic", &["viewer"]);
    let said = viewer.types("integration providers").await;
    for part in [
        "User.Read.All (df021288-bdef-4463-88db-98f22de89214)",
        "Okta (not in your package)",
        "Parapet/",
        "okta.users.read",
        "pilot group",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Nobody reads what is printed: that is no reason to panic.
    let mut unread = viewer.command(["integration", "providers"]);
    let mut unread =
        unread.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let ended = unread.wait_with_output().await.unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));

    let listed = viewer.asks("integration providers").await;
    assert_eq!(listed[0]["capabilities"][0]["permissions"][0]["name"], "User.Read.All");
    stage.stop().await;
}

const CLIENT: &str = "0oaparapet0000000001";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_okta_connection_is_told_apart() {
    let idp = Idp::start().await;
    let stage = Stage::with_directories(&idp).await;
    let admin = stage.desk("ann", &["org_admin"]);
    let added = admin
        .asks(&format!("integration add okta --name acme --host acme.okta.com --client-id {CLIENT}"))
        .await;
    let keys = added["jwks_url"].as_str().unwrap().to_owned();
    let scopes = ["okta.users.read", "okta.users.manage", "okta.policies.read", "okta.roles.read"];
    let org = |app: Value| {
        let mut full =
            json!({"client_id": CLIENT, "scopes": scopes, "roles": ["SUPER_ADMIN"], "jwks_uri": keys});
        idp_simulator::model::merge(&mut full, &app);
        json!({"name": "acme", "provider": {"okta": {"org_id": "00oacme0000000000001", "subdomain": "acme",
            "mail_domain": "acme.example", "buckets": null, "apps": [full]}},
            "accounts": [{"login": "ada@acme.example"}]})
    };
    let oauth = |error: &str, description: &str| {
        json!({"operation": "okta.token", "times": 1, "effect": {"answer": {"status": 401,
            "json": {"error": error, "error_description": description}}}})
    };
    let cases: [(Value, Option<Value>, &str, &str, &str); 9] = [
        (json!({"client_id": "0oasomebodyelse00001"}), None, "read", "client_unknown", "client id"),
        (json!({"active": false}), None, "read", "client_unknown", "deactivated"),
        (json!({"jwks_uri": format!("{keys}x")}), None, "read", "jwks_unreachable", "JWKS URL"),
        (
            json!({"scopes": ["okta.users.read"]}),
            None,
            "revoke_sessions",
            "consent_missing",
            "okta.users.manage",
        ),
        (json!({"scopes": []}), None, "read", "consent_missing", "okta.users.read"),
        (json!({"roles": []}), None, "read", "role_missing", "admin role"),
        (
            json!({"roles": ["okta.users.read", "okta.iam.read"], "covers": []}),
            None,
            "read",
            "resource_set_empty",
            "users of a group",
        ),
        (json!({}), Some(oauth("invalid_dpop_proof", "")), "read", "dpop_refused", "clock"),
        (
            json!({}),
            Some(oauth(
                "invalid_client",
                "The client_assertion token must be issued before the current time.",
            )),
            "read",
            "clock",
            "clock",
        ),
    ];
    for (app, fault, capability, reason, advice) in cases {
        idp.directory(org(app.clone()));
        if let Some(fault) = fault {
            idp.fault(fault);
        }
        // A change that changes nothing makes a new adapter: no token of the case before is in use.
        let (passed, results, _) =
            tested(&admin, &format!("integration update acme --client-id {CLIENT} --daily-max 1 --dry-run"))
                .await;
        let (found, message) = result(&results, capability);
        assert_eq!((found, passed), (reason, false), "{app}: {message}");
        assert!(message.contains(advice), "{app}: {message}");
    }
    idp.directory(org(json!({"scopes": ["okta.users.read", "okta.users.manage"]})));
    let passed = admin.command(["integration", "test", "acme"]).output().await.unwrap();
    let said = String::from_utf8(passed.stderr).unwrap();
    assert!(passed.status.success() && said.contains("warning: admins_unknown: "), "{said}");
    stage.stop().await;
}

#[tokio::test]
async fn faults_of_the_network_are_told_apart() {
    let idp = Idp::start().await;
    idp.directory(contoso(time::OffsetDateTime::now_utc()));
    let good = idp.egress_config();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusing = refusing_proxy().await;
    let mut cases: Vec<(EgressConfig, &str)> = vec![
        (EgressConfig { extra_ca: None, ..good.clone() }, "tls_untrusted"),
        (
            EgressConfig { proxy: Some(format!("http://{closed}").parse().unwrap()), ..good.clone() },
            "proxy_unreachable",
        ),
        (
            EgressConfig { proxy: Some(format!("http://{refusing}").parse().unwrap()), ..good.clone() },
            "proxy_refused",
        ),
    ];
    let mut away = good.clone();
    away.resolve.iter_mut().for_each(|fixed| fixed.address = closed);
    cases.push((away, "unreachable"));
    for (config, reason) in cases {
        let connection = EntraConnection {
            cloud: EntraCloud::Global,
            tenant: TENANT.into(),
            client_id: APP.into(),
            ropc_client_id: None,
        };
        let entra =
            Entra::new(Egress::new(&config).unwrap(), connection, SecretBytes::new(SECRET.into())).unwrap();
        let report = entra.test(&[Capability::Read].into()).await;
        let missing = report.capabilities[0].result.clone().unwrap_err();
        assert_eq!((missing.reason, missing.not_granted), (reason, false), "{missing:?}");
    }
}

/// A proxy that refuses every tunnel.
async fn refusing_proxy() -> std::net::SocketAddr {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.readable().await.ok();
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.ok();
        }
    });
    address
}
