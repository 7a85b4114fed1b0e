//! Sync against a real directory protocol: what is read, what is believed, and what is not.

use e2e::until;
use idp_simulator::model::{Account, Authority};
use serde_json::{Value, json};
use shared::{
    id::{SyncRunId, TenantId},
    wire::internal::{EnsureClientKeyRequest, TestConnectionRequest},
};
use sqlx::Connection as _;

use crate::sync_stage::{ORG, Stage, generated};

const CAP: i64 = 1_000_000;

#[tokio::test]
async fn the_first_sync_equals_the_directory_and_every_identifier_leads_to_its_tenant() {
    let stage = Stage::new(generated(450), CAP).await;
    let run = stage.sync(true).await;
    assert_eq!((run.state.as_str(), run.created), ("finished", 450), "{run:?}");
    assert_eq!(stage.synced().await, stage.real());
    let bus = &stage.bus;
    assert_eq!(bus.count("SELECT count(*) FROM sync.accounts WHERE identity_id IS NULL").await, 0);
    assert_eq!(bus.count("SELECT count(*) FROM sync.identities").await, 450);
    let identifiers = bus.count("SELECT count(*) FROM sync.identifiers").await;
    assert!(identifiers >= 450);
    assert_eq!(
        bus.count(
            "SELECT count(*) FROM sync.identifiers i JOIN sync.identifier_lookup l
                          USING (value, tenant_id, identifier_id)"
        )
        .await,
        identifiers
    );
    assert_eq!(bus.count("SELECT identifiers FROM sync.usage").await, identifiers);
    assert_eq!(bus.count("SELECT lockout_threshold::bigint FROM sync.directory_policies").await, 10);
    let directories: Vec<String> = sqlx::query_scalar("SELECT DISTINCT directory_id FROM sync.accounts")
        .fetch_all(&mut bus.superuser().await)
        .await
        .unwrap();
    assert_eq!(directories, [ORG]);
    assert_eq!(
        bus.count("SELECT count(*) FROM sync.run_pages").await,
        0,
        "pages of an ended run are forgotten"
    );
    bus.until_count("SELECT count(*) FROM sync.outbox", 0).await;
}

#[tokio::test]
async fn a_first_sync_tells_the_planner_of_accounts_that_no_statistics_know() {
    let stage = Stage::new(generated(1_300), CAP).await;
    stage.sync(true).await;
    // By command: what autovacuum does comes too late, and is counted apart.
    let analysed = "SELECT count(*) FROM pg_stat_user_tables WHERE schemaname = 'sync' AND analyze_count = 1
                    AND relname IN ('accounts', 'identities', 'identifiers', 'run_pages')";
    stage.bus.until_count(analysed, 4).await;
    stage.sync(true).await;
    assert_eq!(stage.bus.count(analysed).await, 4, "a sync that adds nobody has nothing to tell");
}

#[tokio::test]
async fn a_second_full_sync_of_an_unchanged_directory_rewrites_no_account() {
    let stage = Stage::new(generated(250), CAP).await;
    stage.sync(true).await;
    let run = stage.sync(true).await;
    assert_eq!((run.state.as_str(), run.created, run.changed), ("finished", 0, 0), "{run:?}");
    assert!(run.seen >= 250);
    assert_eq!(stage.bus.count("SELECT max(version) FROM sync.accounts").await, 1);
}

#[tokio::test]
async fn an_incremental_sync_brings_new_names_and_takes_the_old_ones_away() {
    let people = json!({ "accounts": [
        { "login": "ann@acme.example", "email": "ann@acme.example" },
        { "login": "bob@acme.example", "email": "bob@acme.example" },
    ]});
    let stage = Stage::new(people, CAP).await;
    stage.sync(true).await;
    stage.patch(
        "ann@acme.example",
        &json!({ "login": "ann.lee@acme.example", "email": "ann.lee@acme.example" }),
    );
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.full, run.changed), ("finished", false, 1), "{run:?}");
    assert_eq!(stage.synced().await, stage.real());
    let bus = &stage.bus;
    let named = |name: &'static str| async move {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sync.identifier_lookup WHERE value = $1")
            .bind(name)
            .fetch_one(&mut bus.superuser().await)
            .await
            .unwrap()
    };
    assert_eq!(named("ann.lee@acme.example").await, 1);
    assert_eq!(named("ann@acme.example").await, 0);
    assert_eq!(named("bob@acme.example").await, 1);
}

