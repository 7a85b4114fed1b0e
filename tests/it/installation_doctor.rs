//! `parapet doctor` finds what is wrong with an installation, names it, and says what to do.

use serde_json::Value;

use crate::api_stage::{Desk, Stage};

/// What was found: each check with its result, and whether the command was content.
async fn looked(desk: &Desk, service: &str) -> (bool, Vec<(String, String, Value)>) {
    let file = desk.dir.path().join("database");
    let line = ["--json", "doctor", "--url-file", file.to_str().unwrap(), "--service", service];
    let output = desk.command(line).output().await.unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let found = rows.into_iter().map(|row| (text(&row, "check"), text(&row, "result"), row));
    (output.status.success(), found.collect())
}

fn failed(found: &[(String, String, Value)]) -> Vec<&str> {
    let failed = found.iter().filter(|(_, result, _)| result == "failed");
    failed.map(|(check, ..)| check.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_found_well_and_each_thing_that_is_wrong_is_named_with_what_to_do() {
    let stage = Stage::new().await;
    let desk = stage.desk("ann", &["org_admin"]);
    desk.file("database", stage.bus.superuser_url());
    for schema in ["sync", "validator", "mitigation"] {
        let holder = format!(
            "INSERT INTO {schema}.key_holders (instance, purpose, service, opens, keys)
             VALUES (gen_random_uuid(), 'integration', '{schema}', true, '{{k}}')"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(holder)).execute(&mut stage.bus.superuser().await).await.unwrap();
    }
    let (content, found) = looked(&desk, &stage.http).await;
    assert!(content, "{found:#?}");
    for check in [
        "database",
        "clocks",
        "migrations",
        "roles",
        "attempt gate",
        "keys of sync",
        "outbox of budget",
        "parked",
    ] {
        assert!(found.iter().any(|(name, ..)| name == check), "{check}: {found:#?}");
    }
    let service = found.last().map(|(.., row)| row["found"].to_string()).unwrap();
    assert!(service.contains("ready, version"), "{service}");

    stage
        .bus
        .execute(
            "INSERT INTO audit.outbox (id, topic, body, created_at, ready_at)
                 VALUES (gen_random_uuid(), 't', '', now() - interval '10 minutes', now() - interval '10 minutes');
             INSERT INTO sync.parked (message_id, consumer, body, reason, tries)
                 VALUES (gen_random_uuid(), 'c', '', 'r', 1);
             UPDATE validator.key_holders SET lacks = 'k2';
             DELETE FROM mitigation.key_holders",
        )
        .await;
    let (content, found) = looked(&desk, "http://127.0.0.1:1").await;
    assert!(!content);
    assert_eq!(
        failed(&found),
        ["keys of validator", "keys of mitigation", "outbox of audit", "service http://127.0.0.1:1"]
    );
    let parked = found.iter().find(|(check, ..)| check == "parked").unwrap();
    assert!(parked.1 == "warning" && parked.2["found"] == "sync: 1", "{parked:?}");
    for (_, result, row) in &found {
        assert!(result == "passed" || row["advice"].is_string(), "{row}");
    }

    stage
        .bus
        .execute("DELETE FROM public._sqlx_migrations WHERE version = (SELECT max(version) FROM public._sqlx_migrations)")
        .await;
    let (content, found) = looked(&desk, &stage.http).await;
    assert!(!content && failed(&found).contains(&"migrations"), "{found:#?}");
    let said = desk.command(["doctor", "--url-file", "/nowhere"]).output().await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("database") && said.contains("failed"), "{said}");
    stage.stop().await;
}
