//! The audit log as an auditor meets it at the command line: searched, followed, exported and verified elsewhere.

use std::time::Duration;

use serde_json::Value;
use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::Db,
    id::{CauseId, EventId, IntegrationId},
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::api_stage::{Desk, Stage};

/// As many as are signed at once.
const MANY: usize = 1000;

async fn stage() -> (Stage, Desk) {
    let mut stage = Stage::new().await;
    stage.start_audit_writer().await;
    let auditor = stage.desk("iris", &["auditor"]);
    (stage, auditor)
}

async fn record(stage: &Stage, events: &[Event]) {
    let db = Db::connect(&stage.bus.common_as("parapet_api").database).await.unwrap();
    for some in events.chunks(100) {
        let mut tx = db.tenant(stage.tenant).await.unwrap();
        audit::record_many(&mut tx, some).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn verdict(stage: &Stage, message: &str) -> Event {
    let actor = Actor::Service("credential-validator");
    Event::new(Some(stage.tenant), names::EXPOSURE_VERDICT, actor, Outcome::Info, message)
        .user("00u1", "ann@example.com")
}

async fn until_chained(stage: &Stage, condition: &str, count: i64) {
    let tenant = stage.tenant;
    let of = format!("SELECT count(*) FROM audit.events WHERE tenant_id = '{tenant}' AND {condition}");
    stage.bus.until_count(Box::leak(of.into_boxed_str()), count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_verified_without_the_installation_and_what_was_done_to_it_is_found() {
    let (stage, auditor) = stage().await;
    let events: Vec<_> = (0..MANY).map(|n| verdict(&stage, &format!("=verdict, {n}"))).collect();
    record(&stage, &events).await;
    stage.bus.until_count("SELECT count(*) FROM audit.checkpoints WHERE sequence >= 1000", 1).await;

    let here = auditor.asks("audit verify").await;
    let key = here["public_keys"][0].as_str().unwrap();
    let path = auditor.dir.path().join("log.ndjson");
    let file = path.display();
    auditor.types(&format!("audit export --output {file}")).await;
    let shown = auditor.asks(&format!("audit verify --file {file} --key {key}")).await;
    assert_eq!(
        (&shown["intact"], &shown["first"], &shown["checkpoints"]),
        (&true.into(), &1.into(), &1.into())
    );
    let exported = shown["events"].as_u64().unwrap();
    assert!(exported >= 1000 && shown["signed_to"].as_u64().unwrap() >= 1000, "{shown}");

    let lines: Vec<String> =
        std::fs::read_to_string(&path).unwrap().lines().map(|l| format!("{l}\n")).collect();
    let mut changed = lines.clone();
    changed[500] = changed[500].replace("=verdict", "=judgement");
    let (mut removed, mut inserted, mut reordered) = (lines.clone(), lines.clone(), lines.clone());
    removed.remove(500);
    inserted.insert(500, lines[10].clone());
    reordered.swap(500, 501);
    for (what, lines, fault) in [
        ("changed", changed, "was changed"),
        ("removed", removed, "stands where event 500 belongs"),
        ("inserted", inserted, "stands where event 500 belongs"),
        ("reordered", reordered, "stands where event 500 belongs"),
    ] {
        let file = auditor.file(what, lines.concat());
        let (code, said) =
            auditor.fails(&format!("audit verify --file {} --key {key}", file.display())).await;
        assert!(code != 0 && said.contains(fault), "{what}: {said}");
    }
    let another = "00".repeat(32);
    let (_, said) = auditor.fails(&format!("audit verify --file {file} --key {another}")).await;
    assert!(said.contains("not signed by a trusted key"), "{said}");

    // The other formats have every event too, and their own way of saying where it stands.
    let csv = auditor.types("audit export --format csv").await;
    assert!(csv.starts_with("sequence,id,") && csv.contains("\"'=verdict, 7\""), "a formula");
    let ocsf = auditor.types("audit export --format ocsf").await;
    let ocsf: Vec<Value> = ocsf.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(ocsf.iter().zip(1..).all(|(event, n)| event["metadata"]["sequence"] == n));
    assert!(ocsf.len() as u64 >= exported, "exports are in the log too");

    // Each export is in the log: before anything was handed out, and how it ended.
    until_chained(&stage, "type = 'audit.exported' AND outcome = 'success'", 3).await;
    let told = auditor.asks("audit search --type audit.exported --outcome success").await;
    assert_eq!(told[2]["details"]["events"], exported.to_string(), "{told}");
    assert_eq!(told[2]["actor"]["id"], "iris");
    until_chained(&stage, "type = 'audit.exported' AND outcome = 'intent'", 3).await;

    // A part begins where it is asked to, and is nobody else's.
    let none = auditor.types("audit export --until 2020-01-01").await;
    assert_eq!(none.lines().count(), 2, "{none}");
    let analyst = stage.desk("ada", &["analyst"]);
    assert_eq!(analyst.fails("audit export").await.0, 4);
    assert_eq!(auditor.fails("audit export --installation").await.0, 4);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_words_and_says_when_there_is_more_than_a_week() {
    let (stage, auditor) = stage().await;
    let old = verdict(&stage, "the password of an old leak works");
    record(&stage, &[old, verdict(&stage, "a leaked password does not work")]).await;
    until_chained(&stage, "type = 'exposure.verdict'", 2).await;
    stage
        .bus
        .execute("UPDATE audit.events SET occurred_at = occurred_at - interval '30 days' WHERE message LIKE '%old%'")
        .await;
    let found = async |arguments: &[&str]| {
        let typed = ["--json", "audit", "search", "--type", "exposure.verdict"];
        let output = auditor.command(typed.iter().chain(arguments)).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (found.iter().map(|e| e["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), said)
    };
    let (week, said) = found(&[]).await;
    assert_eq!(week, ["a leaked password does not work"]);
    assert!(said.contains("there are older events"), "{said}");
    assert_eq!(found(&["--since", "90d"]).await.0.len(), 2);
    assert!(found(&["--since", "200d"]).await.1.contains("90 days"));
    assert_eq!(found(&["--since", "90d", "--text", "PASSWORD works"]).await.0.len(), 1);
    assert_eq!(found(&["--since", "90d", "--text", "password -old"]).await.0.len(), 1);
    assert!(found(&["--text", "\"password leaked\""]).await.0.is_empty());
    let account = EventId::new().to_string();
    assert!(found(&["--account", &account]).await.1.contains("no such account"));

    let types = auditor.asks("audit types").await;
    let entry = types.as_array().unwrap().iter().find(|t| t["name"] == "exposure.verdict").unwrap();
    assert_eq!(entry["about"], serde_json::json!(["integration", "user", "exposure"]));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_leads_from_the_feed_record_to_the_undo_with_what_people_asked_for() {
    let (stage, auditor) = stage().await;
    let [batch, exposure, request] = [(); 3].map(|()| CauseId(EventId::new().uuid()));
    let person = || Actor::caller("ada", "Ada");
    let event =
        |kind, actor, outcome, cause| Event::new(Some(stage.tenant), kind, actor, outcome, "").cause(cause);
    let validator = || Actor::Service("credential-validator");
    let rule = || Actor::Rule("automated mitigation");
    record(
        &stage,
        &[
            event(names::FEED_BATCH_RECEIVED, person(), Outcome::Success, batch),
            event(names::EXPOSURE_RECEIVED, validator(), Outcome::Info, exposure)
                .detail("batch_id", batch)
                .integration(IntegrationId::new()),
            event(names::EXPOSURE_VERDICT, validator(), Outcome::Info, exposure),
            event(names::MITIGATION_PERFORMED, rule(), Outcome::Success, exposure),
            event(names::MITIGATION_VERIFIED, rule(), Outcome::Success, exposure),
            event(names::MITIGATION_UNDO_REQUESTED, person(), Outcome::Success, request),
            event(names::MITIGATION_PERFORMED, person(), Outcome::Success, request)
                .user("00u1", "ann@example.com")
                .detail("exposure_id", exposure)
                .detail("mitigation_request_id", request),
            // Of the same request, about somebody else.
            event(names::MITIGATION_PERFORMED, person(), Outcome::Success, request)
                .user("00u2", "bob@example.com")
                .detail("mitigation_request_id", request),
            // Of somebody else's record, from another batch.
            event(names::EXPOSURE_VERDICT, validator(), Outcome::Info, CauseId(EventId::new().uuid())),
        ],
    )
    .await;
    until_chained(&stage, "true", 9).await;
    // Whatever its age.
    stage.bus.execute("UPDATE audit.events SET occurred_at = occurred_at - interval '200 days'").await;
    let found = auditor.asks(&format!("audit search --cause {exposure}")).await;
    let mut found: Vec<_> = found.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    found.reverse();
    assert_eq!(
        found,
        [
            "feed.batch_received",
            "exposure.received",
            "exposure.verdict",
            "mitigation.performed",
            "mitigation.verified",
            "mitigation.undo_requested",
            "mitigation.performed",
        ]
    );
    // By the request: what was asked for, and about whom.
    let of_request = auditor.asks(&format!("audit search --cause {request}")).await;
    assert_eq!(of_request.as_array().unwrap().len(), 3, "{of_request}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_followed_as_it_grows_and_goes_on_where_it_was() {
    let (stage, auditor) = stage().await;
    record(&stage, &[verdict(&stage, "before")]).await;
    until_chained(&stage, "true", 1).await;
    let follow = |line: &str| {
        let mut command = auditor.command(line.split_whitespace());
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (first, mut lines) = follow("--json audit tail");
    // It begins at its own beginning, which is in the log.
    until_chained(&stage, "type = 'audit.tailed'", 1).await;
    record(&stage, &(0..120).map(|n| verdict(&stage, &format!("after {n}"))).collect::<Vec<_>>()).await;
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["sequence"].as_str().unwrap().parse::<i64>().unwrap()
    };
    for sequence in 2..=122 {
        assert_eq!(next().await, sequence);
    }
    let (second, mut lines) = follow("--json audit tail --after 100");
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap();
    assert!(line.unwrap().contains("\"sequence\":\"101\""));
    drop(auditor);
    drop((first, second));
    stage.stop().await;
}