#[tokio::test]
async fn a_sync_that_was_interrupted_is_finished_by_another_worker_from_its_page() {
    let mut stage = Stage::new(generated(900), CAP).await;
    stage.idp.fault(json!({ "operation": "okta.users.list", "skip": 2, "times": 1, "effect": { "status": { "status": 503 } } }));
    let run = SyncRunId::new();
    stage.request(run, true, 1).await;
    until("the fault was met", || async { stage.run(run).await.is_some_and(|r| !r.message.is_empty()) })
        .await;
    let before = stage.run(run).await.unwrap();
    assert!(before.seen > 0 && before.seen < 900, "{before:?}");
    stage.stop().await;
    stage.start();
    let after = stage.ended(run).await;
    assert_eq!((after.state.as_str(), after.created), ("finished", 900), "{after:?}");
    assert_eq!(stage.synced().await, stage.real());
    assert_eq!(stage.bus.count("SELECT count(*) FROM sync.runs").await, 1);
}

#[tokio::test]
async fn a_run_may_end_when_a_person_disables_its_integration_but_not_when_its_test_is_undone() {
    for (reason, state) in [("disabled_by_person", "finished"), ("untested", "failed")] {
        let stage = Stage::new(generated(900), CAP).await;
        stage.idp.fault(json!({ "operation": "okta.users.list", "skip": 2, "times": 1, "effect": { "status": { "status": 503 } } }));
        let run = SyncRunId::new();
        stage.request(run, true, 1).await;
        until("the fault was met", || async { stage.run(run).await.is_some_and(|r| !r.message.is_empty()) })
            .await;
        sqlx::query("UPDATE api.integrations SET status = 'disabled', status_reason = $1")
            .bind(reason)
            .execute(&mut stage.bus.superuser().await)
            .await
            .unwrap();
        let after = stage.ended(run).await;
        assert_eq!(after.state, state, "{reason}: {after:?}");
        // Nothing new begins.
        stage
            .bus
            .until_count("SELECT count(*) FROM sync.work WHERE state <> 'parked' AND due_at < now()", 0)
            .await;
        assert_eq!(stage.bus.count("SELECT count(*) FROM sync.runs").await, 1);
    }
}

#[tokio::test]
async fn a_directory_that_answers_with_nothing_deletes_nothing() {
    let stage = Stage::new(generated(60), CAP).await;
    stage.sync(true).await;
    stage.remove(60);
    let run = stage.sync(true).await;
    assert_eq!(run.state, "failed", "{run:?}");
    assert_eq!(stage.bus.count("SELECT count(*) FROM sync.accounts WHERE missing_since IS NULL").await, 60);
    assert_eq!(
        stage.bus.count("SELECT count(*) FROM sync.directories WHERE lost_reason IS NOT NULL").await,
        1
    );
}

#[tokio::test]
async fn a_sudden_shrink_is_held_as_a_plan_however_often_it_is_seen() {
    let stage = Stage::new(generated(60), CAP).await;
    stage.sync(true).await;
    stage.remove(10);
    for _ in 0..3 {
        let run = stage.sync(true).await;
        assert_eq!((run.state.as_str(), run.missing, run.removed), ("held", 0, 0), "{run:?}");
    }
    let bus = &stage.bus;
    assert_eq!(bus.count("SELECT count(*) FROM sync.accounts WHERE missing_since IS NULL").await, 60);
    assert_eq!(bus.count("SELECT accounts_gone FROM sync.removal_plans WHERE state = 'held'").await, 10);
    assert_eq!(bus.count("SELECT count(*) FROM sync.removal_plan_accounts").await, 10);
}

