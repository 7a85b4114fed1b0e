//! The rules of triage, switched and counted; what overrules them; and the order of what waits.

use e2e::validation::{Leak, World, password};
use serde_json::{Value, json};
use shared::id::{ExposureId, IntegrationId};
use uuid::Uuid;

use crate::{api::created, api_stage::Stage};

const REFUSED: i32 = 6;

fn program() -> std::path::PathBuf {
    e2e::program("validator-under-test")
}

/// The switch and the count of every rule, as printed.
async fn rules(desk: &crate::api_stage::Desk) -> (Vec<(String, String, i64)>, Value) {
    let statistics = desk.asks("validation rules corp").await;
    let rules = statistics["rules"].as_array().unwrap().iter().map(|rule| {
        assert!(!rule["meaning"].as_str().unwrap().is_empty());
        let word =
            |field: &str, prefix| rule[field].as_str().unwrap().trim_start_matches(prefix).to_lowercase();
        let decided = rule["decided"].as_str().map_or(0, |n| n.parse().unwrap());
        (word("rule", "TRIAGE_RULE_"), word("switch", "TRIAGE_RULE_SWITCH_"), decided)
    });
    (rules.collect(), statistics.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_only_save_attempts_are_switched_off_one_by_one_and_the_others_say_why_they_stay_on() {
    let stage = Stage::new().await;
    created(&stage).await;
    let (ann, vic) = (stage.desk("ann", &["tenant_admin"]), stage.desk("vic", &["viewer"]));
    let switches =
        |rules: Vec<(String, String, i64)>| rules.into_iter().map(|(_, on, _)| on).collect::<Vec<_>>();
    let all_on = ["always_on", "always_on", "always_on", "on", "on", "on", "on"];
    assert_eq!(switches(rules(&vic).await.0), all_on);

    let updated = ann.asks("integration update corp --rules-off policy-excludes,already_tried").await;
    let off = json!(["TRIAGE_RULE_ALREADY_TRIED", "TRIAGE_RULE_POLICY_EXCLUDES"]);
    assert_eq!(updated["settings"]["validation"]["rules_off"], off, "{updated}");
    assert_eq!(vic.asks("integration show corp").await["settings"]["validation"]["rules_off"], off);
    let some_off = ["always_on", "always_on", "always_on", "off", "on", "on", "off"];
    assert_eq!(switches(rules(&vic).await.0), some_off);
    let table = vic.types("validation rules corp").await;
    for told in ["already_tried", "always_on", "decided by an attempt", "The same password was tried"] {
        assert!(table.contains(told), "{told}: {table}");
    }

    for (rule, why) in [
        ("no-usable-secret", "nothing that could be submitted"),
        ("account-state", "can lock its owner out"),
        ("authority-elsewhere", "allow_ad_backed"),
    ] {
        let (code, said) =
            ann.fails(&format!("integration update corp --rules-off already-tried,{rule}")).await;
        assert!(code == REFUSED && said.contains(why) && said.contains("rules_off"), "{said}");
    }
    assert_eq!(vic.fails("integration update corp --all-rules").await.0, 4, "a viewer may not");
    assert_eq!(switches(rules(&vic).await.0), some_off, "nothing of a refused change");
    ann.types("integration update corp --all-rules").await;
    assert_eq!(switches(rules(&vic).await.0), all_on);

    let changes: Vec<_> = stage
        .audited("integration")
        .await
        .into_iter()
        .filter(|event| event.r#type == "integration.updated")
        .map(|event| {
            let told = |side: &str| event.details[&format!("{side}.settings.validation.rules_off")].clone();
            (told("before"), told("after"))
        })
        .collect();
    let both = r#"["already_tried","policy_excludes"]"#;
    assert_eq!(changes, [("[]".to_owned(), both.to_owned()), (both.to_owned(), "[]".to_owned())]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exposure_counts_once_for_what_gave_its_verdict_and_again_elsewhere_when_it_is_decided_again() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    let mut superuser = stage.bus.superuser().await;
    // State, verdict, reason, by an attempt, rule: as the validator writes them.
    for (n, (state, verdict, reason, free, rule)) in (0_i32..).zip([
        ("decided", "stale", "changed_since_capture", true, "changed_since_capture"),
        ("decided", "stale", "changed_since_capture", true, "changed_since_capture"),
        ("decided", "not_testable", "account_disabled", true, "account_state"),
        ("decided", "valid", "", true, "already_tried"),
        ("decided", "invalid", "", false, ""),
        ("decided", "not_testable", "threshold_too_low", true, "budget"),
        ("decided", "not_testable", "secret_expired", false, "changed_since_capture"),
        ("waiting", "not_testable", "reserve", true, "budget"),
        ("idle", "not_testable", "history", true, ""),
    ]) {
        sqlx::query(
            "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at, history,
                 wanted, state, verdict, verdict_reason, verdict_at, decided_without_attempt, evidence)
             VALUES ($1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', gen_random_uuid(),
                 gen_random_uuid(), $2, 'entra_id', 'dir', 'obj' || $3, 'user@x.example', '{}', 'plaintext', now(), false, true,
                 $4, $5, nullif($6, ''), now(), $7,
                 CASE $8 WHEN '' THEN '{}' ELSE jsonb_build_object('rule', $8) END)",
        )
        .bind(stage.tenant)
        .bind(made.id.parse::<IntegrationId>().unwrap())
        .bind(n)
        .bind(state)
        .bind(verdict)
        .bind(reason)
        .bind(free)
        .bind(rule)
        .execute(&mut superuser)
        .await
        .unwrap();
    }
    let vic = stage.desk("vic", &["viewer"]);
    let counts = |rules: Vec<(String, String, i64)>| rules.into_iter().map(|(_, _, n)| n).collect::<Vec<_>>();
    let (decided, rest) = rules(&vic).await;
    assert_eq!(counts(decided), [0, 1, 0, 1, 0, 2, 0]);
    for one in ["attempted", "excluded_by_budget", "expired", "waiting", "idle"] {
        assert_eq!(rest[one], "1", "{one}: {rest}");
    }
    stage
        .bus
        .execute(
            "UPDATE validator.exposures SET verdict = 'invalid', verdict_reason = NULL, decided_without_attempt = false,
                 evidence = '{}' WHERE object_id = 'obj0';
             UPDATE validator.exposures SET state = 'waiting' WHERE object_id = 'obj2'",
        )
        .await;
    let (decided, rest) = rules(&vic).await;
    assert_eq!(counts(decided), [0, 0, 0, 1, 0, 1, 0]);
    assert_eq!((&rest["attempted"], &rest["waiting"]), (&"2".into(), &"2".into()), "{rest}");
    let (code, _) = vic.fails(&format!("validation rules {}", Uuid::now_v7())).await;
    assert_eq!(code, 5, "not found");
    stage.stop().await;
}

const IDLE: &str = "SELECT count(*) FROM validator.exposures WHERE state = 'idle'";
const BY_RULE: &str = "SELECT count(*) FROM validator.exposures WHERE decided_by = 'changed_since_capture'";
const BY_ATTEMPT: &str =
    "SELECT count(*) FROM validator.exposures WHERE decided_by = 'attempt' AND verdict = 'valid'";

/// Three exposures that nobody has asked for, with the right passwords. They were typed at this directory's own page, as the
/// records say, years before the passwords changed.
async fn captured_before_the_change() -> (World, tokio::process::Child) {
    let world = World::new(3).await;
    world
        .execute("UPDATE api.integrations SET settings = '{\"validation\": {\"automated\": false, \"manual\": true}}'")
        .await;
    let leaks: Vec<_> = (0..3).map(|account| Leak { account, password: password(account) }).collect();
    world.leak(&leaks).await;
    let validator = world.validator(&program(), None);
    world.until(IDLE, 3).await;
    world
        .execute(
            "UPDATE validator.exposures SET targets = '{https://login.microsoftonline.com/common/}',
                 captured_before = '2020-01-01', date_precision = 'day'",
        )
        .await;
    (world, validator)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_decided_stands_when_the_rule_is_switched_off_and_is_tried_when_a_person_insists() {
    let (world, _validator) = captured_before_the_change().await;
    let [first, second, third] = [world.exposure(0).await, world.exposure(1).await, world.exposure(2).await];
    world.ask(&[first, second], false, 1).await;
    world.until(BY_RULE, 2).await;
    assert_eq!(world.submissions().len(), 0);

    // Off: the next is tried, and what was decided stays so.
    world
        .execute(
            "UPDATE api.integrations SET version = version + 1,
                 settings = jsonb_set(settings, '{validation,rules_off}', '[\"changed_since_capture\"]')",
        )
        .await;
    world.ask(&[first, third], false, 1).await;
    world.until(BY_ATTEMPT, 1).await;
    assert_eq!(world.verdicts(2).await, [("valid".to_owned(), None)]);
    assert_eq!(world.count(BY_RULE).await, 2);

    // On again: a person who insists has it tried all the same.
    world.execute("UPDATE api.integrations SET version = version + 1, settings = settings #- '{validation,rules_off}'").await;
    world.ask(&[first], true, 1).await;
    world.until(BY_ATTEMPT, 2).await;
    assert_eq!(world.verdicts(0).await, [("valid".to_owned(), None)]);
    assert_eq!(world.verdicts(1).await, [("stale".to_owned(), Some("changed_since_capture".to_owned()))]);
    assert_eq!(world.submissions().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_insists_on_many_copies_of_one_password_has_it_tried_once_more_not_once_for_each() {
    let world = World::new(1).await;
    let wrong = || Leak { account: 0, password: "wrong-guess".into() };
    world.leak(&[wrong()]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid'", 1).await;
    world.leak(&[wrong(), wrong()]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE decided_by = 'already_tried'", 2).await;
    // Ten minutes later, as far as the budget knows.
    world
        .execute(
            "UPDATE budget.account SET last_attempt_at = last_attempt_at - interval '10 minutes',
                 recent = ARRAY(SELECT t - interval '10 minutes' FROM unnest(recent) AS t)",
        )
        .await;
    let copies: Vec<Uuid> =
        sqlx::query_scalar("SELECT exposure_id FROM validator.exposures WHERE decided_by = 'already_tried'")
            .fetch_all(&mut world.superuser().await)
            .await
            .unwrap();
    let copies: Vec<_> = copies.into_iter().map(ExposureId).collect();
    world.ask(&copies, true, 1).await;
    world
        .until(
            "SELECT count(*) FROM validator.exposures WHERE verdict = 'invalid' AND decided_by = 'attempt'",
            2,
        )
        .await;
    world.until("SELECT count(*) FROM validator.exposures WHERE decided_by = 'already_tried'", 1).await;
    assert_eq!(world.submissions().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_request_that_is_paused_leaves_its_exposures_to_no_rule_and_cancelled_gives_their_verdicts_back()
 {
    let (world, _validator) = captured_before_the_change().await;
    let exposures = [world.exposure(0).await, world.exposure(1).await, world.exposure(2).await];
    world.ask(&exposures, false, 1).await;
    world.until(BY_RULE, 3).await;
    // From now on validation is automatic, and nothing may be tried.
    world
        .execute(
            "UPDATE api.integrations SET version = version + 1,
                 settings = jsonb_set(settings, '{validation,automated}', 'true');
             INSERT INTO budget.stop (stop_id, reason, actor_id, actor_name) VALUES (gen_random_uuid(), 'x', 'x', 'x')",
        )
        .await;
    let request = world.ask(&exposures, true, 1).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'deferred'", 3).await;
    // Each turn finds out by itself, and so does the message.
    world.steer(request, "paused").await;
    world.execute("UPDATE validator.work SET due_at = clock_timestamp() WHERE subject = (SELECT min(subject::text)::uuid FROM validator.work)").await;
    world.until("SELECT count(*) FROM validator.work", 2).await;
    world.tell(request, 1).await;
    world.until("SELECT count(*) FROM validator.work", 0).await;
    world.execute("DELETE FROM budget.stop").await;

    world.steer(request, "cancelled").await;
    world.tell(request, 1).await;
    world
        .until("SELECT count(*) FROM validator.exposures WHERE state = 'decided' AND verdict = 'stale' AND NOT requested", 3)
        .await;
    assert_eq!((world.count("SELECT count(*) FROM validator.work").await, world.submissions().len()), (0, 0));
}

const RANKS: &str = "SELECT object_id, priority::int FROM validator.exposures e
    JOIN validator.work w ON w.tenant_id = e.tenant_id AND w.subject = e.exposure_id ORDER BY object_id";

async fn ranks(world: &World) -> Vec<i32> {
    let rows: Vec<(String, i32)> =
        sqlx::query_as(RANKS).fetch_all(&mut world.superuser().await).await.unwrap();
    rows.into_iter().map(|(_, rank)| rank).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_s_account_goes_one_ahead_and_what_people_ask_for_keeps_the_order_of_what_is_likeliest()
 {
    let world = World::new(3).await;
    world
        .execute(
            "UPDATE sync.accounts SET is_admin = object_id LIKE '%0';
             INSERT INTO budget.stop (stop_id, reason, actor_id, actor_name) VALUES (gen_random_uuid(), 'x', 'x', 'x')",
        )
        .await;
    let _validator = world.validator(&program(), None);
    let leaks: Vec<_> = (0..3).map(|account| Leak { account, password: password(account) }).collect();
    world.leak(&leaks).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'deferred'", 3).await;
    assert_eq!(ranks(&world).await, [25, 26, 26], "nobody says when they leaked");
    world.execute("UPDATE validator.exposures SET likelihood = 'own_page' WHERE object_id LIKE '%1'").await;
    let exposures = [world.exposure(0).await, world.exposure(1).await, world.exposure(2).await];
    world.ask(&exposures, false, 1).await;
    world.until("SELECT count(*) FROM validator.work WHERE priority < 20", 3).await;
    assert_eq!(ranks(&world).await, [15, 11, 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exposure_that_waits_tells_where_it_stands_and_why_to_its_own_tenant_only() {
    let stage = Stage::new().await;
    let made = created(&stage).await;
    let mut superuser = stage.bus.superuser().await;
    for (n, (state, likelihood, privileged, rank)) in (0_i32..).zip([
        ("waiting", Some("own_page"), false, Some(11_i16)),
        ("waiting", Some("stolen_within_30_days"), true, Some(21)),
        ("waiting", Some("changed_since"), false, Some(39)),
        ("waiting", None, false, Some(26)),
        ("waiting", Some("older"), false, None),
        ("decided", Some("older"), false, None),
    ]) {
        sqlx::query(
            "WITH made AS (
                 INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                     integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at,
                     history, wanted, state, likelihood, privileged)
                 VALUES ($1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', gen_random_uuid(),
                     gen_random_uuid(), $2, 'entra_id', 'dir', 'obj' || $3, 'user' || $3, '{}', 'plaintext',
                     now() - make_interval(hours => $3), false, true, $4, $5, $6)
                 RETURNING exposure_id)
             INSERT INTO validator.work (work_id, tenant_id, directory, kind, subject, priority, due_at)
             SELECT gen_random_uuid(), $1, 'dir', 'validate', exposure_id, $7, '2030-01-01' FROM made WHERE $7 IS NOT NULL",
        )
        .bind(stage.tenant)
        .bind(made.id.parse::<IntegrationId>().unwrap())
        .bind(n)
        .bind(state)
        .bind(likelihood)
        .bind(privileged)
        .bind(rank)
        .execute(&mut superuser)
        .await
        .unwrap();
    }
    let vic = stage.desk("vic", &["viewer"]);
    let listed = vic.asks("exposure list").await;
    let place = |n: usize| &listed[n]["place"];
    let expected = json!({"rank": 11, "reasons": ["asked", "own_page"], "due_at": "2030-01-01T00:00:00Z",
        "message": "asked for by a person; entered at the directory's own sign-in page"});
    assert_eq!(*place(0), expected);
    assert_eq!(place(1)["reasons"], json!(["automatic", "stolen_within_30_days", "administrator"]));
    assert_eq!(place(2)["reasons"], json!(["account_changed", "changed_since"]));
    assert_eq!(place(3)["reasons"], json!(["automatic"]), "it came in before this was kept");
    assert_eq!((place(4)["reasons"].clone(), place(4).get("rank")), (json!(["withheld"]), None));
    assert_eq!(listed[5].get("place"), None, "it does not wait");
    let shown = vic.asks(&format!("exposure show {}", listed[0]["id"].as_str().unwrap())).await;
    assert_eq!(shown["exposure"]["place"], expected);

    // The door to the validator's work shows a tenant its own.
    let mut tx = sqlx::Connection::begin(&mut superuser).await.unwrap();
    let all: Vec<Uuid> =
        sqlx::query_scalar("SELECT subject FROM validator.work").fetch_all(&mut *tx).await.unwrap();
    for (tenant, seen) in [(stage.tenant.uuid(), 4), (Uuid::now_v7(), 0)] {
        sqlx::query("SELECT set_config('app.tenant', $1, true)")
            .bind(tenant.to_string())
            .execute(&mut *tx)
            .await
            .unwrap();
        let places = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM validator.places($1)").bind(&all);
        assert_eq!(places.fetch_one(&mut *tx).await.unwrap(), seen, "{tenant}");
    }
    drop(tx);
    stage.stop().await;
}
