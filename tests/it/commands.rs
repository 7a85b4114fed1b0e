//! The analyst's commands as they are typed, against the real API.

use serde_json::{Value, json};
use shared::{
    id::{AccountId, IntegrationId},
    wire::v1,
};
use uuid::Uuid;

use crate::api_stage::{Desk, Stage, package};

/// Three accounts at two providers, each with one exposure; two mitigations of the first account.
struct World {
    stage: Stage,
    analyst: Desk,
    accounts: Vec<AccountId>,
    exposures: Vec<Uuid>,
    mitigations: Vec<Uuid>,
}

impl World {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let analyst = stage.desk("ada", &["analyst"]);
        let integration = IntegrationId::new();
        let accounts: Vec<_> = (0..3).map(|_| AccountId::new()).collect();
        let exposures: Vec<_> = (0..3).map(|_| Uuid::now_v7()).collect();
        let mitigations: Vec<_> = (0..2).map(|_| Uuid::now_v7()).collect();
        let mut superuser = stage.bus.superuser().await;
        for (n, account) in (0_i32..).zip(&accounts) {
            let provider = if n < 2 { "entra_id" } else { "okta" };
            sqlx::query(
                "INSERT INTO sync.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
                     login_key, display_name, addresses, state, kind, authority, is_admin, hybrid)
                 VALUES ($1, $2, $3, $4, 'dir', 'obj' || $5, 'User' || $5 || '@x.example', 'user' || $5 || '@x.example', '',
                     '{}', 'active', 'member', 'cloud', false, false)",
            )
            .bind(stage.tenant)
            .bind(account)
            .bind(integration)
            .bind(provider)
            .bind(n)
            .execute(&mut superuser)
            .await
            .unwrap();
            sqlx::query(
                "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id,
                     identifier_id, integration_id, provider, directory_id, object_id, login_at_match, source, secret_form,
                     received_at, history, wanted, state, verdict, verdict_reason, verdict_at, captured_before)
                 VALUES ($1, $2, gen_random_uuid(), gen_random_uuid(), 'flare', $3, gen_random_uuid(), $4, $5, 'dir',
                     'obj' || $6, 'User' || $6 || '@x.example', '{\"id\":\"s\",\"name\":\"Leak\",\"kind\":\"breach\"}', 'plaintext',
                     now() - make_interval(days => $6), $6 = 2, true, 'decided',
                     CASE $6 WHEN 0 THEN 'valid' WHEN 1 THEN 'not_testable' ELSE 'stale' END,
                     CASE $6 WHEN 0 THEN '' WHEN 1 THEN 'federated' ELSE 'changed_since_capture' END, now(),
                     now() - make_interval(days => 10 * ($6 + 1)))",
            )
            .bind(stage.tenant)
            .bind(exposures[usize::try_from(n).unwrap()])
            .bind(account)
            .bind(integration)
            .bind(provider)
            .bind(n)
            .execute(&mut superuser)
            .await
            .unwrap();
        }
        for (id, action, state, held_by) in [
            (mitigations[0], "revoke_sessions", "verified", None),
            (mitigations[1], "disable_account", "held", Some("privileged_account")),
        ] {
            sqlx::query(
                "INSERT INTO mitigation.mitigations (tenant_id, mitigation_id, exposure_id, account_id, integration_id,
                     provider, directory_id, object_id, login, is_admin, action, state, held_by, automatic, released_by)
                 VALUES ($1, $2, $3, $4, $5, 'entra_id', 'dir', 'obj0', 'before@x.example', true, $6, $7, $8, true, $9)",
            )
            .bind(stage.tenant)
            .bind(id)
            .bind(exposures[0])
            .bind(accounts[0])
            .bind(integration)
            .bind(action)
            .bind(state)
            .bind(held_by)
            .bind(held_by.is_none().then_some("bob"))
            .execute(&mut superuser)
            .await
            .unwrap();
        }
        Self { stage, analyst, accounts, exposures, mitigations }
    }

    /// The logins that a list of exposures shows.
    async fn logins(&self, filter: &str) -> Vec<String> {
        let listed = self.analyst.asks(&format!("exposure list {filter}")).await;
        let logins = listed.as_array().unwrap().iter().map(|e| e["login"].as_str().unwrap().to_owned());
        logins.map(|login| login.trim_end_matches("@x.example").to_owned()).collect()
    }
}

