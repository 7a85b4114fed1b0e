//! Who calls: people and programs, by token or certificate, and for which tenant.

use integration_api::CertifiedService;
use shared::{
    id::TenantId,
    wire::v1::{
        self, exposure_service_client::ExposureServiceClient,
        integration_service_client::IntegrationServiceClient,
        mitigation_service_client::MitigationServiceClient, tenant_service_client::TenantServiceClient,
    },
};
use tonic::{Code, Request};

use crate::{
    api::{batch, created, entra, ingest, reason},
    api_stage::{Api, Stage, package},
};

const FEEDS: &str = "feed-machine.parapet.internal";

async fn listed(api: Api) -> Result<usize, String> {
    let request = v1::ListIntegrationsRequest::default();
    match IntegrationServiceClient::new(api).list_integrations(request).await {
        Ok(answer) => Ok(answer.into_inner().integrations.len()),
        Err(status) => Err(reason(&status)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_not_the_tokens_is_refused_and_audited() {
    let stage = Stage::new().await;
    created(&stage).await;
    let other = stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
    let named = async |tenants: &[&TenantId]| {
        let mut request = Request::new(v1::ListIntegrationsRequest::default());
        for tenant in tenants {
            request.metadata_mut().append("x-parapet-tenant", tenant.to_string().parse().unwrap());
        }
        let answer =
            IntegrationServiceClient::new(stage.by("mallory", &["viewer"])).list_integrations(request).await;
        answer.map(|a| a.into_inner().integrations.len()).map_err(|s| (s.code(), reason(&s)))
    };
    assert_eq!(named(&[&stage.tenant]).await, Ok(1), "control");
    assert_eq!(named(&[&other]).await, Err((Code::PermissionDenied, "TENANT_NOT_LISTED".into())));
    let both = named(&[&stage.tenant, &other]).await;
    assert_eq!(both.unwrap_err().0, Code::InvalidArgument, "of two tenants none is chosen");
    let refused: Vec<_> =
        stage.audited("method").await.into_iter().filter(|e| e.r#type == "tenant.refused").collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    let event = &refused[0];
    assert_eq!(event.tenant_id, stage.tenant.to_string(), "in the chain of the caller's own tenant");
    assert_eq!(event.details["tenant_named"], other.to_string());
    let actor = event.actor.as_ref().unwrap();
    assert_eq!((actor.kind.as_str(), actor.id.as_str()), ("person", "mallory"));
    assert_eq!(event.object_id, "/parapet.v1.IntegrationService/ListIntegrations");

    let nowhere = stage.by_in(TenantId::new(), &["viewer"]);
    assert_eq!(listed(nowhere).await, Err("TENANT_UNKNOWN".into()));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_role_and_a_missing_entitlement_are_different_answers() {
    let stage = Stage::new().await;
    let okta = v1::CreateIntegrationRequest {
        integration: Some(v1::Integration {
            name: "okta".into(),
            config: Some(v1::integration::Config::Okta(v1::OktaConfig {
                host: "acme.okta.com".into(),
                client_id: String::new(),
            })),
            ..Default::default()
        }),
        credentials: None,
        idempotency_key: "k".into(),
    };
    let mut seen = Vec::new();
    for role in ["viewer", "org_admin"] {
        let mut client = IntegrationServiceClient::new(stage.by("ann", &[role]));
        let status = client.create_integration(okta.clone()).await.unwrap_err();
        seen.push((status.code(), reason(&status)));
    }
    let role = (Code::PermissionDenied, "ROLE_MISSING".to_owned());
    assert_eq!(seen, [role, (Code::FailedPrecondition, "NOT_ENTITLED".to_owned())]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_of_a_tenant_add_integrations_once_their_organization_grants_it() {
    let stage = Stage::new().await;
    let add = async |key: &str| {
        let mut client = IntegrationServiceClient::new(stage.by("tom", &["tenant_admin"]));
        client.create_integration(entra("corp", key)).await.map(drop).map_err(|status| reason(&status))
    };
    let decide = async |api: Api, organization: &str, add: bool| {
        let request = v1::UpdateOrganizationSettingsRequest {
            organization_id: organization.into(),
            settings: Some(v1::OrganizationSettings { tenant_admins_add_integrations: add }),
        };
        let answer = TenantServiceClient::new(api).update_organization_settings(request).await;
        answer.map(drop).map_err(|status| reason(&status))
    };
    let admin = || stage.by("ann", &["org_admin"]);
    assert_eq!(add("k1").await, Err("ROLE_MISSING".into()));
    assert_eq!(decide(stage.by("tom", &["tenant_admin"]), "", true).await, Err("ROLE_MISSING".into()));
    let elsewhere = shared::id::OrganizationId::new().to_string();
    assert_eq!(decide(admin(), &elsewhere, true).await, Err("ORGANIZATION_NOT_LISTED".into()));
    assert_eq!(add("k1").await, Err("ROLE_MISSING".into()), "nothing was decided");

    assert_eq!(decide(admin(), "", true).await, Ok(()));
    assert_eq!(add("k1").await, Ok(()));
    let status = IntegrationServiceClient::new(stage.by("vic", &["viewer", "analyst"]))
        .create_integration(entra("more", "k2"))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "ROLE_MISSING", "the grant is for administrators of the tenant");
    let id = stage.organization.to_string();
    let mut operator = stage.operator();
    let end = operator.update_organization_settings(v1::UpdateOrganizationSettingsRequest {
        organization_id: id.clone(),
        settings: Some(v1::OrganizationSettings::default()),
    });
    end.await.unwrap();
    assert_eq!(add("k2").await, Err("ROLE_MISSING".into()), "and ends with the grant");

    let told = stage.audited("organization").await;
    let changes = told.iter().filter(|e| e.r#type == "organization.settings_changed");
    let told: Vec<_> = changes
        .map(|e| {
            (
                e.tenant_id.as_str(),
                e.details["after.tenant_admins_add_integrations"].as_str(),
                e.object_id == id,
            )
        })
        .collect();
    let tenant = stage.tenant.to_string();
    let of = |chain, add| (chain, add, true);
    assert_eq!(
        told.iter().copied().collect::<std::collections::BTreeSet<_>>(),
        [of("", "true"), of(&tenant, "true"), of("", "false"), of(&tenant, "false")].into(),
        "in the installation's chain and in the tenant's"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_person_is_a_service_in_the_audit_log_and_approves_nothing() {
    let stage = Stage::new().await;
    let request = entra("corp", "k1");
    let deployer = stage.program("deployer", &["org_admin", "approver"]);
    let made = IntegrationServiceClient::new(deployer.clone()).create_integration(request).await.unwrap();
    assert_eq!(made.into_inner().integration.unwrap().updated_by, "service:deployer");
    let approve = || v1::ApproveRequest { id: TenantId::new().to_string(), ..Default::default() };
    let status = MitigationServiceClient::new(deployer).approve(approve()).await.unwrap_err();
    assert_eq!(reason(&status), "ROLE_MISSING");
    let person = stage.by("ann", &["org_admin", "approver"]);
    let status = MitigationServiceClient::new(person).approve(approve()).await.unwrap_err();
    assert_ne!(reason(&status), "ROLE_MISSING", "control: a person with the same roles");
    let told = stage.audited("integration").await;
    let actor = told.iter().find(|e| e.r#type == "integration.created").unwrap().actor.clone().unwrap();
    assert_eq!((actor.kind.as_str(), actor.id.as_str()), ("service", "service:deployer"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_asked_for_is_refused_by_an_approver_only() {
    let stage = Stage::new().await;
    created(&stage).await;
    let (ann, tom) = (stage.desk("ann", &["tenant_admin"]), stage.desk("tom", &["tenant_admin"]));
    let pat = stage.desk("pat", &["tenant_admin", "approver"]);
    let ask = async || {
        let asked = ann.asks("budget raise corp --to 4 --reason audit").await;
        asked["id"].as_str().unwrap().to_owned()
    };
    let first = ask().await;
    for line in ["budget approve", "budget decline"] {
        let (code, said) = tom.fails(&format!("{line} {first} --reason x")).await;
        assert!(code == 4 && said.contains("approver"), "{line}: {said}");
    }
    pat.types(&format!("budget decline {first} --reason no")).await;
    ann.types(&format!("budget decline {} --reason mistaken", ask().await)).await;
    let states = ann.asks("budget requests --integration corp").await;
    let states: Vec<_> = states.as_array().unwrap().iter().map(|r| r["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["DAILY_MAX_REQUEST_STATE_WITHDRAWN", "DAILY_MAX_REQUEST_STATE_REFUSED"]);
    let told = stage.audited("method").await;
    let refused: Vec<_> =
        told.iter().map(|e| (e.r#type.as_str(), e.object_id.rsplit('/').next().unwrap())).collect();
    assert_eq!(refused, [("role.refused", "ApproveDailyMax"), ("call.refused", "DeclineDailyMax")]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_calls_with_the_certificate_that_the_deployment_names_and_no_other() {
    let tenant = TenantId::new();
    let feeds = CertifiedService {
        san: FEEDS.into(),
        name: "Feed machine".into(),
        organization: None,
        tenants: [tenant].into(),
        roles: vec!["feed_writer".into()],
    };
    let stage = Stage::with_services(tenant, vec![feeds]).await;
    let machine = || stage.certified("feed-machine");
    assert_eq!(ingest(machine(), vec![batch("b1", 0..3)]).await.unwrap()[0].accepted, 3);
    assert_eq!(listed(machine()).await, Err("ROLE_MISSING".into()), "it has its own roles only");
    assert_eq!(listed(stage.certified("stranger")).await, Err("TOKEN_MISSING".into()));
    assert_eq!(listed(stage.nobody()).await, Err("TOKEN_MISSING".into()));
    assert_eq!(listed(stage.by("vic", &["viewer"])).await, Ok(0), "people go on calling with tokens");
    let forged = IntegrationServiceClient::new(stage.certified_elsewhere("feed-machine"))
        .list_integrations(v1::ListIntegrationsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(reason(&forged), "", "no call gets through with a certificate of another authority: {forged}");

    let other = stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
    let mut request = Request::new(tokio_stream::iter(vec![batch("b2", 0..3)]));
    request.metadata_mut().insert("x-parapet-tenant", other.to_string().parse().unwrap());
    let refused = ExposureServiceClient::new(machine()).ingest_feed_records(request).await.unwrap_err();
    assert_eq!(reason(&refused), "TENANT_NOT_LISTED");
    // A token beside the certificate decides, also one that is worth nothing.
    let mut request = Request::new(tokio_stream::iter(vec![batch("b3", 0..3)]));
    request.metadata_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    let refused = ExposureServiceClient::new(machine()).ingest_feed_records(request).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_INVALID");
    let told = stage.audited("method").await;
    let actor = told.iter().find(|e| e.r#type == "role.refused").unwrap().actor.clone().unwrap();
    assert_eq!(
        (actor.kind.as_str(), actor.id.as_str()),
        ("service", "service:feed-machine.parapet.internal")
    );
    stage.stop().await;
}
