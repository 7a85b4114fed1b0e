//! The limit auditor and the gate, as an operator meets them.

use serde_json::Value;

use crate::api_stage::Stage;

/// Two attempts on an account, five minutes apart, of which the budget knows as it should.
const TWO: &str = "
    INSERT INTO budget.account (provider, directory, object, recent, since_success, last_attempt_at)
        SELECT 'okta', 'd', 'ann', ARRAY[now() - interval '20 minutes', now() - interval '10 minutes'], 2, now() - interval '10 minutes';
    INSERT INTO budget.attempt (attempt_id, provider, directory, object, nonce, state, reserved_at, finished_at, attempt_limit, reserve_limit, since_success)
        SELECT gen_random_uuid(), 'okta', 'd', 'ann', gen_random_uuid(), 'answered', at, at + interval '1 second', 2, 5, n
        FROM budget.account, unnest(recent) WITH ORDINALITY AS r (at, n)";
/// A third within the window, past the limiter.
const THIRD: &str = "
    INSERT INTO budget.attempt (attempt_id, provider, directory, object, nonce, state, reserved_at, finished_at, attempt_limit, reserve_limit, since_success)
        VALUES (gen_random_uuid(), 'okta', 'd', 'ann', gen_random_uuid(), 'answered', now() - interval '3 minutes', now(), 2, 5, 3);
    UPDATE budget.account SET last_attempt_at = now() - interval '3 minutes'";

async fn run(stage: &Stage, statement: &'static str) {
    sqlx::raw_sql(statement).execute(&mut stage.bus.superuser().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_past_the_limiter_is_found_told_and_stops_all_attempts() {
    let stage = Stage::new().await;
    run(&stage, TWO).await;
    let operator = stage.desk("olga", &["operator"]);
    let analyst = stage.desk("ada", &["analyst"]);
    assert_eq!(analyst.fails("attempts audit").await.0, 4, "an operator's");

    let sound = operator.asks("attempts audit").await;
    assert_eq!((&sound["accounts"], &sound["attempts"]), (&"1".into(), &"2".into()), "{sound}");
    assert_eq!(sound.get("findings"), None);

    run(&stage, THIRD).await;
    let (code, said) = operator.fails("attempts audit --days 2").await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("beyond a limit"), "{said}");
    let shown = operator.command(["--json", "attempts", "audit"]).output().await.unwrap();
    let found: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let mut rules: Vec<_> =
        found["findings"].as_array().unwrap().iter().map(|f| f["rule"].as_str().unwrap()).collect();
    rules.sort_unstable();
    // The budget does not count it: that is why it could be made.
    assert_eq!(rules, ["forgotten", "window"], "{found}");
    assert_eq!(found.get("new_findings"), None, "found once");

    // Every attempt is stopped, and a tenant sees why.
    let stops = analyst.asks("attempts stops").await;
    assert_eq!(stops[0]["scope"], "ATTEMPT_STOP_SCOPE_INSTALLATION");
    assert!(stops[0]["reason"].as_str().unwrap().contains("limit auditor"), "{stops}");
    stage.bus.until_count("SELECT count(*) FROM api.outbox", 0).await;

    // Once understood, an operator lets it go on; the same finding does not stop it again.
    operator.types("attempts resume --installation --reason understood").await;
    operator.fails("attempts audit").await;
    assert_eq!(analyst.types("attempts stops").await.trim(), "nothing is stopped");
    stage.stop().await;
}

/// What the directory's log has of these two: each of them, and one more for whom the ledger has nothing.
const SEEN: &str = "
    INSERT INTO budget.sign_in (provider, directory, entry, object, at)
        SELECT provider, directory, 'e' || n, object, at + interval '1 second'
        FROM budget.account, unnest(recent) WITH ORDINALITY AS r (at, n)";
const STRAY: &str = "
    INSERT INTO budget.sign_in (provider, directory, entry, object, at)
        VALUES ('okta', 'd', 'stray', 'bob', now() - interval '1 hour')";

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_directory_s_log_shows_is_told_and_stops_nothing() {
    let stage = Stage::new().await;
    run(&stage, TWO).await;
    let operator = stage.desk("olga", &["operator"]);
    let analyst = stage.desk("ada", &["analyst"]);
    let says = async || {
        let output = operator.command(["attempts", "audit"]).output().await.unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(says().await.contains("the directories' logs were not read"));
    run(&stage, SEEN).await;
    assert!(says().await.contains("2 entries of the directories' logs agree"));
    run(&stage, STRAY).await;
    let (code, said) = operator.fails("attempts audit").await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("attempts go on"), "{said}");
    let shown = operator.command(["--json", "attempts", "audit"]).output().await.unwrap();
    let found: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&found["accounts"], &found["sign_ins"]), (&"2".into(), &"3".into()), "{found}");
    let [finding] = found["findings"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&finding["rule"], &finding["only_told"]), (&"log_unknown".into(), &true.into()), "{finding}");
    assert_eq!(finding["object_id"], "bob");
    let message = finding["message"].as_str().unwrap();
    assert!(message.contains("our database lost") && message.contains("somebody else"), "{message}");
    assert_eq!(analyst.types("attempts stops").await.trim(), "nothing is stopped");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_gate_and_can_close_it_but_nobody_opens_it() {
    let stage = Stage::new().await;
    let operator = stage.desk("olga", &["operator"]);
    assert_eq!(stage.desk("tom", &["tenant_admin"]).fails("attempts gate").await.0, 4);
    let open = operator.asks("attempts gate").await;
    assert_eq!(open["open"], true, "{open}");
    assert!(open["cluster"].as_str().unwrap().contains('/'), "{open}");
    assert_eq!(operator.fails("attempts gate --close").await.0, 2, "it asks why");
    let closed = operator.asks("attempts gate --close --reason snapshot").await;
    assert_eq!(closed.get("open"), None, "{closed}");
    assert_eq!(closed["reason"], "ATTEMPT_GATE_REASON_OPERATOR");
    let hours = stage
        .bus
        .count(
            "SELECT (extract(epoch FROM closed_until - clock_timestamp()) / 3600)::bigint FROM budget.gate",
        )
        .await;
    assert_eq!(hours, 25);

    run(
        &stage,
        "UPDATE budget.gate SET closed_at = NULL, closed_until = NULL, reason = NULL,
             beat_at = clock_timestamp() - interval '2 minutes'",
    )
    .await;
    let unwatched = operator.asks("attempts gate").await;
    assert_eq!(
        (unwatched.get("open"), &unwatched["reason"]),
        (None, &"ATTEMPT_GATE_REASON_UNWATCHED".into())
    );
    run(&stage, "UPDATE budget.gate SET cluster = '1/' || split_part(cluster, '/', 2)").await;
    assert_eq!(operator.asks("attempts gate").await["reason"], "ATTEMPT_GATE_REASON_ANOTHER_CLUSTER");
    stage.stop().await;
}