fn ids(listed: &Value) -> Vec<Uuid> {
    listed.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_finds_exposures_by_whatever_is_known_of_them() {
    let world = World::new().await;
    let (account, integration) = (world.accounts[1], IntegrationId::new());
    for (filter, found) in [
        ("--sort login --ascending", vec!["User0", "User1", "User2"]),
        ("--sort received", vec!["User0", "User1", "User2"]),
        ("--sort captured --ascending --limit 2", vec!["User2", "User1"]),
        ("--verdict not_testable,stale --sort login", vec!["User2", "User1"]),
        ("--verdict not-testable", vec!["User1"]),
        ("--reason changed_since_capture", vec!["User2"]),
        ("--provider okta", vec!["User2"]),
        ("--provider entra_id --sort login", vec!["User1", "User0"]),
        (&format!("--account {account}"), vec!["User1"]),
        (&format!("--integration {integration}"), vec![]),
        ("--login user0@X.example", vec!["User0"]),
        ("--feed flare --source leak --source-kind breach --limit 1", vec!["User0"]),
        ("--source-kind stealer", vec![]),
        ("--since 36h", vec!["User0", "User1"]),
        ("--until 36h", vec!["User2"]),
        ("--captured-since 25d --captured-until 15d", vec!["User1"]),
        ("--decided-since 1h --sort login", vec!["User2", "User1", "User0"]),
        ("--decided-until 1h", vec![]),
        ("--history", vec!["User2"]),
        ("--history=false --sort login", vec!["User1", "User0"]),
    ] {
        assert_eq!(world.logins(filter).await, found, "{filter}");
    }
    let table = world.analyst.types("exposure list --verdict valid").await;
    assert!(table.lines().count() == 2 && table.contains("entra_id"), "{table}");
    let shown = world.analyst.asks(&format!("exposure show {}", world.exposures[0])).await;
    assert_eq!(shown["mitigations"].as_array().unwrap().len(), 2);
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_sees_what_was_contained_and_what_waits_and_why() {
    let world = World::new().await;
    let [revoked, held] = world.mitigations[..] else { panic!("two mitigations") };
    let (account, exposure) = (world.accounts[0], world.exposures[0]);
    for (filter, found) in [
        (String::new(), vec![held, revoked]),
        ("--state held".into(), vec![held]),
        ("--state held,verified --action revoke_sessions".into(), vec![revoked]),
        (format!("--account {account} --exposure {exposure} --automatic"), vec![held, revoked]),
        (format!("--account {}", world.accounts[1]), vec![]),
        ("--automatic=false".into(), vec![]),
        ("--since 1h".into(), vec![held, revoked]),
        ("--until 1h".into(), vec![]),
    ] {
        let listed = world.analyst.asks(&format!("mitigation list {filter}")).await;
        let mut found_ids = ids(&listed);
        found_ids.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(found_ids, found, "{filter}");
    }
    let table = world.analyst.types("mitigation list --state held").await;
    for word in ["User0@x.example", "disable_account", "held", "privileged_account"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let shown = world.analyst.asks(&format!("mitigation show {revoked}")).await;
    assert_eq!((&shown["state"], &shown["released_by"]), (&"verified".into(), &"bob".into()));
    let (code, said) = world.analyst.fails("mitigation list --state contained").await;
    assert!(code == 2 && said.contains("possible values: planned, held"), "{said}");
    let (code, _) = world.analyst.fails(&format!("mitigation show {}", Uuid::now_v7())).await;
    assert_eq!(code, 5, "not found");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_takes_mitigations_back_by_name_or_since_a_time() {
    let world = World::new().await;
    let [revoked, disabled] = world.mitigations[..] else { panic!("two mitigations") };
    let (code, said) = world.analyst.fails("mitigation undo --reason oops").await;
    assert!(code == 2 && said.contains("--automated-since"), "{said}");
    let (code, _) = world.analyst.fails(&format!("mitigation undo {} --reason oops", Uuid::now_v7())).await;
    assert_eq!(code, 5, "not found");
    let undo = "mitigation undo --automated-since 1h --reason oops";
    let (_, said) = world.analyst.fails(undo).await;
    assert!(said.contains("nothing that was carried out automatically"), "{said}");

    let request = world
        .analyst
        .asks(&format!("mitigation undo {disabled} {revoked} --dismiss-risk --reason oops"))
        .await;
    assert_eq!((&request["undo"], &request["dismiss_risk"]), (&true.into(), &true.into()));
    assert_eq!(request["mitigation_ids"].as_array().unwrap().len(), 2);
    world
        .stage
        .bus
        .execute("UPDATE mitigation.mitigations SET state = 'verified', held_by = NULL, attempt = 1, finished_at = now() WHERE state = 'held'")
        .await;
    let request = world.analyst.asks(undo).await;
    assert!(request["automated_since"].is_string(), "{request}");
    let (_, said) = world.analyst.fails("mitigation undo --automated-since 2999-01-01 --reason oops").await;
    assert!(said.contains("in the past"), "{said}");
    let kept = "SELECT count(*) FROM api.mitigation_requests WHERE undo AND reason = 'oops'";
    assert_eq!(world.stage.bus.count(kept).await, 2, "what was refused left nothing");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_asks_for_validations_and_follows_them() {
    let world = World::new().await;
    let (code, said) = world.analyst.fails("validate").await;
    assert!(code != 0 && said.contains("select some with a filter"), "{said}");
    let one = world.analyst.asks(&format!("validate {} --force", world.exposures[0])).await;
    let many = world.analyst.asks("validate --verdict stale,not_testable --force").await;
    assert_eq!((&one["total"], &many["total"]), (&"1".into(), &"2".into()));
    let listed = world.analyst.asks("validation list").await;
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!((&listed[0]["id"], &listed[1]["id"]), (&many["id"], &one["id"]), "newest first");
    let id = many["id"].as_str().unwrap();
    let shown = world.analyst.asks(&format!("validation show {id}")).await;
    assert_eq!(shown["validation"]["waiting"], "2");
    assert_eq!(shown["results"].as_array().unwrap().len(), 2);
    let table = world.analyst.types(&format!("validation show {id} --limit 1")).await;
    assert!(table.contains("waiting") && table.contains("LOGIN"), "{table}");
    let (code, _) =
        world.stage.desk("vic", &["viewer"]).fails(&format!("validate {}", world.exposures[0])).await;
    assert_eq!(code, 4, "a viewer may not");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_okta_org_is_added_before_its_application_exists_and_completed_afterwards() {
    let mut stage = Stage::new().await;
    stage.tenant = stage.new_tenant(&package(&[v1::ProviderKind::Okta])).await;
    let admin = stage.desk("ann", &["org_admin"]);
    let added = admin.asks("integration add okta --name acme --host acme.okta.com --validate").await;
    let url = added["jwks_url"].as_str().unwrap();
    assert!(url.ends_with("/jwks.json"), "the application needs it first: {added}");
    let (code, said) = admin.fails("integration rotate-key acme").await;
    assert!(code == 3 && said.contains("cannot make the client key now"), "no worker is there: {said}");
    let (code, said) = admin.fails("integration test acme").await;
    assert!(code == 6 && said.contains("then give its client id"), "{said}");
    let (code, said) = admin.fails("integration update acme").await;
    assert!(code == 1 && said.contains("nothing was named"), "{said}");

    let line =
        "integration update acme --client-id 0oa1parapetDemo01x7 --mitigate revoke-sessions --daily-max 1";
    let updated = admin.asks(line).await;
    assert_eq!(updated["okta"]["client_id"], "0oa1parapetDemo01x7");
    let settings = &updated["settings"];
    assert_eq!(settings["mitigation"]["revoke_sessions"], json!({"automated": true, "manual": true}));
    assert_eq!(settings["mitigation"]["disable_account"], json!({"manual": true}), "as it was");
    assert_eq!(settings["validation"], json!({"automated": true, "manual": true, "daily_max": 1}));
    let updated = admin.asks("integration update acme --name fabrikam --no-mitigate --validate false").await;
    assert_eq!(updated["settings"]["mitigation"]["revoke_sessions"], json!({"manual": true}));
    assert_eq!(updated["okta"]["client_id"], "0oa1parapetDemo01x7", "what is not named stays");
    for (filter, found) in
        [("--provider okta --status disabled", 1), ("--status active", 0), ("--provider entra", 0)]
    {
        let listed = admin.asks(&format!("integration list {filter}")).await;
        assert_eq!(listed.as_array().unwrap().len(), found, "{filter}");
    }
    stage.stop().await;
}
