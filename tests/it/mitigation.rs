//! The executor against both simulated directories, on a real database and a real broker.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use e2e::{Bus, Idp};
use idp_simulator::model::Directory;
use mitigation_executor::config::{Brake, Config, Keys, Tuning};
use serde_json::{Value, json};
use shared::{
    db::Db,
    id::{AccountId, ExposureId, IntegrationId, MitigationRequestId, ProviderKind, TenantId},
    outbox::{self, Topic},
    provider::{Action, okta::keys},
    sealing::{Owner, Purpose, TopKey, column},
    wire::events::MitigationRequested,
};
use sqlx::Row as _;
use tokio::{sync::oneshot, task::JoinHandle};

const ORG: &str = "00oacme0000000000001";
const ENTRA: &str = "7c2f1f6e-1111-4222-8333-444455556666";
const CLIENT: &str = "0oaparapet0000000001";
const ENTRA_CLIENT: &str = "11112222-3333-4444-8555-666677778888";

/// A tenant with one directory, its accounts synced, and an executor.
struct Stage {
    bus: Bus,
    idp: Idp,
    directory: Arc<Directory>,
    directory_id: &'static str,
    provider: ProviderKind,
    tenant: TenantId,
    integration: IntegrationId,
    /// As the executor's own role, to hand it requests as its neighbours do.
    db: Db,
    files: tempfile::TempDir,
    config: Config,
    running: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<ExitCode>>)>,
}

fn switched(actions: &[Action], automated: bool, manual: bool) -> Value {
    let mut switches = serde_json::Map::new();
    for action in actions {
        switches.insert(action.as_str().to_owned(), json!({ "automated": automated, "manual": manual }));
    }
    json!({ "identity_creation": true, "mitigation": switches })
}

/// No brake: each test puts on the one it is about.
fn free() -> Brake {
    Brake {
        accounts_per_hour: 1000,
        percent_of_accounts: 100,
        share_from_accounts: 1000,
        hold_first_run: false,
    }
}

fn people(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| json!({ "login": format!("u{n:03}@acme.example"), "password": "right horse battery" }))
        .collect()
}

impl Stage {
    async fn new(provider: ProviderKind, accounts: Vec<Value>, settings: Value, brake: Brake) -> Self {
        let mut stage = Self::prepare(provider, accounts, settings, brake).await;
        stage.start();
        stage
    }

