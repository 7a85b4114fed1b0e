//! A sync that is interrupted at random points, a hundred in all, ends with what the directory holds.
//!
//! The worker is a process of its own, killed without a chance to clean up. What happens is decided by a seed, which is
//! printed and can be given: `PARAPET_TEST_SEED`.

mod directories;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use e2e::{Idp, process, until};
use idp_simulator::{
    faults::Fault,
    model::{Account, Directory, Settings},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use shared::{
    id::SyncRunId,
    identifier::normalise,
    wire::v1::{self, integration_service_client::IntegrationServiceClient},
};
use sqlx::{PgConnection, Row as _};
use tokio::process::Child;

use self::directories::{entra, okta};
use crate::api_stage::{Api, Stage, package};

/// Points for each provider; there are two.
const POINTS: usize = 50;
const ENTRA: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const ENTRA_APP: &str = "11111111-2222-4333-8444-555555555555";
const OKTA_APP: &str = "0oaparapet0000000001";
const OKTA: &str = "00oacme0000000000001";
const SECRET: &str = "Zx8Q~secret+value/with=signs";
/// An access token lives for so many seconds. Short, so that the clocks of an org and of a new worker stay close.
const TOKEN_LIFE: i64 = 20;
/// Most times that tokens expire: all of them together are less than the life of a client assertion.
const MOST_TOKENS: usize = 10;
/// Most answers of 429, each of which costs seconds.
const MOST_THROTTLES: usize = 4;
/// A listing that expires more than three times gives up until it is due again.
const MOST_CURSORS: usize = 2;
/// Longer than a page token lives.
const PAGE_LIFE: time::Duration = time::Duration::seconds(21_000);

/// What happens to a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Interruption {
    /// `kill -9` of the worker while it waits for an answer.
    Kill,
    /// The same, once the page before has been committed.
    KillAfterCommit,
    /// 429 in place of an answer.
    Throttle,
    /// The access token has expired when the next page is asked for.
    Token,
    /// The place of the next page has expired when it is asked for.
    Cursor,
}

const KINDS: [Interruption; 5] = [
    Interruption::Kill,
    Interruption::KillAfterCommit,
    Interruption::Throttle,
    Interruption::Token,
    Interruption::Cursor,
];

/// An account as both sides must see it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Person {
    object: String,
    login: String,
    name: String,
    disabled: bool,
    identifiers: BTreeSet<String>,
}

struct World {
    stage: Stage,
    idp: Idp,
    directory: Arc<Directory>,
    api: IntegrationServiceClient<Api>,
    db: PgConnection,
    integration: String,
    config: PathBuf,
    worker: Child,
    dice: StdRng,
    added: usize,
    met: BTreeMap<Interruption, usize>,
}

impl World {
    async fn new(provider: v1::ProviderKind, seed: u64) -> Self {
        let (mut stage, idp) = (Box::pin(Stage::new()).await, Box::pin(Idp::start()).await);
        stage.tenant = stage.new_tenant(&package(&[provider])).await;
        let config = worker_file(&stage, &idp);
        let worker = started(&config);
        let admin = stage.desk("ann", &["org_admin", "tenant_admin"]);
        let people = json!({ "generated": { "seed": seed, "count": 1_000 } });
        let directory = if provider == v1::ProviderKind::EntraId {
            let secret = admin.file("secret", SECRET);
            let secret = secret.display();
            let add = format!(
                "integration add entra --name corp --directory {ENTRA} --client-id {ENTRA_APP} --secret-file {secret}"
            );
            admin.types(&add).await;
            idp.directory(entra(&people))
        } else {
            until("the worker has made a client key", || async {
                let add =
                    format!("integration add okta --name corp --host acme.okta.com --client-id {OKTA_APP}");
                let added = admin.command(add.split_whitespace()).output().await.unwrap();
                added.status.success() || String::from_utf8_lossy(&added.stderr).contains("is taken")
            })
            .await;
            let shown = admin.asks("integration show corp").await;
            let url = shown["jwks_url"].as_str().unwrap().to_owned();
            until("the keys are served", || async {
                reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
            })
            .await;
            let keys = reqwest::get(&url).await.unwrap().bytes().await.unwrap();
            let keys = serde_json::from_slice(&keys).unwrap();
            idp.directory(okta(&people, &keys))
        };
        until("the worker answers", || async {
            let tested = admin.command(["integration", "test", "corp"]).output().await.unwrap();
            let away = tested.status.code() == Some(3);
            assert!(away || tested.status.success(), "{tested:?}");
            !away
        })
        .await;
        let integration = admin.asks("integration show corp").await["id"].as_str().unwrap().to_owned();
        let api = IntegrationServiceClient::new(stage.by("ann", &["tenant_admin"]));
        let db = stage.bus.superuser().await;
        let dice = StdRng::seed_from_u64(seed);
        let met = BTreeMap::new();
        Self { stage, idp, directory, api, db, integration, config, worker, dice, added: 0, met }
    }

