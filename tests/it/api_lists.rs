//! Lists of the public API against real servers: every order, every filter, pages that neither skip nor repeat.

use shared::{
    id::IntegrationId,
    wire::v1::{
        self, audit_service_client::AuditServiceClient, exposure_service_client::ExposureServiceClient,
        identity_service_client::IdentityServiceClient, integration_service_client::IntegrationServiceClient,
        mitigation_service_client::MitigationServiceClient,
        validation_service_client::ValidationServiceClient,
    },
};
use tonic::Code;

use crate::{
    api::{created, reason},
    api_stage::Stage,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_list_answers_in_every_order_and_pages_do_not_skip_or_repeat() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    sqlx::query(
        "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
             integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at, history,
             wanted, state, verdict, verdict_reason, verdict_at)
         SELECT $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', gen_random_uuid(), gen_random_uuid(),
             $2, 'entra_id', 'dir', 'obj' || n, 'user' || n || '@x.example', '{\"id\":\"s\",\"name\":\"Leak\",\"kind\":\"breach\"}',
             'plaintext', now() - make_interval(mins => n / 3), false, true, 'decided',
             CASE n % 3 WHEN 0 THEN 'valid' WHEN 1 THEN 'stale' END, CASE n % 3 WHEN 1 THEN 'already_tried' END,
             CASE WHEN n % 3 < 2 THEN now() END
         FROM generate_series(1, 25) AS n",
    )
    .bind(stage.tenant)
    .bind(made.id.parse::<IntegrationId>().unwrap())
    .execute(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    let mut exposures = ExposureServiceClient::new(stage.by("vic", &["viewer"]));
    for sort in 0..=8 {
        for direction in 0..=2 {
            let mut seen = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = v1::ListExposuresRequest {
                    page_size: 7,
                    page_token,
                    sort,
                    direction,
                    ..Default::default()
                };
                let page = exposures.list_exposures(request).await.unwrap().into_inner();
                seen.extend(page.exposures.into_iter().map(|e| e.id));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            let mut unique = seen.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!((seen.len(), unique.len()), (25, 25), "sort {sort}, direction {direction}");
        }
    }
    let filter = v1::ExposureFilter {
        verdicts: vec![v1::VerdictKind::Pending.into(), v1::VerdictKind::Stale.into()],
        provider: v1::ProviderKind::EntraId.into(),
        source: "LEAK".into(),
        source_kinds: vec![v1::LeakSourceKind::Breach.into()],
        history: Some(false),
        ..Default::default()
    };
    let found = exposures
        .list_exposures(v1::ListExposuresRequest {
            filter: Some(filter.clone()),
            page_size: 3,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.exposures.len(), 3);
    let foreign = v1::ListExposuresRequest { page_token: found.next_page_token, ..Default::default() };
    assert_eq!(
        exposures.list_exposures(foreign).await.unwrap_err().code(),
        Code::InvalidArgument,
        "another filter's token"
    );
    let one = found.exposures[0].id.clone();
    exposures.get_exposure(v1::GetExposureRequest { id: one.clone() }).await.unwrap();

    let mut validations = ValidationServiceClient::new(stage.by("ada", &["analyst"]));
    let bulk = |key: &str, filter| v1::BulkValidateRequest {
        selection: Some(v1::bulk_validate_request::Selection::Filter(filter)),
        idempotency_key: key.into(),
        ..Default::default()
    };
    let asked =
        validations.bulk_validate(bulk("b", filter.clone())).await.unwrap().into_inner().validation.unwrap();
    assert_eq!((asked.total, asked.waiting, asked.decided), (17, 8, 9));
    let again = validations.bulk_validate(bulk("b", filter)).await.unwrap().into_inner().validation.unwrap();
    assert_eq!(again.id, asked.id);
    let nothing = v1::ExposureFilter { feed: "none".into(), ..Default::default() };
    assert_eq!(reason(&validations.bulk_validate(bulk("n", nothing)).await.unwrap_err()), "NOTHING_SELECTED");
    let single = v1::ValidateRequest { exposure_id: one.clone(), force: true, idempotency_key: "v".into() };
    let single = validations.validate(single).await.unwrap().into_inner().validation.unwrap();
    assert_eq!((single.total, single.waiting), (1, 1));
    // What was set aside before the request is still to be decided by it.
    sqlx::query(
        "UPDATE validator.exposures SET state = 'idle', verdict = 'not_testable', verdict_reason = 'switched_off'
         WHERE exposure_id IN (SELECT exposure_id FROM validator.exposures WHERE verdict = 'stale' LIMIT 1)",
    )
    .execute(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    let got = v1::GetValidationRequest { id: asked.id, page_size: 5, page_token: String::new() };
    let got = validations.get_validation(got).await.unwrap().into_inner();
    assert_eq!((got.results.len(), got.next_page_token.is_empty()), (5, false));
    let counted = got.validation.unwrap();
    assert_eq!((counted.total, counted.waiting, counted.decided), (17, 9, 8));
    let listed =
        validations.list_validations(v1::ListValidationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.validations.len(), 2);

    let mut identities = IdentityServiceClient::new(stage.by("vic", &["viewer"]));
    identities
        .list_identities(v1::ListIdentitiesRequest { identifier: "A@x.example".into(), ..Default::default() })
        .await
        .unwrap();
    let mut mitigations = MitigationServiceClient::new(stage.by("ada", &["analyst"]));
    mitigations.list_mitigations(v1::ListMitigationsRequest::default()).await.unwrap();
    let unknown = v1::RequestMitigationRequest {
        exposure_ids: vec![one],
        actions: vec![v1::MitigationAction::RevokeSessions.into()],
        reason: "exposed".into(),
        idempotency_key: "m".into(),
        ..Default::default()
    };
    assert_eq!(
        mitigations.request_mitigation(unknown).await.unwrap_err().code(),
        Code::NotFound,
        "its account is not synced"
    );
    let mut audit = AuditServiceClient::new(stage.by("aud", &["auditor"]));
    let status = audit.search_audit_events(v1::SearchAuditEventsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the audit writer is away");
    let mut hub = IntegrationServiceClient::new(stage.by("vic", &["viewer"]));
    let providers = hub.list_providers(v1::ListProvidersRequest {}).await.unwrap().into_inner().providers;
    assert_eq!(providers.iter().map(|p| p.entitled).collect::<Vec<_>>(), [true, false]);
    stage.stop().await;
}