    /// The same before any executor was started.
    async fn prepare(provider: ProviderKind, accounts: Vec<Value>, settings: Value, brake: Brake) -> Self {
        let (bus, idp) = (Bus::new().await, Idp::start().await);
        let files = tempfile::tempdir().unwrap();
        let top = TopKey::generate(Purpose::Integration).unwrap();
        let key_file: PathBuf = files.path().join("integration.key");
        std::fs::write(&key_file, top.to_file().unwrap().as_bytes()).unwrap();
        let (tenant, integration) = (TenantId::new(), IntegrationId::new());
        let pair = top.new_key_pair(Some(tenant), 1).unwrap();
        let sealer = top.verifier().sealer(Some(tenant), 1, &pair.public, &pair.signature).unwrap();
        let mut root = bus.superuser().await;
        sqlx::query(
            "WITH o AS (INSERT INTO api.organizations (organization_id, name) VALUES ($1, $1::text) RETURNING organization_id)
             INSERT INTO api.tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
                                      mitigation, identifier_cap, integration_cap, contact)
             SELECT $1, organization_id, 'main', '{okta,entra_id}', true, true, true, 1000, 1, 'sales' FROM o",
        )
        .bind(tenant)
        .execute(&mut root)
        .await
        .unwrap();
        sqlx::query("INSERT INTO sync.sealing_keys (tenant_id, version, public_key, signature, wrapped_private) VALUES ($1, 1, $2, $3, $4)")
            .bind(tenant)
            .bind(&pair.public)
            .bind(&pair.signature)
            .bind(&pair.wrapped_private)
            .execute(&mut root)
            .await
            .unwrap();
        let owner = |table| Owner { tenant: Some(tenant), table, row: integration.uuid(), version: 1 };
        let (spec, connection, directory_id) = match provider {
            ProviderKind::Okta => {
                let key = tokio::task::spawn_blocking(keys::generate).await.unwrap().unwrap();
                let app = json!({ "client_id": CLIENT, "roles": ["SUPER_ADMIN"], "jwks": keys::jwks(std::slice::from_ref(&key.public)),
                    "scopes": ["okta.users.read", "okta.users.manage", "okta.policies.read", "okta.roles.read"] });
                let okta = json!({ "org_id": ORG, "subdomain": "acme", "mail_domain": "acme.example", "buckets": null, "apps": [app] });
                let sealed = sealer.seal(&owner(column::CLIENT_KEY), key.pkcs8.expose()).unwrap();
                sqlx::query("INSERT INTO sync.client_keys (tenant_id, integration_id, version, kid, sealed_private) VALUES ($1, $2, 1, $3, $4)")
                    .bind(tenant)
                    .bind(integration)
                    .bind(&key.kid)
                    .bind(sealed)
                    .execute(&mut root)
                    .await
                    .unwrap();
                (json!({ "okta": okta }), json!({ "host": "acme.okta.com", "client_id": CLIENT }), ORG)
            }
            ProviderKind::EntraId => {
                let app = json!({ "client_id": ENTRA_CLIENT, "secrets": [{ "value": "only-for-tests" }],
                    "permissions": ["User.Read.All", "User.RevokeSessions.All", "User.EnableDisableAccount.All",
                        "IdentityRiskyUser.ReadWrite.All", "IdentityRiskyUser.Read.All", "RoleManagement.Read.Directory",
                        "Directory.Read.All", "AuditLog.Read.All"],
                    "roles": ["Privileged Authentication Administrator"] });
                let entra = json!({ "tenant_id": ENTRA, "domains": [{ "name": "acme.example" }], "apps": [app],
                    "licences": ["P1", "P2"], "risk_throttling": false });
                (
                    json!({ "entra_id": entra }),
                    json!({ "cloud": "global", "tenant": ENTRA, "client_id": ENTRA_CLIENT }),
                    ENTRA,
                )
            }
        };
        let directory = idp.directory(json!({ "name": "Acme", "provider": spec, "accounts": accounts }));
        sqlx::query(
            "INSERT INTO api.integrations (tenant_id, integration_id, name, provider, config, settings, status, status_reason,
                                           status_message, directory_id, created_by, updated_by)
             VALUES ($1, $2, 'Acme', $3, $4, $5, 'active', '', '', $6, 'test', 'test')",
        )
        .bind(tenant)
        .bind(integration)
        .bind(provider.as_str())
        .bind(connection)
        .bind(settings)
        .bind(directory_id)
        .execute(&mut root)
        .await
        .unwrap();
        if provider == ProviderKind::EntraId {
            let sealed = sealer.seal(&owner(column::INTEGRATION_SECRET), b"only-for-tests").unwrap();
            sqlx::query("INSERT INTO api.integration_secrets (tenant_id, integration_id, version, sealed) VALUES ($1, $2, 1, $3)")
                .bind(tenant)
                .bind(integration)
                .bind(sealed)
                .execute(&mut root)
                .await
                .unwrap();
        }
        let config = Config {
            common: bus.common_as("parapet_mitigation"),
            idp: idp.egress_config(),
            keys: Keys { integration: key_file },
            executor: Tuning { check_after_seconds: vec![0, 2], ..Tuning::default() },
            brake,
        };
        let db = Db::connect(&config.common.database).await.unwrap();
        let stage = Self {
            bus,
            idp,
            directory,
            directory_id,
            provider,
            tenant,
            integration,
            db,
            files,
            config,
            running: None,
        };
        stage.sync().await;
        stage
    }

    /// Copies the directory's accounts to where identity-sync-worker would.
    async fn sync(&self) {
        let (accounts, _) = self.directory.accounts.page(0, usize::MAX, |_| true);
        for account in accounts {
            sqlx::query(
                "INSERT INTO sync.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
                     login_key, display_name, addresses, state, kind, authority, is_admin, hybrid)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $7, '', '{}', 'active', 'member', 'cloud', $8, $9)",
            )
            .bind(self.tenant)
            .bind(AccountId::new())
            .bind(self.integration)
            .bind(self.provider.as_str())
            .bind(self.directory_id)
            .bind(&account.id)
            .bind(&account.login)
            .bind(!account.roles.is_empty())
            .bind(account.hybrid)
            .execute(&mut self.bus.superuser().await)
            .await
            .unwrap();
        }
    }

    fn start(&mut self) {
        assert!(self.files.path().exists());
        let (stop, asked) = oneshot::channel::<()>();
        let run = mitigation_executor::run(self.config.clone(), async move {
            if asked.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        self.running = Some((stop, tokio::spawn(run)));
    }

    async fn stop(&mut self) {
        let (stop, ended) = self.running.take().unwrap();
        stop.send(()).unwrap();
        assert_eq!(format!("{:?}", ended.await.unwrap().unwrap()), format!("{:?}", ExitCode::SUCCESS));
    }

    async fn account(&self, login: &str) -> uuid::Uuid {
        sqlx::query_scalar("SELECT account_id FROM sync.accounts WHERE login = $1")
            .bind(login)
            .fetch_one(&mut self.bus.superuser().await)
            .await
            .unwrap()
    }

    /// A person asks, as integration-api stores it; the message is sent as often as said.
    async fn ask(&self, who: &str, logins: &[&str], actions: &[Action], release: bool, times: usize) {
        let request = MitigationRequestId::new();
        let mut accounts = Vec::new();
        for login in logins {
            accounts.push(self.account(login).await);
        }
        sqlx::query(
            "INSERT INTO api.mitigation_requests (tenant_id, request_id, requested_by, requester_name, actions, account_ids,
                 exposure_ids, release, reason)
             VALUES ($1, $2, $3, $3, $4, $5, '{}', $6, 'because')",
        )
        .bind(self.tenant)
        .bind(request)
        .bind(who)
        .bind(actions.iter().map(|a| a.as_str()).collect::<Vec<_>>())
        .bind(accounts)
        .bind(release)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        let message = MitigationRequested {
            tenant_id: self.tenant.to_string(),
            request_id: request.to_string(),
            ..MitigationRequested::default()
        };
        self.send(message, times).await;
    }

    async fn send(&self, message: MitigationRequested, times: usize) {
        let mut tx = self.db.system().await.unwrap();
        outbox::enqueue_many(&mut tx, Topic::MitigationRequested, Some(self.tenant), &vec![message; times])
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// The validator proves a leaked password of this account.
    async fn prove(&self, login: &str, verdict: &str, times: usize) {
        let exposure = ExposureId::new();
        sqlx::query(
            "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at,
                 history, wanted, verdict, verdict_at, state)
             SELECT tenant_id, $1, $1, $1, 'test', account_id, $1, integration_id, provider, directory_id, object_id, login,
                 '{}', 'plaintext', clock_timestamp(), false, true, $3, clock_timestamp(), 'decided'
             FROM sync.accounts WHERE login = $2",
        )
        .bind(exposure)
        .bind(login)
        .bind(verdict)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        let message = MitigationRequested {
            tenant_id: self.tenant.to_string(),
            exposure_id: exposure.to_string(),
            ..MitigationRequested::default()
        };
        self.send(message, times).await;
    }

    /// Waits until this query over mitigations counts so many.
    async fn until(&self, query: &'static str, expected: i64) {
        self.bus.until_count(query, expected).await;
    }

    /// State and reason of every mitigation, by sign-in name and action.
    async fn told(&self) -> Vec<(String, String, String, Option<String>)> {
        sqlx::query("SELECT login, action, state, coalesce(held_by, reason) AS why FROM mitigation.mitigations ORDER BY login, action")
            .fetch_all(&mut self.bus.superuser().await)
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get("login"), row.get("action"), row.get("state"), row.get("why")))
            .collect()
    }

    /// What our application changed at the directory, in order.
    fn done(&self) -> Vec<String> {
        let ours = |actor: &str| actor == CLIENT || actor == ENTRA_CLIENT;
        self.idp.changes().into_iter().filter(|c| ours(&c.actor)).map(|c| c.action).collect()
    }
}

