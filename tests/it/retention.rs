//! What the API destroys when its time has come.

use integration_api::tasks;
use shared::db::Db;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api_stage::Stage;

const DAYS: u16 = 180;

/// A record of the tenant that came in so many days ago, with a sealed secret.
async fn record(stage: &Stage, days_ago: i32) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "WITH batch AS (
             INSERT INTO api.feed_batches (tenant_id, batch_id, feed, client_batch_id, fingerprint, answer, records,
                 data_key_sealed, received_from, received_at)
             VALUES ($1, $2, 'test', $2::text, '', '', 1, 'x', 'test', now() - make_interval(days => $3)))
         INSERT INTO api.feed_records (tenant_id, record_id, batch_id, feed, external_id, identity, identity_original,
             identity_kind, secret_form, secret_sealed, cookies_sealed, extra_sealed, hashes, date_precision, source, targets,
             severity, severity_raw, feed_credential_hash, received_at)
         VALUES ($1, $2, $2, 'test', $2::text, 'ann@x.example', 'ann@x.example', 'email', 'plaintext', 'x', 'x', 'x', '[]',
             'unknown', '{}', '{}', 0, '', '', now() - make_interval(days => $3))",
    )
    .bind(stage.tenant)
    .bind(id)
    .bind(days_ago)
    .execute(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_leaked_longer_ago_than_it_may_be_kept_is_destroyed_and_said_to_be_once() {
    let stage = Stage::new().await;
    let (old, young) = (record(&stage, i32::from(DAYS) + 1).await, record(&stage, i32::from(DAYS) - 1).await);
    let db = Db::connect(&stage.bus.common_as("parapet_api").database).await.unwrap();
    for _ in 0..2 {
        tasks::expire_all(&db, DAYS, &CancellationToken::new()).await.unwrap();
    }
    db.close().await;
    let kept: Vec<(Uuid, bool, bool, bool)> = sqlx::query_as(
        "SELECT record_id, secret_sealed IS NOT NULL, cookies_sealed IS NOT NULL, extra_sealed IS NOT NULL
         FROM api.feed_records ORDER BY record_id",
    )
    .fetch_all(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    assert_eq!(kept, [(old, false, false, false), (young, true, true, true)]);
    let told = stage.audited("").await;
    let told: Vec<_> = told.iter().filter(|event| event.r#type == "feed.secrets_expired").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].details["records"], "1");
    stage.stop().await;
}