    fn is_entra(&self) -> bool {
        matches!(&*self.directory.settings(), Settings::EntraId(_))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.dice.random_range(0..limit)
    }

    /// What happens next, when a run has met this many expired cursors.
    fn kind(&mut self, cursors: usize) -> Interruption {
        loop {
            let kind = KINDS[self.dice.random_range(0..KINDS.len())];
            let met = self.met.get(&kind).copied().unwrap_or_default();
            let enough = match kind {
                Interruption::Token => met >= MOST_TOKENS,
                Interruption::Throttle => met >= MOST_THROTTLES,
                Interruption::Cursor => cursors >= MOST_CURSORS,
                Interruption::Kill | Interruption::KillAfterCommit => false,
            };
            if !enough {
                return kind;
            }
        }
    }

    /// Asks for a run.
    async fn start(&mut self, full: bool) -> SyncRunId {
        let request = v1::StartSyncRequest {
            integration_id: self.integration.clone(),
            full,
            idempotency_key: uuid::Uuid::new_v4().to_string(),
        };
        self.api.start_sync(request).await.unwrap().into_inner().run_id.parse().unwrap()
    }

    /// State, message, pages and restarts of a run, or of the one that it joined.
    async fn run(&mut self, run: SyncRunId) -> Option<(String, String, i64, i32)> {
        let row = sqlx::query(
            "SELECT t.state, t.message, t.pages, t.restarts FROM sync.runs r
             JOIN sync.runs t ON t.run_id = coalesce(r.joined_run_id, r.run_id) WHERE r.run_id = $1",
        )
        .bind(run)
        .fetch_optional(&mut self.db)
        .await
        .unwrap()?;
        Some((row.get(0), row.get(1), row.get(2), row.get(3)))
    }

    async fn has_ended(&mut self, run: SyncRunId) -> bool {
        self.run(run).await.is_some_and(|(state, ..)| state != "running")
    }

