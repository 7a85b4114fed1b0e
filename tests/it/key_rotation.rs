//! Rotation of key pairs by the schedule and by several processes at once, and what a process does whose top key is gone.

use std::{path::Path, process::ExitCode, sync::Arc};

use e2e::{Bus, until};
use shared::{
    db::Db,
    id::TenantId,
    rotation::{Holder, Holding, Rotation, RotationConfig, SealedColumn},
    sealing::{KeySourceConfig, Owner, Purpose, Sealer, StoredKeyPair, TopKey, TopKeys, TopRing, column},
};
use sqlx::Row;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A validator's database and its top key in a file.
struct Stage {
    bus: Bus,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (bus, dir) = (Bus::without_queues().await, tempfile::tempdir().unwrap());
        let stage = Self { bus, dir };
        stage.write(&TopRing::new(TopKey::generate(Purpose::Leak).unwrap()));
        stage
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("leak.key")
    }

    fn write(&self, ring: &TopRing) {
        std::fs::write(self.file(), ring.to_file().unwrap().as_bytes()).unwrap();
    }

    async fn top(&self) -> TopKeys {
        open(&self.file()).await
    }

    /// A tenant whose key pair is so many days old.
    async fn tenant(&self, top: &TopKeys, days: i32) -> (TenantId, Sealer) {
        let tenant = TenantId::new();
        let pair = top.new_key_pair(Some(tenant), 1).await.unwrap();
        sqlx::query(
            "INSERT INTO validator.sealing_keys (tenant_id, version, public_key, signature, wrapped_private, created_at)
             VALUES ($1, 1, $2, $3, $4, now() - make_interval(days => $5))",
        )
        .bind(tenant)
        .bind(&pair.public)
        .bind(&pair.signature)
        .bind(&pair.wrapped_private)
        .bind(days)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        (tenant, top.sealer(Some(tenant), 1, &pair.public, &pair.signature).unwrap())
    }

    async fn ask(&self, tenant: TenantId) {
        sqlx::query(
            "INSERT INTO api.key_requests (request_id, purpose, scope, tenant_id, requested_by)
             VALUES (gen_random_uuid(), 'leak', 'tenant', $1, 'test')",
        )
        .bind(tenant)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
    }

    /// The versions of a tenant's key pair.
    async fn versions(&self, tenant: TenantId) -> Vec<i32> {
        sqlx::query_scalar("SELECT version FROM validator.sealing_keys WHERE tenant_id = $1 ORDER BY 1")
            .bind(tenant)
            .fetch_all(&mut self.bus.superuser().await)
            .await
            .unwrap()
    }

    async fn rotation(&self, of_tenants: &'static [SealedColumn], every_days: u32) -> Rotation {
        Rotation {
            service: "test",
            db: Db::connect(&self.bus.common_as("parapet_validator").database).await.unwrap(),
            top: Arc::new(self.top().await),
            of_tenants,
            of_installation: &[],
            config: RotationConfig { every_days, grace_seconds: 0, rows_per_second: 100_000 },
        }
    }
}

