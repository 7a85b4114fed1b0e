//! Tenants as an operator sees them: what they may use until more is granted, and what they use, as numbers.

use shared::{
    id::TenantId,
    wire::v1::{self, integration_service_client::IntegrationServiceClient},
};
use tonic::Code;
use uuid::Uuid;

use crate::{
    api::{created, entra, reason},
    api_stage::{Api, Stage, package},
    policy::{integration, people},
};

async fn create(api: Api, request: v1::CreateIntegrationRequest) -> Result<(), (Code, String)> {
    let answer = IntegrationServiceClient::new(api).create_integration(request).await;
    answer.map(drop).map_err(|status| (status.code(), status.message().to_owned()))
}

/// With identities made from synced accounts.
fn with_identities(key: &str) -> v1::CreateIntegrationRequest {
    let mut request = entra("corp", key);
    let settings = v1::IntegrationSettings { identity_creation: true, ..Default::default() };
    request.integration.as_mut().unwrap().settings = Some(settings);
    request
}

fn okta(key: &str) -> v1::CreateIntegrationRequest {
    let config = v1::OktaConfig { host: "acme.okta.com".into(), client_id: String::new() };
    v1::CreateIntegrationRequest {
        integration: Some(v1::Integration {
            name: "okta".into(),
            config: Some(v1::integration::Config::Okta(config)),
            ..Default::default()
        }),
        credentials: None,
        idempotency_key: key.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_creation_and_okta_are_off_until_they_are_granted() {
    let stage = Stage::new().await;
    let request = v1::CreateTenantRequest {
        id: TenantId::new().to_string(),
        organization_id: stage.organization.to_string(),
        name: "plain".into(),
        ..Default::default()
    };
    let mut operator = stage.operator();
    let made = operator.create_tenant(request.clone()).await.unwrap().into_inner().tenant.unwrap();
    let plain = made.package.unwrap();
    assert_eq!(plain.providers().collect::<Vec<_>>(), [v1::ProviderKind::EntraId]);
    assert!(!plain.identity_creation && plain.validation && plain.mitigation, "{plain:?}");
    assert_eq!((plain.identifier_cap, plain.integration_cap), (100_000, 1));
    assert!(!plain.contact.is_empty());

    let tenant = stage.tenant.to_string();
    let contact = "sales@parapet.example".to_owned();
    let grant = async |package: v1::TenantPackage| {
        let package = v1::TenantPackage { contact: contact.clone(), integration_cap: 2, ..package };
        let request = v1::UpdateTenantPackageRequest { tenant_id: tenant.clone(), package: Some(package) };
        stage.operator().update_tenant_package(request).await.unwrap();
    };
    let admin = || stage.by("ann", &["org_admin"]);
    grant(plain).await;
    for refused in [create(admin(), okta("k1")).await, create(admin(), with_identities("k2")).await] {
        let (code, message) = refused.unwrap_err();
        assert_eq!(code, Code::FailedPrecondition);
        assert!(message.contains(&contact), "a refusal says whom to ask: {message}");
    }
    grant(package(&[v1::ProviderKind::EntraId, v1::ProviderKind::Okta])).await;
    assert_eq!(create(admin(), okta("k1")).await, Ok(()));
    assert_eq!(create(admin(), with_identities("k2")).await, Ok(()));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_integration_stands_still_while_the_package_leaves_its_provider_out() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    stage.activate_all().await;
    let disabled = "SELECT count(*) FROM api.integrations_v WHERE status = 'disabled' AND status_reason = 'not_entitled'";
    assert_eq!(stage.bus.count(disabled).await, 0, "control");
    let admin = || IntegrationServiceClient::new(stage.by("ann", &["org_admin"]));
    let asked = async || {
        let (id, mut client) = (made.id.clone(), admin());
        let test = v1::TestIntegrationRequest { id: id.clone(), ..Default::default() };
        let idempotency_key = Uuid::now_v7().to_string();
        let sync = v1::StartSyncRequest { integration_id: id, full: false, idempotency_key };
        [
            client.test_integration(test).await.map(drop).map_err(|status| reason(&status)),
            client.start_sync(sync).await.map(drop).map_err(|status| reason(&status)),
        ]
    };
    let grant = async |package: v1::TenantPackage| {
        let tenant_id = stage.tenant.to_string();
        let request = v1::UpdateTenantPackageRequest { tenant_id, package: Some(package) };
        stage.operator().update_tenant_package(request).await.unwrap();
    };
    grant(package(&[v1::ProviderKind::Okta])).await;
    let left_out = Err("NOT_ENTITLED".to_owned());
    assert_eq!(asked().await, [left_out.clone(), left_out]);
    assert_eq!(stage.bus.count(disabled).await, 1, "for every service");
    let get = v1::GetIntegrationRequest { id: made.id.clone() };
    let shown = admin().get_integration(get).await.unwrap().into_inner().integration.unwrap();
    let warned = shown.warnings.iter().find(|w| w.reason == "not_entitled").unwrap();
    assert!(warned.message.contains("sales@parapet.example"), "{}", warned.message);
    assert!(stage.audited("sync_run").await.is_empty());

    grant(package(&[v1::ProviderKind::EntraId])).await;
    assert_eq!(stage.bus.count(disabled).await, 0);
    assert_eq!(stage.audited("sync_run").await.len(), 1, "granted again, it is read again at once");
    assert_ne!(asked().await[1], Err("NOT_ENTITLED".to_owned()));
    stage.stop().await;
}

/// Two people with three exposures, an attempt, two mitigations of which one was carried out, and what is long past.
async fn used(stage: &Stage, tenant: TenantId, integration: Uuid) {
    people(stage, tenant, integration, 2).await;
    let mut superuser = stage.bus.superuser().await;
    for (statement, days) in [
        ("UPDATE validator.exposures SET created_at = now() - make_interval(days => $2) WHERE tenant_id = $1
          AND exposure_id = (SELECT exposure_id FROM validator.exposures WHERE tenant_id = $1 LIMIT 1)", 31),
        ("INSERT INTO validator.attempts (attempt_id, tenant_id, exposure_id, work_id, created_at)
          VALUES (gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), now() - make_interval(days => $2))", 29),
        ("INSERT INTO validator.attempts (attempt_id, tenant_id, exposure_id, work_id, created_at)
          VALUES (gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), now() - make_interval(days => $2))", 31),
        ("INSERT INTO mitigation.mitigations (tenant_id, mitigation_id, exposure_id, account_id, integration_id, provider,
              directory_id, object_id, login, is_admin, action, state, reason, automatic, created_at)
          SELECT $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'entra_id', 'dir', 'obj', 'x',
              false, 'revoke_sessions', state, 'not_entitled', true, now() - make_interval(days => $2)
          FROM unnest(ARRAY['done', 'refused']) AS state", 1),
        ("INSERT INTO sync.usage (tenant_id, identifiers) VALUES ($1, 5 + $2)", 2),
    ] {
        sqlx::query(statement).bind(tenant).bind(days).execute(&mut superuser).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_a_tenant_uses_as_numbers_and_of_that_tenant_only() {
    let stage = Stage::new().await;
    let corp = integration(&stage).await;
    let other = stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
    used(&stage, stage.tenant, corp).await;
    let operator = stage.desk("olga", &["operator"]);
    let usage = async |tenant: TenantId| operator.asks(&format!("tenant usage {tenant}")).await[0].clone();
    let shown = usage(stage.tenant).await;
    for (field, expected) in [
        ("identifiers", 7),
        ("identifier_cap", 100_000),
        ("integrations", 1),
        ("integration_cap", 1),
        ("exposures", 2),
        ("attempts", 1),
        ("mitigations", 1),
    ] {
        assert_eq!(shown[field], expected, "{field} of {shown}");
    }
    let empty = usage(other).await;
    for field in ["identifiers", "integrations", "exposures", "attempts", "mitigations"] {
        assert_eq!(empty[field], 0, "{field} of {empty}");
    }
    assert_eq!(operator.asks("tenant usage").await.as_array().unwrap().len(), 2);
    let admin = stage.desk("ann", &["org_admin", "tenant_admin", "analyst", "viewer", "auditor"]);
    assert_eq!(admin.fails(&format!("tenant usage {other}")).await.0, 4);
    let nobodys = v1::GetTenantUsageRequest { tenant_id: TenantId::new().to_string() };
    let unknown = stage.operator().get_tenant_usage(nobodys).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown)), (Code::NotFound, "NOT_FOUND".into()));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_made_and_changed_as_an_operator_types_it() {
    let stage = Stage::new().await;
    let operator = stage.desk("olga", &["operator"]);
    operator.types("organization create globex").await;
    let make =
        "tenant create emea --organization globex --contact sales@globex.example --time-zone Europe/Berlin";
    let made = operator.asks(make).await;
    assert_eq!(operator.asks(make).await, made, "typed again it changes nothing");
    assert_eq!(made["package"]["providers"], serde_json::json!(["PROVIDER_KIND_ENTRA_ID"]));
    assert_eq!(made["package"].get("identity_creation"), None, "off");
    let change = "tenant package emea --providers entra-id,okta --identity-creation true --mitigation false \
                  --identifier-cap 500";
    let changed = operator.asks(change).await;
    let package = &changed["package"];
    assert_eq!(package["providers"].as_array().unwrap().len(), 2);
    assert_eq!((&package["identity_creation"], package.get("mitigation")), (&true.into(), None));
    assert_eq!(
        (&package["identifier_cap"], &package["validation"], &package["contact"]),
        (&"500".into(), &true.into(), &"sales@globex.example".into()),
        "what was not named stays"
    );
    let ann = stage.desk("ann", &["org_admin"]);
    assert_eq!(ann.fails(change).await.0, 4);
    let shown = ann.asks("organization settings --tenant-admins-add-integrations true").await;
    assert_eq!(shown["organization_id"], stage.organization.to_string());
    assert_eq!(ann.asks("organization settings").await["tenant_admins_add_integrations"], true);
    let globex = made["organization_id"].as_str().unwrap();
    assert_eq!(ann.fails(&format!("organization settings --organization {globex}")).await.0, 4);
    stage.stop().await;
}