    /// What is known of a run that does not go on.
    async fn stuck(&mut self, run: SyncRunId) -> String {
        let work: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s, %s, now %s', to_jsonb(w), d, clock_timestamp())
             FROM sync.work w, (SELECT jsonb_agg(to_jsonb(d)) AS d FROM sync.directories d) AS directories",
        )
        .fetch_all(&mut self.db)
        .await
        .unwrap();
        format!("{run} does not go on: {:?}; met {:?}; its work {work:?}", self.run(run).await, self.met)
    }

    async fn ends_well(&mut self, run: SyncRunId) {
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        loop {
            match self.run(run).await {
                Some((state, message, ..)) if state != "running" => {
                    assert_eq!(state, "finished", "{run}: {message}; met {:?}", self.met);
                    return;
                }
                _ if tokio::time::Instant::now() > deadline => panic!("{}", self.stuck(run).await),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Changes the directory a little, sometimes much.
    fn change(&mut self) {
        let (accounts, _) = self.directory.accounts.page(0, usize::MAX, |_| true);
        let now = self.idp.simulator.world.now();
        let entra = self.is_entra();
        let renamed = if self.below(3) == 0 { 210 } else { 6 };
        // Okta's System Log tells it too: its pages are interrupted like others.
        let patch = |account: &Account, patch: Value| {
            let after = self.directory.accounts.patch(&account.id, &patch, now).unwrap().unwrap();
            idp_simulator::okta::noticed(&self.idp.simulator.world, &self.directory, account, &after);
        };
        let mut chosen = Vec::new();
        for _ in 0..renamed + 6 {
            chosen.push(self.dice.random_range(0..accounts.len()));
        }
        for (n, account) in chosen.iter().map(|at| &accounts[*at]).enumerate() {
            match n {
                0..3 => patch(account, json!({ "status": "deleted" })),
                3..6 => {
                    let off = matches!(account.status, idp_simulator::model::Status::Active);
                    let word = if entra { "disabled" } else { "suspended" };
                    patch(account, json!({ "status": if off { word } else { "active" } }));
                }
                _ => {
                    let (local, domain) = account.login.split_once('@').unwrap();
                    let login = format!("{local}.x{}@{domain}", self.added);
                    let name = format!("New {n}");
                    patch(account, json!({ "login": login, "email": login, "display_name": name }));
                }
            }
        }
        for _ in 0..3 {
            self.added += 1;
            let domain = if entra { "contoso.example" } else { "acme.example" };
            let login = format!("added.{}@{domain}", self.added);
            let given = json!({ "login": login, "email": login, "display_name": "Added" });
            self.directory.accounts.add(&given, &self.directory.settings(), now).unwrap();
        }
    }

    /// Interrupts a run at the request after `skip` others; false when it ended before.
    async fn interrupt(&mut self, kind: Interruption, skip: usize, run: SyncRunId) -> bool {
        let entra = self.is_entra();
        let list = if entra { ["graph.users.list", "graph.users.delta"] } else { ["okta.users.list"; 2] };
        let operation = match kind {
            Interruption::Kill | Interruption::Throttle => "*",
            _ => list[usize::from(self.below(3) == 0)],
        };
        let effect = match kind {
            Interruption::Throttle if entra => json!({ "throttle": { "hint": { "seconds": 1 } } }),
            Interruption::Throttle => json!({ "throttle": { "hint": { "rate_limit_reset": 1 } } }),
            _ => json!({ "delay": { "ms": 200 } }),
        };
        let before = self.run(run).await.map(|(_, _, pages, _)| pages);
        let fault = json!({ "operation": operation, "skip": skip, "effect": effect });
        let fault: Fault = serde_json::from_value(fault).unwrap();
        let simulator = Arc::clone(&self.idp.simulator.world);
        let fault = simulator.faults.add(fault).id;
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        while simulator.faults.unfired().iter().any(|waiting| waiting.id == fault) {
            if self.has_ended(run).await {
                simulator.faults.clear();
                return false;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{kind:?} at {operation} after {skip}: {}", self.stuck(run).await);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        match kind {
            Interruption::Throttle => {}
            Interruption::Kill => self.kill().await,
            Interruption::KillAfterCommit => {
                self.committed(run, before).await;
                self.kill().await;
            }
            Interruption::Token => simulator.advance(time::Duration::seconds(TOKEN_LIFE + 5)),
            Interruption::Cursor => self.expire_cursors(run).await,
        }
        *self.met.entry(kind).or_default() += 1;
        true
    }

    /// Waits until a run has moved on while its next answer is held back, or that answer has come.
    async fn committed(&mut self, run: SyncRunId, before: Option<i64>) {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(200);
        while tokio::time::Instant::now() < deadline
            && self.run(run).await.map(|(_, _, pages, _)| pages) == before
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn kill(&mut self) {
        self.worker.kill().await.unwrap();
        self.start_another().await;
    }

    async fn start_another(&mut self) {
        // A message with which five workers died is parked as the cause of it, and the run goes on when its lease ends.
        // Here workers die that often in a row, and nobody waits for ten minutes.
        sqlx::query("UPDATE sync.work SET lease_until = clock_timestamp() WHERE state = 'in_flight'")
            .execute(&mut self.db)
            .await
            .unwrap();
        self.worker = started(&self.config);
    }

    /// Entra ID: the links of listings have grown too old, those of changes are from before a maintenance. Okta: the
    /// org has forgotten the place at which a worker that died goes on.
    async fn expire_cursors(&mut self, run: SyncRunId) {
        let simulator = &self.idp.simulator.world;
        if let Settings::EntraId(entra) = &*self.directory.settings() {
            simulator.advance(PAGE_LIFE);
            let mut entra = entra.clone();
            entra.delta_valid_from = Some(simulator.now() - time::Duration::seconds(2));
            self.directory.set_settings(Settings::EntraId(entra));
            return;
        }
        self.worker.kill().await.unwrap();
        sqlx::query(
            "UPDATE sync.runs SET cursor = regexp_replace(cursor, 'after=[^&\"]+', 'after=forgotten') WHERE run_id = $1",
        )
        .bind(run)
        .execute(&mut self.db)
        .await
        .unwrap();
        self.start_another().await;
    }

    /// The directory as its control port tells it.
    async fn real(&self) -> BTreeSet<Person> {
        let base = format!("{}/directories/{}/accounts", self.idp.simulator.control_url(), self.directory.id);
        let (mut found, mut position) = (BTreeSet::new(), json!(0));
        while !position.is_null() {
            let page = reqwest::get(format!("{base}?position={position}&limit=1000")).await.unwrap();
            let page: Value = serde_json::from_slice(&page.bytes().await.unwrap()).unwrap();
            for account in page["accounts"].as_array().unwrap() {
                let text = |name: &str| account[name].as_str().unwrap_or_default().to_owned();
                // Okta shows no aliases.
                let fields =
                    if self.is_entra() { &["other_emails", "aliases"][..] } else { &["other_emails"] };
                let many = fields.iter().flat_map(|name| account[name].as_array().unwrap());
                let names = many.filter_map(Value::as_str).chain([account["login"].as_str().unwrap()]);
                found.insert(Person {
                    object: text("id"),
                    login: text("login"),
                    name: text("display_name"),
                    disabled: ["disabled", "suspended"].contains(&text("status").as_str()),
                    identifiers: names.chain(account["email"].as_str()).filter_map(normalise).collect(),
                });
            }
            position = page["next"].clone();
        }
        found
    }

    /// What was made of it.
    async fn synced(&mut self) -> BTreeSet<Person> {
        let rows = sqlx::query(
            "SELECT a.object_id, a.login, a.display_name, a.state = 'disabled', a.missing_since IS NULL,
                    coalesce((SELECT array_agg(i.value) FROM sync.identifiers i
                              WHERE i.tenant_id = a.tenant_id AND i.account_id = a.account_id), '{}')
             FROM sync.accounts a WHERE a.removed_at IS NULL",
        )
        .fetch_all(&mut self.db)
        .await
        .unwrap();
        let person = |row: &sqlx::postgres::PgRow| {
            assert!(row.get::<bool, _>(4), "missing after two full runs: {}", row.get::<String, _>(1));
            Person {
                object: row.get(0),
                login: row.get(1),
                name: row.get(2),
                disabled: row.get(3),
                identifiers: row.get::<Vec<String>, _>(5).into_iter().collect(),
            }
        };
        rows.iter().map(person).collect()
    }
}

/// The worker's configuration, as a file.
fn worker_file(stage: &Stage, idp: &Idp) -> PathBuf {
    let config = stage.sync_worker_config(idp);
    let options = json!({
        "common": process::common(&config.common),
        "idp": process::egress(&config.idp),
        "keys": { "integration": config.keys.integration.file },
        "sync": {
            "changes_every_seconds": config.sync.changes_every_seconds,
            "slice_seconds": config.sync.slice_seconds,
        },
    });
    stage.file("worker.json", &options.to_string())
}

fn started(config: &Path) -> Child {
    process::start(&e2e::program("identity-sync-worker"), config, None)
}

async fn ends_with_what_the_directory_holds(provider: v1::ProviderKind) {
    let seed = std::env::var("PARAPET_TEST_SEED").map_or(4_711, |seed| seed.parse().unwrap());
    println!("{provider:?}: PARAPET_TEST_SEED={seed}");
    let mut world = Box::pin(World::new(provider, seed)).await;
    let (mut left, mut full) = (POINTS, true);
    while left > 0 {
        let run = world.start(full).await;
        let mut cursors = 0;
        for _ in 0..=(if full { 2 + world.below(5) } else { world.below(2) }) {
            let kind = world.kind(cursors);
            // A call survives one expired token, not another in its second try.
            let skip = world.below(if full { 4 } else { 2 }) + usize::from(kind == Interruption::Token);
            if left == 0 || !world.interrupt(kind, skip, run).await {
                break;
            }
            cursors += usize::from(kind == Interruption::Cursor);
            left -= 1;
        }
        world.ends_well(run).await;
        world.change();
        full = world.below(4) > 0;
    }
    println!("{provider:?}: {:?}", world.met);
    for kind in KINDS {
        assert!(world.met.get(&kind).is_some_and(|met| *met >= 3), "{kind:?} in {:?}", world.met);
    }
    // Whether a cursor that expires has pages to come is luck: more of them, until three had.
    for more in 0.. {
        let began_again = world.stage.bus.count("SELECT sum(restarts) FROM sync.runs").await;
        if began_again >= 3 {
            break;
        }
        assert!(more < 20, "only {began_again} listings began again");
        let run = world.start(true).await;
        world.interrupt(Interruption::Cursor, 1, run).await;
        world.ends_well(run).await;
    }
    // Absence is believed after a second full run.
    for _ in 0..2 {
        let run = world.start(true).await;
        world.ends_well(run).await;
    }
    let (real, synced) = (world.real().await, world.synced().await);
    let (lacking, excess): (Vec<_>, Vec<_>) =
        (real.difference(&synced).collect(), synced.difference(&real).collect());
    assert!(lacking.is_empty() && excess.is_empty(), "lacking {lacking:#?}, in excess {excess:#?}");
    let lost = "SELECT count(*) FROM sync.identifiers i FULL JOIN sync.identifier_lookup l
                    USING (value, tenant_id, identifier_id)
                WHERE i.account_id IS NULL OR l.value IS NULL";
    assert_eq!(world.stage.bus.count(lost).await, 0, "the lookup has drifted from the identifiers");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entra_sync_interrupted_at_fifty_random_points_ends_with_what_the_directory_holds() {
    ends_with_what_the_directory_holds(v1::ProviderKind::EntraId).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_okta_sync_interrupted_at_fifty_random_points_ends_with_what_the_directory_holds() {
    ends_with_what_the_directory_holds(v1::ProviderKind::Okta).await;
}