async fn open(file: &Path) -> TopKeys {
    TopKeys::open(&KeySourceConfig::from(file.to_owned()), Purpose::Leak).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_is_replaced_when_it_is_as_old_as_the_schedule_says() {
    let stage = Stage::new().await;
    let top = stage.top().await;
    let (old, _) = stage.tenant(&top, 91).await;
    let (young, _) = stage.tenant(&top, 89).await;
    let (asked, _) = stage.tenant(&top, 0).await;
    for (every_days, done) in [(0, 1), (90, 2)] {
        if every_days == 0 {
            // What is due is looked for before anything is done, so that this shows that nothing is.
            stage.ask(asked).await;
        }
        let stop = CancellationToken::new();
        let running = tokio::spawn(stage.rotation(&[], every_days).await.run(stop.clone()));
        let finished = "SELECT count(*) FROM validator.key_jobs WHERE finished_at IS NOT NULL";
        stage.bus.until_count(finished, done).await;
        stop.cancel();
        running.await.unwrap().unwrap();
        let expected = if every_days == 0 { [1] } else { [2] };
        assert_eq!(stage.versions(old).await, expected, "{every_days}");
        assert_eq!(stage.versions(young).await, [1]);
        assert_eq!(stage.versions(asked).await, [2]);
    }
    let by_schedule = "SELECT count(*) FROM validator.key_jobs WHERE request_id IS NULL";
    assert_eq!(stage.bus.count(by_schedule).await, 1);
    let told = "SELECT count(*) FROM validator.outbox
                WHERE encode(body, 'escape') ~ 'key[.]rotation_started' AND encode(body, 'escape') ~ 'schedule'";
    assert_eq!(stage.bus.count(told).await, 1);
}

/// What key pairs protect here.
const THINGS: &[SealedColumn] = &[SealedColumn {
    place: column::EXPOSURE_SECRET,
    select: "SELECT id, 1, sealed FROM public.things
             WHERE tenant_id = platform.current_tenant() AND id > $1 AND platform.sealed_to(sealed) <> $2
             ORDER BY id LIMIT $3",
    update: "UPDATE public.things SET sealed = $4, times = times + 1 WHERE id = $1 AND $2 = 1 AND sealed = $3
             RETURNING sealed",
}];

#[tokio::test(flavor = "multi_thread")]
async fn what_several_processes_seal_again_at_once_is_sealed_once_and_opens() {
    const TENANTS: usize = 4;
    const EACH: usize = 250;
    let stage = Stage::new().await;
    stage
        .bus
        .execute(
            "CREATE TABLE public.things (tenant_id uuid, id uuid PRIMARY KEY, sealed bytea, times integer NOT NULL DEFAULT 0);
             GRANT USAGE ON SCHEMA public TO parapet_validator; GRANT SELECT, UPDATE ON public.things TO parapet_validator",
        )
        .await;
    let top = stage.top().await;
    let mut db = stage.bus.superuser().await;
    for _ in 0..TENANTS {
        let (tenant, sealer) = stage.tenant(&top, 0).await;
        for _ in 0..EACH {
            let row = Uuid::now_v7();
            let sealed = sealer.seal(&place(tenant, row), row.to_string().as_bytes()).unwrap();
            sqlx::query("INSERT INTO public.things (tenant_id, id, sealed) VALUES ($1, $2, $3)")
                .bind(tenant)
                .bind(row)
                .bind(sealed)
                .execute(&mut db)
                .await
                .unwrap();
        }
        stage.ask(tenant).await;
    }
    let stop = CancellationToken::new();
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(tokio::spawn(stage.rotation(THINGS, 0).await.run(stop.clone())));
    }
    // One dies in the middle of whatever it does.
    stage.bus.until_at_least("SELECT count(*) FROM public.things WHERE times > 0", 1).await;
    running.remove(0).abort();
    stage.bus.until_count("SELECT count(*) FROM validator.key_jobs WHERE finished_at IS NOT NULL", 4).await;
    stop.cancel();
    for task in running {
        task.await.unwrap().unwrap();
    }
    let all = i64::try_from(TENANTS * EACH).unwrap();
    assert_eq!(stage.bus.count("SELECT count(*) FROM public.things WHERE times = 1").await, all);
    assert_eq!(stage.bus.count("SELECT sum(resealed)::bigint FROM validator.key_jobs").await, all);
    assert_eq!(stage.bus.count("SELECT count(*) FROM validator.sealing_keys WHERE version = 2").await, 4);
    assert_eq!(stage.bus.count("SELECT count(*) FROM validator.sealing_keys").await, 4);
    let rows = sqlx::query(
        "SELECT t.*, public_key, signature, wrapped_private FROM public.things t JOIN validator.sealing_keys USING (tenant_id)",
    );
    for row in rows.fetch_all(&mut db).await.unwrap() {
        let (tenant, id): (TenantId, Uuid) = (row.get("tenant_id"), row.get("id"));
        let pair = StoredKeyPair {
            public: row.get("public_key"),
            signature: row.get("signature"),
            wrapped_private: row.get("wrapped_private"),
        };
        let opener = match top.kept(Some(tenant), 2) {
            Some(opener) => opener,
            None => top.opener(Some(tenant), 2, &pair).await.unwrap(),
        };
        let sealed: Vec<u8> = row.get("sealed");
        assert_eq!(&*opener.open(&place(tenant, id), &sealed).unwrap(), id.to_string().as_bytes());
    }
}

fn place(tenant: TenantId, row: Uuid) -> Owner<'static> {
    Owner { tenant: Some(tenant), table: column::EXPOSURE_SECRET, row, version: 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_not_ready_while_it_lacks_a_top_key_and_a_file_that_goes_takes_none_away() {
    let bus = Bus::new().await;
    let stage = Stage { bus, dir: tempfile::tempdir().unwrap() };
    let mut ring = TopRing::new(TopKey::generate(Purpose::Leak).unwrap());
    stage.write(&ring);
    let keys = Arc::new(stage.top().await);
    let (tenant, _) = stage.tenant(&keys, 0).await;
    let running = stage.bus.start("validator", "parapet_validator").await;
    Holder::spawn(&running.service, vec![Holding::top(Arc::clone(&keys))]);
    let readiness = running.service.readiness();
    let lacking = "SELECT count(*) FROM validator.key_holders WHERE lacks IS NOT NULL";
    until("the process is ready", || async { readiness.is_ready() }).await;
    stage.bus.until_count("SELECT count(*) FROM validator.key_holders WHERE lacks IS NULL", 1).await;

    // The file goes: what was loaded from it serves on, and `parapet keys status` says what is wrong.
    std::fs::remove_file(stage.file()).unwrap();
    stage.bus.until_count(lacking, 1).await;
    assert!(readiness.is_ready(), "{:?}", readiness.faults());
    assert!(keys.new_key_pair(Some(tenant), 2).await.is_ok());

    // It comes back without the version that the tenant's half is wrapped by.
    ring.add().unwrap();
    let mut without = TopRing::new(TopKey::generate(Purpose::Leak).unwrap());
    without.add().unwrap();
    assert!(without.remove(1));
    stage.write(&without);
    until("the process is not ready", || async { !readiness.is_ready() }).await;
    let faults = readiness.faults().join("\n");
    assert!(faults.contains("top key file:1 of purpose leak is needed and not loaded"), "{faults}");
    stage.bus.until_count(lacking, 1).await;

    stage.write(&ring);
    until("the process is ready again", || async { readiness.is_ready() }).await;
    stage.bus.until_count(lacking, 0).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}
