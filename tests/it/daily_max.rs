//! The daily maximum of attempts: what bounds it, and the two administrators who raise it above three.

use integration_api::tasks;
use serde_json::Value;
use shared::{
    db::Db,
    wire::v1::{self, integration_service_client::IntegrationServiceClient},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::created,
    api_stage::{Desk, Stage},
};

const PRECONDITION: i32 = 6;

/// The directory is read to lock an account after so many failed sign-ins.
async fn locks_after(stage: &Stage, threshold: i32) {
    sqlx::query(
        "INSERT INTO sync.directory_policies (tenant_id, integration_id, directory_id, lockout_threshold, read_at)
         SELECT tenant_id, integration_id, 'dir', $1, now() FROM api.integrations
         ON CONFLICT (tenant_id, integration_id) DO UPDATE SET lockout_threshold = excluded.lockout_threshold",
    )
    .bind(threshold)
    .execute(&mut stage.bus.superuser().await)
    .await
    .unwrap();
}

/// What the API does every hour.
async fn has_had_its_time(stage: &Stage) {
    let db = Db::connect(&stage.bus.common_as("parapet_api").database).await.unwrap();
    tasks::expire_all(&db, 180, &CancellationToken::new()).await.unwrap();
    db.close().await;
}

async fn daily_max(desk: &Desk) -> i64 {
    let settings = &desk.asks("integration show corp").await["settings"];
    settings["validation"]["daily_max"].as_i64().unwrap()
}