#[tokio::test]
async fn absence_is_believed_only_after_a_second_full_run() {
    let stage = Stage::new(generated(60), CAP).await;
    stage.sync(true).await;
    stage.remove(2);
    let first = stage.sync(true).await;
    assert_eq!((first.state.as_str(), first.missing, first.removed), ("finished", 2, 0), "{first:?}");
    let orphans = "SELECT count(*) FROM sync.identifiers i JOIN sync.accounts a USING (tenant_id, account_id)
                   WHERE a.missing_since IS NOT NULL";
    assert!(stage.bus.count(orphans).await > 0, "a missing account keeps its identifiers");
    let second = stage.sync(true).await;
    assert_eq!((second.state.as_str(), second.missing, second.removed), ("finished", 0, 2), "{second:?}");
    assert_eq!(stage.bus.count(orphans).await, 0);
    assert_eq!(stage.bus.count("SELECT count(*) FROM sync.identities WHERE removed_at IS NOT NULL").await, 2);
    assert_eq!(stage.synced().await, stage.real());
}

#[tokio::test]
async fn identifiers_beyond_the_cap_are_remembered_and_made_when_it_rises() {
    let stage = Stage::new(generated(60), 25).await;
    let run = stage.sync(true).await;
    assert_eq!(run.state, "finished", "{run:?}");
    let bus = &stage.bus;
    assert_eq!(bus.count("SELECT count(*) FROM sync.identifiers").await, 25);
    assert_eq!(
        bus.count("SELECT count(*) FROM sync.identities").await,
        60,
        "profiles are made at the cap too"
    );
    let skipped = bus.count("SELECT count(*) FROM sync.identifiers_skipped").await;
    assert_eq!(run.skipped, skipped);
    assert!(skipped >= 35);
    bus.execute("UPDATE api.tenants SET identifier_cap = 100000").await;
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.skipped), ("finished", 0), "{run:?}");
    assert_eq!(bus.count("SELECT count(*) FROM sync.identifiers").await, 25 + skipped);
    assert_eq!(bus.count("SELECT count(*) FROM sync.identifiers_skipped").await, 0);
}

#[tokio::test]
async fn a_thousand_requests_for_one_run_make_one_run() {
    let stage = Stage::new(generated(60), CAP).await;
    let run = SyncRunId::new();
    stage.request(run, true, 1000).await;
    assert_eq!(stage.ended(run).await.state, "finished");
    stage.bus.until_count("SELECT count(*) FROM sync.outbox WHERE topic = 'sync.requested'", 0).await;
    stage
        .bus
        .until_count(
            "SELECT count(*) FROM sync.inbox WHERE consumer = 'sync.requested' AND status = 'working'",
            0,
        )
        .await;
    assert_eq!(stage.bus.count("SELECT count(*) FROM sync.runs").await, 1);
}

#[tokio::test]
async fn another_tenant_sees_nothing_of_a_directory() {
    let stage = Stage::new(generated(60), CAP).await;
    stage.sync(true).await;
    let tables =
        ["accounts", "identities", "identifiers", "directories", "runs", "client_keys", "sealing_keys"];
    for (tenant, expected) in [(Some(stage.tenant), true), (Some(TenantId::new()), false), (None, false)] {
        for table in tables {
            let mut tx = match tenant {
                Some(tenant) => stage.db.tenant(tenant).await.unwrap(),
                None => stage.db.system().await.unwrap(),
            };
            let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
            let seen: i64 = sqlx::query_scalar(query).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen > 0, expected, "{table} for {tenant:?}");
            tx.rollback().await.unwrap();
        }
    }
    let mut tx = stage.db.system().await.unwrap();
    let lookup = sqlx::query("SELECT value FROM identifier_lookup").fetch_optional(&mut *tx).await;
    assert!(lookup.unwrap_err().to_string().contains("permission denied"));
}

