//! Rotation of keys and shredding: against real services, through the command line, and with a process killed in between.

use std::{path::Path, sync::Arc, time::Instant};

use e2e::{Bus, Idp, until, validation};
use serde_json::{Value, json};
use shared::{
    db::Db,
    id::TenantId,
    rotation::{Rotation, RotationConfig},
    sealing::{KeySourceConfig, Owner, Purpose, SealError, StoredKeyPair, TopKey, TopKeys, TopRing, column},
};
use sqlx::{PgConnection, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api_stage::Stage;

async fn keys_of(file: &Path, purpose: Purpose) -> TopKeys {
    TopKeys::open(&KeySourceConfig::from(file.to_owned()), purpose).await.unwrap()
}

/// A private half as it is stored; nothing when it was destroyed.
async fn stored(
    db: &mut PgConnection,
    table: &'static str,
    tenant: TenantId,
) -> Vec<(u32, Option<StoredKeyPair>)> {
    let statement = sqlx::AssertSqlSafe(format!(
        "SELECT version, public_key, signature, wrapped_private FROM {table} WHERE tenant_id = $1 ORDER BY version"
    ));
    let rows = sqlx::query(statement).bind(tenant).fetch_all(db).await.unwrap();
    rows.iter()
        .map(|row| {
            let pair =
                row.get::<Option<Vec<u8>>, _>("wrapped_private").map(|wrapped_private| StoredKeyPair {
                    public: row.get("public_key"),
                    signature: row.get("signature"),
                    wrapped_private,
                });
            (u32::try_from(row.get::<i32, _>("version")).unwrap(), pair)
        })
        .collect()
}

fn purpose<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["purposes"].as_array().unwrap().iter().find(|p| p["purpose"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_key_is_rotated_by_command_while_the_services_run_and_the_old_one_may_go() {
    let idp = Idp::start().await;
    let stage = Stage::with_directories(&idp).await;
    let file = stage.sync_worker_config(&idp).keys.integration.file.unwrap();
    let desk = stage.desk("olga", &["operator"]);
    until("there is nothing newer to rotate to", async || {
        desk.fails("keys rotate --top integration").await.1.contains("file:1 already")
    })
    .await;

    let path = file.display();
    let added = desk.asks(&format!("keys add --purpose integration --file {path}")).await;
    assert_eq!(added["key"], "file:2");
    let (_, complaint) = desk.fails("keys rotate --top integration --to file:3").await;
    assert!(complaint.contains("file:3") && complaint.contains("identity-sync-worker"), "{complaint}");
    until("both services have loaded the new version", async || {
        let status = desk.asks("keys status").await;
        let holders = purpose(&status, "integration")["holders"].as_array().cloned().unwrap_or_default();
        holders.len() == 2 && holders.iter().all(|h| h["keys"].as_array().unwrap().contains(&"file:2".into()))
    })
    .await;
    let began = desk.asks("keys rotate --top integration --wait 60").await;
    assert_eq!(began["key"], "file:2");
    let status = desk.asks("keys status").await;
    let halves = &purpose(&status, "integration")["halves"];
    assert_eq!(
        (halves[0]["key"].as_str(), halves.as_array().unwrap().len()),
        (Some("file:2"), 1),
        "{status}"
    );

    // The old version may go: what is sealed now opens with the new one alone, and the worker stays ready.
    desk.types(&format!("keys remove --purpose integration --version 1 --file {path}")).await;
    let mut db = stage.bus.superuser().await;
    let (version, pair) = stored(&mut db, "sync.sealing_keys", stage.tenant).await.remove(0);
    let keys = keys_of(&file, Purpose::Integration).await;
    let pair = pair.unwrap();
    keys.opener(Some(stage.tenant), version, &pair).await.unwrap();
    keys.sealer(Some(stage.tenant), version, &pair.public, &pair.signature).unwrap();
    until("the worker has let the old version go and lacks nothing", async || {
        let status = desk.asks("keys status").await;
        let holders = purpose(&status, "integration")["holders"].as_array().cloned().unwrap_or_default();
        holders.iter().all(|h| h["keys"] == json!(["file:2"]) && h["lacks"].is_null())
    })
    .await;
    stage.bus.until_count("SELECT count(*) FROM sync.outbox", 0).await;
    let told = stage.audited("").await;
    let told: Vec<_> = told.iter().filter(|event| event.r#type == "key.rotated").collect();
    assert_eq!((told.len(), told[0].tenant_id.as_str(), &*told[0].details["top_key"]), (1, "", "file:2"));
    stage.stop().await;
}

/// The installation's own rotation, without a service around it.
fn rotation(db: &Db, top: TopKeys) -> Rotation {
    Rotation {
        service: "test",
        db: db.clone(),
        top: Arc::new(top),
        of_tenants: &[],
        of_installation: &[],
        config: RotationConfig { every_days: 0, grace_seconds: 0, ..RotationConfig::default() },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_half_is_wrapped_again_within_seconds_by_several_processes_of_which_some_die() {
    let halves = e2e::size(1000, 10_000);
    let bus = Bus::without_queues().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("leak.key");
    let first = TopKey::generate(Purpose::Leak).unwrap();
    let mut pairs: Vec<(TenantId, StoredKeyPair)> = Vec::new();
    for _ in 0..halves {
        let tenant = TenantId::new();
        pairs.push((tenant, first.new_key_pair(Some(tenant), 1).unwrap()));
    }
    let mut db = bus.superuser().await;
    sqlx::query(
        "INSERT INTO validator.sealing_keys (tenant_id, version, public_key, signature, wrapped_private)
         SELECT t, 1, p, s, w FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bytea[]) u (t, p, s, w)",
    )
    .bind(pairs.iter().map(|(tenant, _)| tenant.uuid()).collect::<Vec<_>>())
    .bind(pairs.iter().map(|(_, p)| p.public.clone()).collect::<Vec<_>>())
    .bind(pairs.iter().map(|(_, p)| p.signature.clone()).collect::<Vec<_>>())
    .bind(pairs.iter().map(|(_, p)| p.wrapped_private.clone()).collect::<Vec<_>>())
    .execute(&mut db)
    .await
    .unwrap();
    let mut ring = TopRing::new(first);
    ring.add().unwrap();
    std::fs::write(&file, ring.to_file().unwrap().as_bytes()).unwrap();
    bus.execute(
        "INSERT INTO api.key_requests (request_id, purpose, scope, wanted, requested_by)
         VALUES (gen_random_uuid(), 'leak', 'top', 'file:2', 'test')",
    )
    .await;

    let started = Instant::now();
    let config = bus.common_as("parapet_validator").database;
    let stop = CancellationToken::new();
    let mut running = Vec::new();
    for n in 0..4 {
        let own = Db::connect(&config).await.unwrap();
        let run = rotation(&own, keys_of(&file, Purpose::Leak).await).run(stop.clone());
        let task = tokio::spawn(run);
        if n < 2 {
            // It dies in the middle of whatever it does.
            bus.until_at_least("SELECT coalesce(sum(rewrapped), 0)::bigint FROM validator.top_key", 1).await;
            task.abort();
        } else {
            running.push(task);
        }
    }
    bus.until_count("SELECT count(*) FROM validator.top_key WHERE finished_at IS NOT NULL", 1).await;
    println!("{halves} private halves wrapped again in {:.1} s", started.elapsed().as_secs_f64());
    stop.cancel();
    for task in running {
        task.await.unwrap().unwrap();
    }
    assert_eq!(bus.count("SELECT count(*) FROM validator.key_halves WHERE wrapped_by <> 'file:2'").await, 0);
    assert_eq!(bus.count("SELECT rewrapped FROM validator.top_key").await, i64::try_from(halves).unwrap());
    assert_eq!(bus.count("SELECT count(*) FROM validator.outbox WHERE topic = 'audit.recorded'").await, 1);
    // With the new version alone each opens for its own tenant; with the old one alone, none, and it is said by name.
    let old = keys_of(
        &{
            let old = dir.path().join("old.key");
            let mut ring = TopRing::load(&file).unwrap();
            assert!(ring.remove(2));
            std::fs::write(&old, ring.to_file().unwrap().as_bytes()).unwrap();
            old
        },
        Purpose::Leak,
    )
    .await;
    let mut ring = TopRing::load(&file).unwrap();
    assert!(ring.remove(1));
    std::fs::write(&file, ring.to_file().unwrap().as_bytes()).unwrap();
    let new = keys_of(&file, Purpose::Leak).await;
    for (tenant, before) in pairs.iter().take(50) {
        let pair = stored(&mut db, "validator.sealing_keys", *tenant).await.remove(0).1.unwrap();
        assert_eq!(pair.public, before.public);
        new.opener(Some(*tenant), 1, &pair).await.unwrap();
        let lacking = old.opener(Some(*tenant), 1, &pair).await.unwrap_err();
        assert!(matches!(&lacking, SealError::NotLoaded { key, .. } if key == "file:2"), "{lacking}");
    }
}

/// What a key pair protects is sealed again by a process that is killed while it does so, and by the next one.
#[cfg(feature = "fail-points")]
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_pair_is_rotated_across_kills_and_everything_still_opens() {
    let accounts = 30;
    let world = validation::World::new(accounts).await;
    // Nothing is tried yet, so that every exposure keeps its secret.
    world
        .execute(
            r#"UPDATE api.integrations SET settings = settings
                 || '{"validation": {"automated": false, "manual": true}, "mitigation": {}}'"#,
        )
        .await;
    let program = e2e::program("validator-under-test");
    let validator = world.validator(&program, None);
    for n in 0..accounts {
        world.leak(&[validation::Leak { account: n, password: validation::password(n) }]).await;
    }
    let count = i64::try_from(accounts).unwrap();
    world.until("SELECT count(*) FROM validator.exposures WHERE secret_sealed IS NOT NULL", count).await;
    drop(validator);

    sqlx::query(
        "INSERT INTO api.key_requests (request_id, purpose, scope, tenant_id, requested_by)
         VALUES ($1, 'leak', 'tenant', $2, 'test')",
    )
    .bind(Uuid::new_v4())
    .bind(world.tenant)
    .execute(&mut world.superuser().await)
    .await
    .unwrap();
    for _ in 0..2 {
        let mut dies = world.validator(&program, Some("reseal"));
        assert!(!dies.wait().await.unwrap().success());
    }
    assert_eq!(world.count("SELECT count(*) FROM validator.sealing_keys").await, 2);
    assert_eq!(
        world
            .count("SELECT count(*) FROM validator.exposures WHERE platform.sealed_to(secret_sealed) = 1")
            .await,
        count
    );
    let validator = world.validator(&program, None);
    world.until("SELECT count(*) FROM validator.key_jobs WHERE finished_at IS NOT NULL", 1).await;
    for (question, expected) in [
        ("SELECT count(*) FROM validator.sealing_keys WHERE version = 1", 0),
        ("SELECT count(*) FROM validator.sealing_keys WHERE version = 2", 1),
        ("SELECT count(*) FROM validator.exposures WHERE platform.sealed_to(secret_sealed) = 2", count),
        ("SELECT count(*) FROM api.feed_batches WHERE platform.sealed_to(data_key_sealed) = 2", count),
        ("SELECT resealed FROM validator.key_jobs", 2 * count),
    ] {
        assert_eq!(world.count(question).await, expected, "{question}");
    }
    // INVARIANT: what is sealed to a key that is gone is not stored.
    let late = sqlx::query(
        "INSERT INTO api.feed_batches (tenant_id, batch_id, feed, client_batch_id, fingerprint, answer, records,
             data_key_sealed, received_from) VALUES ($1, $2, 'test', 'late', '', '', 0, $3, 'test')",
    )
    .bind(world.tenant)
    .bind(Uuid::new_v4())
    .bind([&[1_u8, 0, 0, 0, 1][..], &[7; 60]].concat())
    .execute(&mut world.superuser().await)
    .await
    .unwrap_err();
    assert!(late.to_string().contains("feed_batches_key"), "{late}");
    // The passwords are the ones that leaked: the directory says so.
    let mut exposures = Vec::new();
    for n in 0..3 {
        exposures.push(world.exposure(n).await);
    }
    world.ask(&exposures, true, 1).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE verdict = 'valid'", 3).await;
    drop(validator);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_sealed_of_a_deleted_tenant_opens_any_more_not_even_with_the_top_key() {
    let idp = Idp::start().await;
    let stage = Stage::with_directories(&idp).await;
    let file = stage.sync_worker_config(&idp).keys.integration.file.unwrap();
    let keys = keys_of(&file, Purpose::Integration).await;
    let mut db = stage.bus.superuser().await;
    let (version, pair) = stored(&mut db, "sync.sealing_keys", stage.tenant).await.remove(0);
    let pair = pair.unwrap();
    let place = Owner {
        tenant: Some(stage.tenant),
        table: column::INTEGRATION_SECRET,
        row: Uuid::new_v4(),
        version: 1,
    };
    let copy = keys
        .sealer(Some(stage.tenant), version, &pair.public, &pair.signature)
        .unwrap()
        .seal(&place, b"client secret")
        .unwrap();
    // Negative control: as long as the tenant is there, the copy opens with what is in the database and the top key.
    assert!(keys.opener(Some(stage.tenant), version, &pair).await.unwrap().open(&place, &copy).is_ok());
    sqlx::query(
        "INSERT INTO api.integrations (tenant_id, integration_id, name, provider, config, settings, status, status_reason,
             status_message, created_by, updated_by)
         VALUES ($1, $2, 'x', 'entra_id', $3, $4, 'disabled', '', '', 'test', 'test')",
    )
    .bind(stage.tenant)
    .bind(Uuid::new_v4())
    .bind(json!({"cloud": "global", "tenant": Uuid::new_v4().to_string(), "client_id": Uuid::new_v4().to_string()}))
    .bind(json!({"identity_creation": true}))
    .execute(&mut db)
    .await
    .unwrap();

    let desk = stage.desk("olga", &["operator"]);
    let tenants = desk.asks("tenant list").await;
    let id = stage.tenant.to_string();
    let name = tenants.as_array().unwrap().iter().find(|t| t["id"] == *id).unwrap()["name"].clone();
    let name = name.as_str().unwrap();
    let delete = async |confirm: &str| {
        let arguments =
            ["--json", "tenant", "delete", &id, "--confirm", confirm, "--reason", "contract ended"];
        desk.command(arguments).output().await.unwrap()
    };
    assert!(!delete("another name").await.status.success());
    let deleted = delete(name).await;
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    let deleted: Value = serde_json::from_slice(&deleted.stdout).unwrap();
    assert_eq!(deleted["keys_destroyed"], 2);

    for table in ["sync.sealing_keys", "validator.sealing_keys"] {
        let left = stored(&mut db, table, stage.tenant).await;
        assert!(left.iter().all(|(_, pair)| pair.is_none()), "{table}");
    }
    // Every half that is left, tried as if it were the tenant's.
    let left: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT public_key, wrapped_private FROM sync.sealing_keys WHERE wrapped_private IS NOT NULL
         UNION ALL SELECT public_key, wrapped_private FROM validator.sealing_keys WHERE wrapped_private IS NOT NULL",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    let again = keys_of(&file, Purpose::Integration).await;
    for (public, wrapped_private) in left {
        let pair = StoredKeyPair { public, signature: Vec::new(), wrapped_private };
        if let Ok(opener) = again.opener(Some(stage.tenant), version, &pair).await {
            assert!(opener.open(&place, &copy).is_err());
        }
    }
    // No service makes it a key again, its rows go, and its id does not come back.
    let refused = sqlx::query(
        "INSERT INTO sync.sealing_keys (tenant_id, version, public_key, signature, wrapped_private)
         VALUES ($1, 9, '', '', $2)",
    )
    .bind(stage.tenant)
    .bind(&pair.wrapped_private)
    .execute(&mut db)
    .await
    .unwrap_err();
    assert!(refused.to_string().contains("deleted"), "{refused}");
    stage.bus.until_count("SELECT count(*) FROM api.integrations", 0).await;
    let reused = sqlx::query(
        "INSERT INTO api.tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
             mitigation, identifier_cap, integration_cap, contact)
         VALUES ($1, $2, 'again', '{}', true, true, true, 1, 1, 'x')",
    )
    .bind(stage.tenant)
    .bind(stage.organization)
    .execute(&mut db)
    .await;
    assert!(reused.unwrap_err().to_string().contains("deleted"));
    let told = stage.audited("tenant").await;
    let told: Vec<_> =
        told.iter().filter(|e| e.object_id == id).map(|e| (&*e.r#type, &*e.tenant_id)).collect();
    for expected in
        [("key.shredded", &*id), ("key.shredded", ""), ("tenant.deleted", &*id), ("tenant.deleted", "")]
    {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    stage.stop().await;
}
