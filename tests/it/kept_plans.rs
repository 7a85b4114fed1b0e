//! Plans that are kept (`Db::tenant_by_key`) were made while the tables were small. They must find their rows by key all the
//! same when a tenant has many.

use std::{process::ExitCode, time::Duration};

use e2e::{
    bus::Bus,
    validation::{Leak, World, password},
};
use shared::queue;

use crate::messaging::{EFFECTS, Effect, TOPIC, enqueue};

/// Not counted in the exposures: to look would be to read them.
const ANSWERED: &str = "SELECT count(*) FROM budget.attempt WHERE state = 'answered'";
/// Rows that anybody has read of these tables, by index or without; a backend that has ended has told all of its own.
const READ: &str = "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
    WHERE schemaname || '.' || relname IN ('validator.exposures', 'validator.tried', 'validator.attempts', 'api.feed_records')";
const NOTICED: &str = "SELECT count(*) FROM pg_class
    WHERE oid IN ('validator.exposures'::regclass, 'validator.tried'::regclass) AND reltuples > 10000";
const CONNECTED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'parapet_validator'";

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_reads_the_rows_it_is_about_however_many_the_tenant_has() {
    const MANY: i64 = 20_000;
    let world = World::new(24).await;
    // As between two looks of the server at its tables.
    world
        .execute(
            "ALTER TABLE validator.exposures SET (autovacuum_enabled = off);
             ALTER TABLE validator.tried SET (autovacuum_enabled = off);
             ALTER TABLE validator.attempts SET (autovacuum_enabled = off);
             ALTER TABLE api.feed_records SET (autovacuum_enabled = off)",
        )
        .await;
    let mut validator = world.validator(&e2e::program("validator-under-test"), None);
    let wrong = |account| Leak { account, password: "wrong-guess".into() };
    world.leak(&(0..20).map(wrong).collect::<Vec<_>>()).await;
    world.until(ANSWERED, 20).await;

    world
        .execute(
            "INSERT INTO api.feed_records (tenant_id, record_id, batch_id, feed, external_id, identity, identity_original,
                 identity_kind, secret_form, secret_sealed, hashes, date_precision, source, targets, severity, severity_raw,
                 feed_credential_hash)
             SELECT f.tenant_id, gen_random_uuid(), f.batch_id, f.feed, n::text, n || '@x.example', '', f.identity_kind,
                 f.secret_form, 'x', f.hashes, f.date_precision, f.source, f.targets, f.severity, f.severity_raw, ''
             FROM (SELECT * FROM api.feed_records LIMIT 1) f, generate_series(1, 20000) AS n;
             INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at, history,
                 wanted, state, verdict, verdict_reason, verdict_at)
             SELECT e.tenant_id, gen_random_uuid(), gen_random_uuid(), e.batch_id, e.feed, gen_random_uuid(), e.identifier_id,
                 e.integration_id, e.provider, e.directory_id, gen_random_uuid()::text, n::text, '{}', 'plaintext', now(), true,
                 true, 'decided', 'not_testable', 'history', now()
             FROM (SELECT * FROM validator.exposures LIMIT 1) e, generate_series(1, 20000) AS n;
             INSERT INTO validator.tried (tenant_id, provider, directory_id, object_id, digest, verdict, exposure_id, tried_at)
             SELECT t.tenant_id, t.provider, t.directory_id, gen_random_uuid()::text, t.digest, t.verdict, t.exposure_id, now()
             FROM (SELECT * FROM validator.tried LIMIT 1) t, generate_series(1, 20000)",
        )
        .await;
    // The server does not notice by itself here; the validator has its own tables looked at, the API would have the feeds'.
    world.until(NOTICED, 2).await;
    world
        .execute("SET SESSION AUTHORIZATION parapet_api; SELECT platform.refresh_statistics(); RESET SESSION AUTHORIZATION")
        .await;
    // Nothing waited then; now very many do, as after a request for all of them.
    world
        .execute(
            "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at, history,
                 wanted, state)
             SELECT e.tenant_id, gen_random_uuid(), gen_random_uuid(), e.batch_id, e.feed, gen_random_uuid(), e.identifier_id,
                 e.integration_id, e.provider, e.directory_id, gen_random_uuid()::text, n::text, '{}', 'plaintext', now(), true,
                 true, 'waiting'
             FROM (SELECT * FROM validator.exposures LIMIT 1) e, generate_series(1, 20000) AS n",
        )
        .await;
    let right: Vec<_> = (20..24).map(|account| Leak { account, password: password(account) }).collect();
    world.leak(&right).await;
    world.until(ANSWERED, 24).await;
    validator.kill().await.unwrap();
    world.until(CONNECTED, 0).await;
    let read = world.count(READ).await;
    assert!(read < MANY, "{read} rows read for 24 verdicts, beside {MANY} that they are not about");
}

#[tokio::test]
async fn a_relay_reads_what_it_sends_however_much_waits_beside_it() {
    const MANY: i64 = 5_000;
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    bus.execute("ALTER TABLE validator.outbox SET (autovacuum_enabled = off)").await;
    let running = bus.start("validator", "parapet_validator").await;
    running.service.spawn_relay(&["outbox"]);
    queue::spawn_consumer(&running.service, TOPIC, 16, Effect::new(running.service.db(), Duration::ZERO));
    // Statements are met while the table is as empty as it is most of the time.
    for n in 0..10 {
        enqueue(running.service.db(), [format!("early {n}")]).await;
        bus.until_count("SELECT count(*) FROM validator.effects", n + 1).await;
    }
    bus.execute(
        "INSERT INTO validator.outbox (id, topic, body, ready_at)
         SELECT gen_random_uuid(), 'validation.requested', '', now() + interval '1 hour' FROM generate_series(1, 5000)",
    )
    .await;
    for n in 10..30 {
        enqueue(running.service.db(), [format!("late {n}")]).await;
        bus.until_count("SELECT count(*) FROM validator.effects", n + 1).await;
    }
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    bus.until_count(CONNECTED, 0).await;
    let read =
        "SELECT (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
                WHERE relid = 'validator.outbox'::regclass";
    let read = bus.count(read).await;
    // The gauge of the outbox's length counts them all, every ten seconds.
    assert!(read < 4 * MANY, "{read} rows read for 30 messages, beside {MANY} that are not to be sent yet");
}