fn id(request: &Value) -> String {
    request["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_raises_the_daily_maximum_above_half_of_the_threshold_and_a_threshold_that_falls_is_told() {
    let stage = Stage::new().await;
    created(&stage).await;
    let admin = stage.desk("ann", &["tenant_admin"]);
    admin.types("integration update corp --daily-max 3").await;
    admin.types("integration update corp --daily-max 1").await;
    locks_after(&stage, 5).await;
    let (code, said) = admin.fails("integration update corp --daily-max 3").await;
    assert!(
        code == PRECONDITION && said.contains("after 5 failed") && said.contains("Set 2 or less"),
        "{said}"
    );
    let (code, said) = admin.fails("budget raise corp --to 4 --reason audit").await;
    assert!(code == PRECONDITION && said.contains("after 5 failed"), "{said}");
    assert_eq!(daily_max(&admin).await, 1);
    admin.types("integration update corp --daily-max 2").await;

    // Half of five may be set; the owner's reserve leaves one.
    let shown = admin.asks("integration show corp").await;
    assert_eq!(shown["warnings"][0]["reason"], "daily_max_limited", "{shown}");
    let message = shown["warnings"][0]["message"].as_str().unwrap();
    assert!(message.contains("limited to 1,") && message.contains("after 5 failed"), "{message}");
    locks_after(&stage, 4).await;
    assert_eq!(admin.asks("integration list").await[0]["warnings"][0]["reason"], "threshold_too_low");
    // What is stored may be lowered, however high it still is.
    stage
        .bus
        .execute("UPDATE api.integrations SET settings = jsonb_set(settings, '{validation,daily_max}', '5')")
        .await;
    admin.types("integration update corp --daily-max 4").await;
    locks_after(&stage, 10).await;
    let shown = admin.asks("integration show corp").await;
    assert_eq!(shown.get("warnings"), None, "{shown}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_three_attempts_a_day_need_a_second_administrator() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    let (ann, bob) =
        (stage.desk("ann", &["tenant_admin", "approver"]), stage.desk("bob", &["org_admin", "approver"]));
    let analyst = stage.desk("ada", &["analyst"]);
    let (code, said) = ann.fails("integration update corp --daily-max 4").await;
    assert!(code == PRECONDITION && said.contains("second administrator"), "{said}");
    assert_eq!(analyst.fails("budget raise corp --to 4 --reason audit").await.0, 4);

    let asked = ann.asks("budget raise corp --to 4 --reason audit").await;
    assert_eq!(asked["state"], "DAILY_MAX_REQUEST_STATE_WAITING", "{asked}");
    assert_eq!(ann.asks("budget raise corp --to 4 --reason again").await, asked, "asked twice is asked once");
    assert_eq!(bob.fails("budget raise corp --to 5 --reason more").await.0, PRECONDITION, "one at a time");
    assert_eq!(analyst.asks("integration show corp").await["daily_max_request"], asked, "everybody sees it");
    let approve = format!("budget approve {} --reason agreed", id(&asked));
    let (code, said) = ann.fails(&approve).await;
    assert!(code == 4 && said.contains("second administrator"), "{said}");
    assert_eq!(daily_max(&ann).await, 2, "asking changes nothing");
    let approved = bob.asks(&approve).await;
    assert_eq!(
        (&approved["asked_by"], &approved["decided_by"]),
        (&"ann".into(), &"bob".into()),
        "{approved}"
    );
    assert_eq!(bob.asks(&approve).await, approved);
    assert_eq!(daily_max(&ann).await, 4);
    let shown = ann.asks("integration show corp").await;
    assert_eq!((&shown["updated_by"], shown.get("daily_max_request")), (&"bob".into(), None), "{shown}");
    assert_ne!(shown["etag"].as_str().unwrap(), made.etag, "workers see the change");

    // Down alone, up together.
    ann.types("integration update corp --daily-max 2").await;
    assert_eq!(ann.fails("integration update corp --daily-max 4").await.0, PRECONDITION);
    let withdrawn = id(&bob.asks("budget raise corp --to 5 --reason more").await);
    bob.types(&format!("budget decline {withdrawn} --reason not-now")).await;
    let refused = id(&bob.asks("budget raise corp --to 5 --reason more").await);
    ann.types(&format!("budget decline {refused} --reason no")).await;
    for ended in [&withdrawn, &refused] {
        assert_eq!(ann.fails(&format!("budget approve {ended} --reason late")).await.0, PRECONDITION);
    }
    let expired = id(&bob.asks("budget raise corp --to 5 --reason more").await);
    stage.bus.execute("UPDATE api.daily_max_requests SET expires_at = now() WHERE state = 'waiting'").await;
    assert_eq!(ann.fails(&format!("budget approve {expired} --reason late")).await.0, PRECONDITION);
    for _ in 0..2 {
        has_had_its_time(&stage).await;
    }
    // The threshold that is read by then counts, and so does another connection.
    let risky = id(&bob.asks("budget raise corp --to 5 --reason more").await);
    locks_after(&stage, 9).await;
    let (code, said) = ann.fails(&format!("budget approve {risky} --reason agreed")).await;
    assert!(code == PRECONDITION && said.contains("after 9 failed"), "{said}");
    locks_after(&stage, 10).await;
    stage.bus.execute("UPDATE api.integrations SET connection_since = clock_timestamp()").await;
    let (code, said) = ann.fails(&format!("budget approve {risky} --reason agreed")).await;
    assert!(code == PRECONDITION && said.contains("connection was changed"), "{said}");
    let states: Vec<_> = ann
        .asks("budget requests --integration corp")
        .await
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["state"].as_str().unwrap().trim_start_matches("DAILY_MAX_REQUEST_STATE_").to_owned())
        .collect();
    assert_eq!(states, ["WAITING", "EXPIRED", "REFUSED", "WITHDRAWN", "APPROVED"]);

    let mut events: Vec<_> = stage
        .audited("daily_max_request")
        .await
        .into_iter()
        .map(|event| {
            (event.r#type.trim_start_matches("integration.daily_max_").to_owned(), event.actor.unwrap().id)
        })
        .collect();
    events.sort();
    let expected = [
        ("approved", "bob"),
        ("asked", "ann"),
        ("asked", "bob"),
        ("asked", "bob"),
        ("asked", "bob"),
        ("asked", "bob"),
        ("expired", "integration-api"),
        ("refused", "ann"),
        ("withdrawn", "bob"),
    ];
    assert_eq!(events, expected.map(|(what, who)| (what.to_owned(), who.to_owned())));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_people_agreed_on_for_one_directory_is_not_carried_to_another() {
    let stage = Stage::new().await;
    created(&stage).await;
    let (ann, bob) = (stage.desk("ann", &["tenant_admin"]), stage.desk("bob", &["tenant_admin", "approver"]));
    let asked = ann.asks("budget raise corp --to 5 --reason audit").await;
    bob.types(&format!("budget approve {} --reason agreed", id(&asked))).await;
    ann.types("integration update corp --client-id 3f0a4e9c-6a44-4a0e-9d8b-1f2f3c4d5e6f").await;
    assert_eq!(daily_max(&ann).await, 5, "the same directory");
    let mut admin = IntegrationServiceClient::new(stage.by("ann", &["tenant_admin"]));
    let shown = ann.asks("integration show corp").await;
    let entra = v1::EntraConfig { tenant: "fabrikam.onmicrosoft.com".into(), ..Default::default() };
    let request = v1::UpdateIntegrationRequest {
        integration: Some(v1::Integration {
            id: shown["id"].as_str().unwrap().into(),
            config: Some(v1::integration::Config::Entra(entra)),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["entra.tenant".into()] }),
        credentials: None,
    };
    admin.update_integration(request).await.unwrap();
    assert_eq!(daily_max(&ann).await, 3);
    stage.stop().await;
}