const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
const HELD: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'held'";
const REFUSED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'refused'";

#[tokio::test(flavor = "multi_thread")]
async fn every_action_on_an_okta_account_ends_contained_and_verified() {
    let actions = [Action::RevokeSessions, Action::DisableAccount];
    let mut stage = Stage::new(ProviderKind::Okta, people(1), switched(&actions, false, true), free()).await;
    stage.ask("ann", &["u000@acme.example"], &actions, false, 1).await;
    stage.until(VERIFIED, 2).await;
    let account = stage.directory.accounts.by_login("u000@acme.example").unwrap();
    assert_eq!(format!("{:?}", account.status), "Suspended");
    let mut done = stage.done();
    done.sort();
    assert_eq!(done, ["revoke_sessions", "suspend"]);
    // Intents were committed before the calls, outcomes after.
    let ledger = "SELECT count(*) FROM mitigation.ledger WHERE outcome = 'done' AND intent_at < settled_at";
    assert_eq!(stage.bus.count(ledger).await, 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_on_an_entra_account_ends_contained_and_verified() {
    let mut stage =
        Stage::new(ProviderKind::EntraId, people(1), switched(&Action::ALL, false, true), free()).await;
    stage.ask("ann", &["u000@acme.example"], &Action::ALL, false, 1).await;
    stage.until(VERIFIED, 3).await;
    let account = stage.directory.accounts.by_login("u000@acme.example").unwrap();
    assert_eq!(format!("{:?}", account.status), "Disabled");
    let mut done = stage.done();
    done.sort();
    assert_eq!(done, ["confirm_compromised", "disable", "revoke_sessions"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_switched_on_or_proven_is_refused_before_any_call() {
    let automated = switched(&[Action::RevokeSessions], true, false);
    let mut stage = Stage::new(ProviderKind::Okta, people(2), automated, free()).await;
    stage
        .ask("ann", &["u000@acme.example"], &[Action::RevokeSessions, Action::DisableAccount], false, 1)
        .await;
    stage.until(REFUSED, 2).await;
    stage.prove("u001@acme.example", "invalid", 1).await;
    stage.prove("u001@acme.example", "valid_second_factor", 1).await;
    stage.until(VERIFIED, 1).await;
    let whys: Vec<_> = stage
        .told()
        .await
        .into_iter()
        .filter_map(|(_, _, state, why)| (state == "refused").then_some(why))
        .collect();
    assert_eq!(whys, [Some("switched_off".to_owned()), Some("switched_off".to_owned())]);
    assert_eq!(stage.done(), ["revoke_sessions"], "only the valid verdict led to a call");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_holds_what_is_beyond_its_limit_until_a_person_releases_it() {
    let settings = switched(&[Action::DisableAccount], true, false);
    let brake = Brake { accounts_per_hour: 3, ..free() };
    let mut stage = Stage::new(ProviderKind::Okta, people(8), settings, brake).await;
    let logins: Vec<String> = (0..8).map(|n| format!("u{n:03}@acme.example")).collect();
    for login in &logins {
        stage.prove(login, "valid", 1).await;
    }
    stage.until(HELD, 5).await;
    stage.until(VERIFIED, 3).await;
    assert_eq!(stage.done().len(), 3);
    let all: Vec<&str> = logins.iter().map(String::as_str).collect();
    stage.ask("bob", &all, &[], true, 1).await;
    stage.until(VERIFIED, 8).await;
    assert_eq!(stage.done().len(), 8);
    let released = "SELECT count(*) FROM mitigation.mitigations WHERE released_by = 'bob'";
    assert_eq!(stage.bus.count(released).await, 5);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_brake_nothing_is_held() {
    let settings = switched(&[Action::DisableAccount], true, false);
    let mut stage = Stage::new(ProviderKind::Okta, people(8), settings, free()).await;
    for n in 0..8 {
        stage.prove(&format!("u{n:03}@acme.example"), "valid", 1).await;
    }
    stage.until(VERIFIED, 8).await;
    assert_eq!(stage.bus.count(HELD).await, 0, "the negative control of the brake's test");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_held_and_whoever_asked_cannot_release() {
    let boss =
        json!({ "login": "boss@acme.example", "password": "right horse battery", "roles": ["ORG_ADMIN"] });
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, vec![boss], settings, free()).await;
    stage.ask("ann", &["boss@acme.example"], &[Action::DisableAccount], false, 1).await;
    stage.prove("boss@acme.example", "valid", 1).await;
    stage.until(HELD, 2).await;
    stage.ask("ann", &["boss@acme.example"], &[], true, 1).await;
    // Ann releases the rule's, not her own.
    stage.until(VERIFIED, 1).await;
    assert_eq!(stage.bus.count(HELD).await, 1);
    stage.ask("bob", &["boss@acme.example"], &[], true, 1).await;
    stage.until(VERIFIED, 2).await;
    assert_eq!(stage.done(), ["suspend"], "the second one found it done");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_automated_run_waits_for_a_person_and_the_next_does_not() {
    let settings = switched(&[Action::RevokeSessions], true, false);
    let brake = Brake { hold_first_run: true, ..free() };
    let mut stage = Stage::new(ProviderKind::Okta, people(3), settings, brake).await;
    stage.prove("u000@acme.example", "valid", 1).await;
    stage.until(HELD, 1).await;
    stage.ask("bob", &["u000@acme.example"], &[], true, 1).await;
    stage.until(VERIFIED, 1).await;
    stage.prove("u001@acme.example", "valid", 1).await;
    stage.until(VERIFIED, 2).await;
    stage.bus.execute("UPDATE api.integrations SET version = version + 1").await;
    stage.prove("u002@acme.example", "valid", 1).await;
    stage.until(HELD, 1).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_repetitions_have_one_effect() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(2), settings, free()).await;
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], false, 1000).await;
    stage.prove("u001@acme.example", "valid", 1000).await;
    stage.until(VERIFIED, 2).await;
    stage.until("SELECT count(*) FROM mitigation.outbox WHERE topic = 'mitigation.requested'", 0).await;
    stage.until("SELECT count(*) FROM mitigation.inbox WHERE consumer = 'mitigation.requested' AND status = 'done'", 2000).await;
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await, 2);
    assert_eq!(stage.done(), ["suspend", "suspend"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_takes_back_at_the_directory_is_noticed() {
    let settings = switched(&[Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(1), settings, free()).await;
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], false, 1).await;
    stage.until(VERIFIED, 1).await;
    let id = stage.directory.accounts.by_login("u000@acme.example").unwrap().id;
    let now = stage.idp.simulator.world.now();
    stage.directory.accounts.patch(&id, &json!({ "status": "active" }), now).unwrap().unwrap();
    stage.until("SELECT count(*) FROM mitigation.mitigations WHERE state = 'reverted' AND reverted_at IS NOT NULL", 1).await;
    assert_eq!(stage.done(), ["suspend"], "it is reported, not fought over");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_the_deed_ends_verified_without_a_second_call() {
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(1), settings, free()).await;
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "effect": "reset", "evaluate": true }));
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], false, 1).await;
    stage.until(VERIFIED, 1).await;
    assert_eq!(stage.done(), ["suspend"]);
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.ledger WHERE outcome = 'unknown'").await, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_between_intent_and_outcome_leaves_what_the_next_one_settles() {
    for deed_happened in [false, true] {
        let settings = switched(&[Action::DisableAccount], false, true);
        let mut stage = Stage::prepare(ProviderKind::Okta, people(1), settings, free()).await;
        stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], false, 1).await;
        // What a process leaves that was killed with the intent committed, and its call made or not.
        sqlx::query(
            "WITH m AS (
                 INSERT INTO mitigation.mitigations (tenant_id, mitigation_id, request_id, account_id, integration_id, provider,
                     directory_id, object_id, login, is_admin, action, state, automatic, requested_by, attempt, acting_message, acting_until)
                 SELECT a.tenant_id, r.request_id, r.request_id, a.account_id, a.integration_id, a.provider, a.directory_id, a.object_id,
                     a.login, false, 'disable_account', 'acting', false, 'ann', 1, gen_random_uuid(), clock_timestamp()
                 FROM sync.accounts a, api.mitigation_requests r RETURNING *),
             l AS (INSERT INTO mitigation.ledger (tenant_id, mitigation_id, attempt, before_state)
                   SELECT tenant_id, mitigation_id, 1, 'active' FROM m)
             INSERT INTO mitigation.work (work_id, tenant_id, directory, kind, subject, priority, due_at)
             SELECT gen_random_uuid(), tenant_id, directory_id, 'mitigation', mitigation_id, 0, clock_timestamp() FROM m",
        )
        .execute(&mut stage.bus.superuser().await)
        .await
        .unwrap();
        if deed_happened {
            let id = stage.directory.accounts.by_login("u000@acme.example").unwrap().id;
            let now = stage.idp.simulator.world.now();
            stage.directory.accounts.patch(&id, &json!({ "status": "suspended" }), now).unwrap().unwrap();
        }
        stage.start();
        stage.until(VERIFIED, 1).await;
        assert_eq!(stage.done().len(), usize::from(!deed_happened));
        assert_eq!(
            stage.bus.count("SELECT count(*) FROM mitigation.ledger WHERE outcome = 'unknown'").await,
            1
        );
        assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await, 1);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_postpones_everything_and_spends_nothing() {
    let settings = switched(&[Action::DisableAccount], false, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(3), settings, free()).await;
    stage.idp.fault(json!({ "operation": "okta.users.lifecycle", "times": 2, "effect": { "throttle": { "hint": { "rate_limit_reset": 1 } } } }));
    let logins = ["u000@acme.example", "u001@acme.example", "u002@acme.example"];
    stage.ask("ann", &logins, &[Action::DisableAccount], false, 1).await;
    stage.until(VERIFIED, 3).await;
    assert_eq!(stage.done(), ["suspend", "suspend", "suspend"]);
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.work WHERE state = 'parked'").await, 0);
    stage.stop().await;
}
