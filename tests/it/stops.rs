//! Kill switches of password attempts, as they are typed and as they bite.

use e2e::validation::{Leak, World, password};
use shared::id::AccountId;

use crate::{
    api::created,
    api_stage::{Desk, Stage},
};

async fn stops(desk: &Desk) -> Vec<(String, String)> {
    let listed = desk.asks("attempts stops").await;
    let text = |stop: &serde_json::Value, field: &str| stop[field].as_str().unwrap_or_default().to_owned();
    let rows = listed.as_array().unwrap().iter();
    rows.map(|stop| (text(stop, "scope"), text(stop, "stopper_name"))).collect()
}

fn stop(scope: &str, by: &str) -> (String, String) {
    (format!("ATTEMPT_STOP_SCOPE_{scope}"), by.into())
}

/// What the audit log was told of stops: the event, who did it, and whether it is the installation's.
async fn audited(stage: &Stage) -> Vec<(String, String, bool)> {
    let events = stage.audited("attempt_stop").await.into_iter();
    let mut found: Vec<_> =
        events.map(|event| (event.r#type, event.actor.unwrap().id, event.tenant_id.is_empty())).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_made_shown_explained_audited_and_ended_by_those_who_may() {
    let stage = Stage::new().await;
    let integration = created(&stage).await;
    let account = AccountId::new();
    sqlx::query(
        "INSERT INTO sync.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
             login_key, display_name, addresses, state, kind, authority, is_admin, hybrid)
         VALUES ($1, $2, $3::uuid, 'entra_id', 'dir', 'obj', 'ann@x.example', 'ann@x.example', 'Ann', '{}', 'active',
             'member', 'cloud', false, false)",
    )
    .bind(stage.tenant)
    .bind(account)
    .bind(&integration.id)
    .execute(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    let (analyst, admin) = (stage.desk("ada", &["analyst"]), stage.desk("tom", &["tenant_admin"]));
    let operator = stage.desk("olga", &["operator"]);
    let budget = format!("budget show {account}");
    assert_eq!(analyst.asks(&budget).await.get("blocked_by"), None);
    assert_eq!(analyst.types("attempts stops").await.trim(), "nothing is stopped");

    let made = analyst.asks(&format!("attempts stop --account {account} --reason storm")).await;
    assert_eq!(
        (&made["scope"], &made["object_id"]),
        (&"ATTEMPT_STOP_SCOPE_ACCOUNT".into(), &"obj".into()),
        "{made}"
    );
    let blocked = analyst.asks(&budget).await;
    assert_eq!(blocked["blocked_by"], "stopped");
    assert_eq!(blocked.get("next_free_at"), None, "time alone frees nothing");
    let resume = format!("attempts resume {} --reason over", made["id"].as_str().unwrap());
    assert_eq!(analyst.fails(&resume).await.0, 4, "who stops need not be who may let it go on");
    admin.types(&resume).await;
    assert_eq!(admin.fails(&resume).await.0, 5, "ended once");
    assert_eq!(analyst.asks(&budget).await.get("blocked_by"), None);

    let (code, said) = analyst.fails("attempts stop --integration corp --reason storm").await;
    assert!(code == 6 && said.contains("not known yet"), "{said}");
    stage.bus.execute("UPDATE api.integrations SET directory_id = 'dir'").await;
    analyst.types("attempts stop --integration corp --reason storm").await;
    let whole = analyst.asks("attempts stop --reason storm").await;
    assert_eq!(analyst.asks("attempts stop --reason again").await, whole, "the older stop holds");
    operator.types("attempts stop --installation --reason incident").await;
    let all = [stop("INSTALLATION", ""), stop("TENANT", "ada"), stop("DIRECTORY", "ada")];
    assert_eq!(stops(&analyst).await, all, "newest first, and no operator's name");
    assert!(analyst.types("attempts stops").await.contains("installation"), "a word for people");
    let installation = &analyst.asks("attempts stops --limit 1").await[0];
    assert_eq!(installation["reason"], "incident");
    let other = format!("attempts resume {} --reason x", installation["id"].as_str().unwrap());
    assert_eq!(admin.fails(&other).await.0, 5, "an operator's stop is an operator's");
    assert_eq!(admin.fails("attempts stop --installation --reason x").await.0, 4);
    operator.types("attempts resume --installation --reason over").await;
    assert_eq!(operator.fails("attempts resume --installation --reason over").await.0, 5);
    assert_eq!(stops(&analyst).await, all[1..]);
    for wrong in
        ["attempts stop --reason ", "attempts resume --reason x", "attempts stop --account 7 --reason x"]
    {
        assert_ne!(analyst.fails(wrong).await.0, 0, "{wrong}");
    }
    let who = |kind: &str, by: &str, whole: bool| (kind.to_owned(), by.to_owned(), whole);
    let expected = [
        who("validation.resumed", "olga", true),
        who("validation.resumed", "tom", false),
        who("validation.stopped", "ada", false),
        who("validation.stopped", "ada", false),
        who("validation.stopped", "ada", false),
        who("validation.stopped", "olga", true),
    ];
    assert_eq!(audited(&stage).await, expected);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_submitted_while_attempts_are_stopped_and_what_waited_goes_on_afterwards() {
    let world = World::new(1).await;
    world
        .execute(
            "INSERT INTO budget.stop (stop_id, reason, actor_id, actor_name)
             VALUES (gen_random_uuid(), 'incident', 'olga', 'Olga')",
        )
        .await;
    world.leak(&[Leak { account: 0, password: password(0) }]).await;
    let _validator = world.validator(&e2e::program("validator-under-test"), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict_reason = 'paused'", 1).await;
    assert_eq!(world.submissions().len(), 0);
    assert_eq!(world.count("SELECT count(*) FROM budget.attempt").await, 0, "a stop costs nothing");
    world.execute("DELETE FROM budget.stop").await;
    world.execute("UPDATE validator.work SET due_at = clock_timestamp()").await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'valid'", 1).await;
    assert_eq!(world.submissions().len(), 1);
}
