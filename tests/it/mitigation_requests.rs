//! What people ask for about many accounts, how far it is, and what can be taken back, as the public API tells it.

use shared::{id::AccountId, wire::v1};
use tonic::Code;
use uuid::Uuid;

use crate::{
    api::reason,
    api_stage::Stage,
    policy::{analyst, bulk, by_feed, hold, integration, listed, people},
};

const ITEMS: &str = "SELECT count(*) FROM api.mitigation_items";

#[tokio::test(flavor = "multi_thread")]
async fn many_accounts_are_asked_for_at_once_by_list_or_filter_and_each_is_meant_once() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 7).await;
    let mut ada = analyst(&stage);
    let mut requests = Vec::new();
    for (selection, key, meant) in
        [(by_feed("FLARE"), "f", 7), (by_feed("FLARE"), "f", 7), (listed(&accounts[..3]), "l", 3)]
    {
        let request = ada.bulk_mitigate(bulk(selection, key)).await.unwrap().into_inner().request.unwrap();
        assert_eq!((request.accounts, request.bulk, request.account_ids.len()), (meant, true, 0));
        requests.push(request);
    }
    assert_eq!(requests[0], requests[1], "asked again with its key, it is the same request");
    assert_eq!(stage.bus.count(ITEMS).await, 10);

    // Nothing is left of what is refused.
    let everybody: Vec<_> = (0..100_001).map(|_| AccountId::new()).collect();
    for (selection, key) in [(by_feed("none"), "n"), (listed(&[]), "0"), (listed(&everybody), "e")] {
        let refused = ada.bulk_mitigate(bulk(selection, key)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "SELECTION"));
    }
    let unknown = ada.bulk_mitigate(bulk(listed(&[accounts[0], AccountId::new()]), "u")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    stage
        .bus
        .execute(
            "UPDATE api.integrations
             SET settings = jsonb_set(settings, '{mitigation,disable_account}', '{\"manual\": false}')",
        )
        .await;
    let off = ada.bulk_mitigate(bulk(by_feed("flare"), "off")).await.unwrap_err();
    assert_eq!(reason(&off), "SWITCHED_OFF");
    stage.bus.execute("UPDATE api.tenants SET mitigation = false").await;
    let unpaid = ada.bulk_mitigate(bulk(by_feed("flare"), "p")).await.unwrap_err();
    assert_eq!(reason(&unpaid), "NOT_ENTITLED");
    assert_eq!(stage.bus.count(ITEMS).await, 10);

    let events = stage.audited("mitigation_request").await;
    let told: Vec<_> =
        events.iter().map(|e| (e.details["accounts"].as_str(), e.details["selected_by"].as_str())).collect();
    assert_eq!(told, [("7", "filter"), ("3", "list")]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_a_deleted_integration_are_counted_in_the_answer_and_in_the_log() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 7).await;
    let move_away = |accounts: Vec<AccountId>| {
        let statement = "UPDATE sync.accounts SET integration_id = $1 WHERE account_id = ANY ($2)";
        sqlx::query(statement).bind(Uuid::now_v7()).bind(accounts)
    };
    let mut root = stage.bus.superuser().await;
    move_away(accounts[..2].to_vec()).execute(&mut root).await.unwrap();
    let mut ada = analyst(&stage);
    for (selection, key) in [(by_feed("flare"), "f"), (listed(&accounts), "l")] {
        for _ in 0..2 {
            let answer = ada.bulk_mitigate(bulk(selection.clone(), key)).await.unwrap().into_inner();
            assert_eq!((answer.request.unwrap().accounts, answer.unreachable_accounts), (7, 2), "{key}");
        }
    }
    let gone = ada.bulk_mitigate(bulk(listed(&accounts[..2]), "g")).await.unwrap_err();
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::FailedPrecondition, "INTEGRATION_GONE"));
    let events = stage.audited("mitigation_request").await;
    let told: Vec<_> = events.iter().map(|e| e.details["unreachable_accounts"].as_str()).collect();
    assert_eq!(told, ["2", "2"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_directory_showed_already_is_nothing_to_undo() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 1).await;
    hold(&stage, "first_run", None, &accounts, 0).await;
    let carried_out =
        "UPDATE mitigation.mitigations SET state = 'verified', held_by = NULL, automatic = true,
                           finished_at = now()";
    stage.bus.execute(carried_out).await;
    let undo = |key: &str| v1::UndoRequest {
        automated_since: Some(prost_types::Timestamp::default()),
        reason: "a false alarm".into(),
        idempotency_key: key.into(),
        ..Default::default()
    };
    let nothing = analyst(&stage).undo(undo("0")).await.unwrap_err();
    assert_eq!((nothing.code(), reason(&nothing).as_str()), (Code::FailedPrecondition, "NOTHING_TO_UNDO"));
    stage.bus.execute("UPDATE mitigation.mitigations SET attempt = 1").await;
    analyst(&stage).undo(undo("1")).await.unwrap();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_tells_how_far_it_is_by_state_and_reason() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 4).await;
    let mut ada = analyst(&stage);
    let request = v1::RequestMitigationRequest {
        account_ids: accounts[..2].iter().map(ToString::to_string).collect(),
        exposure_ids: exposures_of(&stage, &accounts[1..]).await,
        actions: vec![v1::MitigationAction::RevokeSessions.into()],
        reason: "because".into(),
        idempotency_key: "r".into(),
    };
    let asked = ada.request_mitigation(request).await.unwrap().into_inner().request.unwrap();
    assert_eq!((asked.accounts, asked.account_ids.len(), asked.bulk), (4, 4, false), "each account once");
    let of = v1::GetMitigationProgressRequest { request_id: asked.id.clone() };
    let progress = ada.get_mitigation_progress(of.clone()).await.unwrap().into_inner();
    assert_eq!((progress.request, progress.planned, progress.counts.len()), (Some(asked.clone()), 0, 0));

    hold(&stage, "many_accounts", Some(asked.id.parse().unwrap()), &accounts, 0).await;
    stage
        .bus
        .execute(
            "UPDATE mitigation.mitigations SET state = 'verified', held_by = NULL WHERE action = 'revoke_sessions';
             UPDATE mitigation.mitigations SET state = 'refused', reason = 'admin_target', held_by = NULL
             WHERE action = 'disable_account' AND is_admin",
        )
        .await;
    let progress = ada.get_mitigation_progress(of).await.unwrap().into_inner();
    assert_eq!((progress.planned, progress.finished), (8, 5));
    let counts: Vec<_> =
        progress.counts.iter().map(|c| (c.state.as_str(), c.reason.as_str(), c.count)).collect();
    assert_eq!(counts, [("held", "", 3), ("refused", "admin_target", 1), ("verified", "", 4)]);
    stage.stop().await;
}

async fn exposures_of(stage: &Stage, accounts: &[AccountId]) -> Vec<String> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar("SELECT exposure_id FROM validator.exposures WHERE account_id = ANY ($1)")
            .bind(accounts)
            .fetch_all(&mut stage.bus.superuser().await)
            .await
            .unwrap();
    ids.iter().map(ToString::to_string).collect()
}