#[tokio::test]
async fn a_connection_that_is_tested_before_its_client_key_was_made_gets_one() {
    let stage = Stage::new(generated(60), CAP).await;
    let others = stage.ensure_client_key(stage.integration).await;
    let none = "DELETE FROM sync.client_key_rotations; DELETE FROM sync.client_keys; DELETE FROM sync.public_client_keys";
    stage.bus.execute(none).await;
    let request = TestConnectionRequest {
        tenant_id: stage.tenant.to_string(),
        integration_id: stage.integration.to_string(),
        draft: None,
    };
    let answer = stage.client("integration-api").await.test_connection(request).await.unwrap().into_inner();
    let read = answer.results.iter().find(|r| r.capability == "read").unwrap();
    // The org knows the other key only: what it refuses is a key, not a connection without one.
    assert_ne!(read.reason, "credentials_missing", "{read:?}");
    assert_ne!(stage.ensure_client_key(stage.integration).await, others);
    assert_eq!(stage.bus.count("SELECT count(*) FROM sync.client_keys").await, 1);
}

#[tokio::test]
async fn only_the_api_may_have_a_connection_tested() {
    let stage = Stage::new(generated(60), CAP).await;
    let request = || TestConnectionRequest {
        tenant_id: stage.tenant.to_string(),
        integration_id: stage.integration.to_string(),
        draft: None,
    };
    let answer = stage.client("integration-api").await.test_connection(request()).await.unwrap().into_inner();
    assert_eq!(answer.directory_id, ORG);
    let read = answer.results.iter().find(|r| r.capability == "read").unwrap();
    assert_eq!(read.result, "passed", "{read:?}");
    let stranger = stage.client("audit-writer").await.test_connection(request()).await.unwrap_err();
    assert_eq!(stranger.code(), tonic::Code::PermissionDenied);
    let walls = TestConnectionRequest { tenant_id: TenantId::new().to_string(), ..request() };
    let refused = stage.client("integration-api").await.test_connection(walls).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn password_rules_count_from_when_they_were_first_seen_and_anew_with_any_change() {
    let stage = Stage::new(generated(5), CAP).await;
    let since = async || {
        let run = stage.sync(false).await;
        assert_eq!(run.state, "finished", "{run:?}");
        let since: Option<time::OffsetDateTime> =
            sqlx::query_scalar("SELECT rules_since FROM sync.directory_policies")
                .fetch_one(&mut stage.bus.superuser().await)
                .await
                .unwrap();
        since
    };
    let first = since().await.unwrap();
    assert_eq!(since().await, Some(first), "nothing has changed");
    assert_eq!(stage.bus.count("SELECT min_length::bigint FROM sync.directory_policies").await, 8);
    let added = json!({"name": "Added", "max_attempts": 10, "min_length": 4});
    stage.patch_settings(|okta| okta.policies = vec![serde_json::from_value(added).unwrap()]);
    let second = since().await.unwrap();
    assert!(second > first);
    assert_eq!(stage.bus.count("SELECT min_length::bigint FROM sync.directory_policies").await, 4);
    stage.patch_settings(|okta| okta.policies[0].updated = "2026-02-01T00:00:00.000Z".into());
    let third = since().await.unwrap();
    assert!(third > second);
    stage.patch_settings(|okta| okta.policies.clear());
    let fourth = since().await.unwrap();
    assert!(fourth > third, "what was deleted shows nowhere, but the others are another state");
    // Nobody looked for a day: there may have been another one meanwhile.
    stage
        .bus
        .execute("UPDATE sync.directory_policies SET read_at = read_at - interval '25 hours', rules_since = '2026-01-01'")
        .await;
    assert!(since().await.unwrap() > fourth);
}

#[tokio::test]
async fn since_when_an_account_is_under_the_rules_counts_anew_once_it_was_seen_otherwise_or_not_at_all() {
    let stage = Stage::new(generated(5), CAP).await;
    let ordinary = |account: &Account| account.authority == Authority::Cloud && account.password.is_some();
    let id = stage.directory.accounts.page(0, 5, ordinary).0.remove(0).id;
    let since = async || {
        let run = stage.sync(true).await;
        assert_eq!(run.state, "finished", "{run:?}");
        let since: Option<time::OffsetDateTime> =
            sqlx::query_scalar("SELECT under_policy_since FROM sync.accounts WHERE object_id = $1")
                .bind(&id)
                .fetch_one(&mut stage.bus.superuser().await)
                .await
                .unwrap();
        since
    };
    let patch = |patch: &Value| {
        let now = stage.idp.simulator.world.now();
        stage.directory.accounts.patch(&id, patch, now).unwrap().unwrap();
    };
    let first = since().await.unwrap();
    patch(&json!({"display_name": "Renamed"}));
    assert_eq!(since().await, Some(first), "it was so at every look");
    patch(&json!({"authority": "active_directory"}));
    assert_eq!(since().await, None);
    patch(&json!({"authority": "cloud"}));
    let second = since().await.unwrap();
    assert!(second > first);
    stage.bus.execute("UPDATE sync.accounts SET missing_since = now()").await;
    assert!(since().await.unwrap() > second, "nobody knows what it was meanwhile");
}

// --- deletion -------------------------------------------------------------------------------------------------------

/// What integration-api does when an integration is deleted.
async fn delete(stage: &Stage) {
    stage.bus.execute("DELETE FROM api.integrations").await;
    stage.request(SyncRunId::new(), false, 2).await;
}

const KEYS: &str =
    "SELECT (SELECT count(*) FROM sync.client_keys) + (SELECT count(*) FROM sync.public_client_keys)";

#[tokio::test]
async fn a_deleted_integration_leaves_no_key_no_account_and_no_identifier_that_matches() {
    let stage = Stage::new(generated(700), CAP).await;
    stage.sync(true).await;
    assert_eq!(stage.bus.count(KEYS).await, 2);
    delete(&stage).await;
    stage.bus.until_count(KEYS, 0).await;
    stage.bus.until_count("SELECT count(*) FROM sync.accounts WHERE removed_at IS NULL", 0).await;
    stage.bus.until_count("SELECT count(*) FROM sync.inbox WHERE status <> 'done'", 0).await;
    for left in [
        "SELECT count(*) FROM sync.identifiers",
        "SELECT count(*) FROM sync.identifier_lookup",
        "SELECT identifiers FROM sync.usage",
        "SELECT count(*) FROM sync.identities WHERE removed_at IS NULL",
        "SELECT count(*) FROM sync.directories",
        "SELECT count(*) FROM sync.directory_policies",
        "SELECT count(*) FROM sync.work",
        "SELECT count(*) FROM sync.runs WHERE state = 'running'",
    ] {
        assert_eq!(stage.bus.count(left).await, 0, "{left}");
    }
    let jwks: Option<serde_json::Value> = sqlx::query_scalar("SELECT sync.public_jwks($1)")
        .bind(stage.integration)
        .fetch_one(&mut stage.bus.superuser().await)
        .await
        .unwrap();
    assert_eq!(jwks, None);
}

#[tokio::test]
async fn a_key_that_is_asked_for_while_the_integration_is_deleted_is_not_made() {
    let stage = Stage::new(generated(1), CAP).await;
    stage.bus.execute("DELETE FROM sync.client_keys; DELETE FROM sync.public_client_keys").await;
    // The maker waits for this lock before it looks whether the integration is there.
    let mut deleting = stage.bus.superuser().await;
    let mut lock = deleting.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('client key ' || $1::text, 0))")
        .bind(stage.integration)
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut client = stage.client("integration-api").await;
    let request = EnsureClientKeyRequest {
        tenant_id: stage.tenant.to_string(),
        integration_id: stage.integration.to_string(),
    };
    let asked = tokio::spawn(async move { client.ensure_client_key(request).await });
    stage
        .bus
        .until_count(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            1,
        )
        .await;
    delete(&stage).await;
    lock.commit().await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap_err().code(), tonic::Code::NotFound);
    stage.bus.until_count("SELECT count(*) FROM sync.inbox WHERE status <> 'done'", 0).await;
    assert_eq!(stage.bus.count(KEYS).await, 0);
}
