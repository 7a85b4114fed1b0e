//! What the hub shows of an integration, and how it learns that something broke or was mended.

use std::sync::Arc;

use e2e::Idp;
use idp_simulator::model::{Directory, Settings};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt as _;

use shared::wire::v1::{self, integration_service_client::IntegrationServiceClient};

use crate::{
    api::created,
    api_stage::{Desk, Stage, package},
};

const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const APP: &str = "11111111-2222-4333-8444-555555555555";
const SECRET: &str = "Zx8Q~secret+value/with=signs";
const PERMISSIONS: [&str; 4] = [
    "User.Read.All",
    "User.RevokeSessions.All",
    "User.EnableDisableAccount.All",
    "IdentityRiskyUser.ReadWrite.All",
];

/// An Entra ID tenant of three people at the simulator, synced.
struct World {
    stage: Stage,
    _idp: Idp,
    directory: Arc<Directory>,
    admin: Desk,
}

impl World {
    async fn new() -> Self {
        let idp = Idp::start().await;
        let people: Vec<Value> = (0..3)
            .map(|n| json!({"login": format!("p{n}@contoso.example"), "hybrid": n == 0, "password": "correct horse 9"}))
            .collect();
        let directory = idp.directory(json!({"name": "contoso", "provider": {"entra_id": {
            "tenant_id": TENANT, "domains": [{"name": "contoso.example"}],
            "apps": [{"client_id": APP, "secrets": [{"value": SECRET}], "permissions": PERMISSIONS}]}},
            "accounts": people}));
        let stage = Stage::with_directories(&idp).await;
        let admin = stage.desk("ann", &["org_admin"]);
        let secret = admin.file("secret", SECRET);
        let add = format!(
            "integration add entra --name contoso --directory {TENANT} --client-id {APP} --secret-file {}",
            secret.display()
        );
        admin.asks(&add).await;
        admin.asks("integration test contoso").await;
        admin.types("sync watch contoso").await;
        Self { stage, _idp: idp, directory, admin }
    }

    /// Changes the application registration at the provider.
    fn set(&self, field: &str, value: Value) {
        let mut settings = serde_json::to_value(&*self.directory.settings()).unwrap();
        settings["entra_id"]["apps"][0][field] = value;
        self.directory.set_settings(serde_json::from_value::<Settings>(settings).unwrap());
    }

    /// Has the worker look now, at everything, until the hub shows this.
    async fn shows(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_mins(1);
        while tokio::time::Instant::now() < deadline {
            self.stage
                .bus
                .execute("UPDATE sync.health_checks SET next_check_at = now(), full_check_at = NULL")
                .await;
            last = self.admin.asks("integration show contoso").await;
            if holds(&last) {
                return last;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        panic!("not within a minute: {what}: {last}");
    }

    async fn audited(&self) -> Vec<String> {
        self.stage.audited("integration").await.into_iter().map(|event| event.r#type).collect()
    }
}

fn warned(shown: &Value, reason: &str) -> bool {
    shown["warnings"].as_array().is_some_and(|all| all.iter().any(|w| w["reason"] == reason))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_breaks_is_an_error_until_it_is_mended_and_both_are_audited() {
    let world = World::new().await;
    let ahead = "SELECT ceil(extract(epoch FROM next_check_at - now()))::bigint FROM sync.health_checks";
    assert!((1..=100).contains(&world.stage.bus.count(ahead).await), "twice within five minutes, by itself");
    world.set("disabled", json!(true));
    let shown = world.shows("an error", |i| i["status"] == "INTEGRATION_STATUS_ERROR").await;
    assert!(shown["status_reason"].is_string() && shown["status_since"].is_string(), "{shown}");
    world.set("disabled", json!(false));
    let shown = world.shows("recovery", |i| i["status"] == "INTEGRATION_STATUS_ACTIVE").await;
    assert_eq!(shown.get("status_reason"), None, "{shown}");
    let told = world.audited().await;
    let place =
        |kind: &str| told.iter().position(|told| told == kind).unwrap_or_else(|| panic!("{kind}: {told:?}"));
    assert!(place("integration.error") < place("integration.recovered"));
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_taken_away_stops_what_needs_it_and_nothing_else() {
    let world = World::new().await;
    let of = |shown: &Value, name: &str| -> Value {
        let all = shown["capabilities"].as_array().unwrap();
        let name = format!("CAPABILITY_{name}");
        all.iter().find(|c| c["capability"] == name).unwrap_or_else(|| panic!("{name}: {shown}"))["state"]
            .clone()
    };
    world.set("permissions", json!(["User.Read.All", "User.RevokeSessions.All"]));
    let shown = world.shows("a warning", |i| warned(i, "permission_missing")).await;
    assert_eq!(shown["status"], "INTEGRATION_STATUS_ACTIVE");
    assert_eq!(of(&shown, "DISABLE_ACCOUNT"), "CAPABILITY_STATE_NOT_GRANTED");
    assert_eq!(of(&shown, "REVOKE_SESSIONS"), "CAPABILITY_STATE_WORKING");
    world.set("permissions", json!(PERMISSIONS));
    let shown = world.shows("no warning", |i| !warned(i, "permission_missing")).await;
    assert_eq!(of(&shown, "DISABLE_ACCOUNT"), "CAPABILITY_STATE_WORKING");
    let told = world.audited().await;
    for kind in ["integration.capability_lost", "integration.capability_recovered"] {
        assert!(told.iter().any(|told| told == kind), "{kind}: {told:?}");
    }
    assert!(!told.iter().any(|told| told == "integration.error"), "{told:?}");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_from_outside_does_not_take_for_working_what_the_validator_has_stopped() {
    let world = World::new().await;
    world
        .stage
        .bus
        .execute(
            "INSERT INTO validator.pauses (tenant_id, directory_id, reason, message, until)
                 SELECT tenant_id, directory_id, 'address_blocked', 'blocked', now() + interval '1 hour' FROM api.integrations;
             UPDATE api.capabilities SET state = 'failed', reason = 'address_blocked', observed_at = now() - interval '1 minute'
                 WHERE capability = 'validate'",
        )
        .await;
    world.shows("a look", |i| warned(i, "permission_unused")).await;
    let shown = world.shows("the loss", |i| warned(i, "capability_lost")).await;
    assert!(shown["warnings"].to_string().contains("address_blocked"), "{shown}");
    world.stage.bus.execute("UPDATE validator.pauses SET until = now()").await;
    world.shows("recovery", |i| !warned(i, "capability_lost")).await;
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_tells_how_much_there_is_what_waits_and_what_to_look_at() {
    let world = World::new().await;
    let bus = &world.stage.bus;
    bus.execute(
        "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identity_id,
             identifier_id, integration_id, provider, directory_id, object_id, login_at_match, source, secret_form,
             received_at, history, wanted, state, verdict, deferred_until)
         SELECT a.tenant_id, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', a.account_id, a.identity_id,
             gen_random_uuid(), a.integration_id, a.provider, a.directory_id, a.object_id, a.login,
             '{}', 'plaintext', now(), false, true, 'waiting', 'deferred', now() + interval '1 hour'
         FROM sync.accounts a;
         INSERT INTO validator.attempts (attempt_id, tenant_id, exposure_id, work_id, created_at)
             SELECT gen_random_uuid(), tenant_id, exposure_id, gen_random_uuid(), t.at
             FROM (SELECT * FROM validator.exposures LIMIT 1) e, (VALUES (now()), (now() - interval '2 days')) t (at);
         INSERT INTO mitigation.approvals (tenant_id, approval_id, held_by, integration_id, policy_version, state, joins_until,
             expires_at)
             SELECT tenant_id, gen_random_uuid(), 'brake', integration_id, 1, 'open', now(), now() FROM api.integrations;
         UPDATE sync.directories SET credential_expires_at = now() + interval '20 days 1 hour';
         INSERT INTO sync.directory_policies (tenant_id, integration_id, directory_id, lockout_threshold, read_at)
             SELECT tenant_id, integration_id, directory_id, 6, now() FROM sync.directories
             ON CONFLICT (tenant_id, integration_id) DO UPDATE SET lockout_threshold = 6",
    )
    .await;
    let shown = world.shows("what the look found", |i| warned(i, "permission_unused")).await;
    let counts = &shown["counts"];
    for (name, expected) in [
        ("accounts", "3"),
        ("identities", "3"),
        ("identifiers", "3"),
        ("attempts_today", "1"),
        ("deferred", "3"),
        ("approvals", "1"),
    ] {
        assert_eq!(counts[name], expected, "{name}: {counts}");
    }
    assert!(counts["counted_at"].is_string(), "{counts}");
    for reason in ["secret_expires", "hybrid_disable", "daily_max_near_threshold"] {
        assert!(warned(&shown, reason), "{reason}: {}", shown["warnings"]);
    }
    assert!(shown["warnings"].to_string().contains("ends in 20 days"), "{}", shown["warnings"]);
    assert_eq!(shown["updated_by"], "ann");
    let listed = world.admin.types("integration list").await;
    assert!(listed.contains("permission_unused") && listed.contains("NEXT SYNC"), "{listed}");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overview_sums_by_the_tenants_days_and_keeps_what_is_over() {
    let stage = Stage::new().await;
    created(&stage).await;
    let other = stage.new_tenant(&package(&[v1::ProviderKind::Okta])).await;
    let mut db = stage.bus.superuser().await;
    // At 23:30 in Tokyo it is another day than at 00:30 an hour later, though one day in UTC.
    sqlx::query("UPDATE api.tenants SET time_zone = 'Asia/Tokyo' WHERE tenant_id = $1")
        .bind(stage.tenant)
        .execute(&mut db)
        .await
        .unwrap();
    let exposure = "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id,
            identifier_id, integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at,
            history, wanted, state, verdict, verdict_at, decided_without_attempt, evidence, created_at)
        SELECT $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', gen_random_uuid(), gen_random_uuid(),
            gen_random_uuid(), 'entra_id', 'd', 'o', 'l', '{}', 'plaintext', now(), false, true, 'decided', $3, at, $4,
            '{}', at
        FROM (SELECT (((now() AT TIME ZONE 'Asia/Tokyo')::date - 5)::timestamp + $2::interval) AT TIME ZONE 'Asia/Tokyo' AS at) t";
    for (after, verdict, by_rule) in
        [("23:30", "valid_expired", false), ("24:30", "invalid", false), ("24:40", "stale", true)]
    {
        sqlx::query(exposure)
            .bind(stage.tenant)
            .bind(after)
            .bind(verdict)
            .bind(by_rule)
            .execute(&mut db)
            .await
            .unwrap();
    }
    sqlx::query(exposure).bind(other).bind("24:30").bind("valid").bind(false).execute(&mut db).await.unwrap();
    let desk = stage.desk("ann", &["viewer"]);
    let seen = desk.asks("overview").await;
    let days = |seen: &Value| seen["total"]["days"].as_array().unwrap().clone();
    let told =
        |day: &Value, name: &str| day.get(name).map_or("0".to_owned(), |n| n.as_str().unwrap().to_owned());
    let names = ["exposures", "valid", "invalid", "undecided", "attempts_saved"];
    let all = days(&seen);
    assert_eq!(all.len(), 30, "{seen}");
    let of = |day: &Value| names.map(|name| told(day, name));
    assert_eq!(of(&all[24]), ["1", "1", "0", "0", "0"], "{seen}");
    assert_eq!(of(&all[25]), ["2", "0", "1", "1", "1"], "{seen}");
    assert_eq!(seen["total"]["disabled"], "1");
    assert_eq!(seen["tenants"].as_array().unwrap().len(), 1);

    // Watched, it is printed again and again.
    let mut watched =
        desk.command(["overview", "--watch", "1"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(watched.stdout.take().unwrap()).lines();
    let mut tables = 0;
    while tables < 2 {
        let line = lines.next_line().await.unwrap().unwrap();
        tables += usize::from(line.starts_with("TENANT"));
    }
    watched.kill().await.unwrap();

    // The days that are over are kept, and read no exposure any more; yesterday and today are counted each time.
    let kept = "SELECT count(*) FROM api.overview_days";
    assert_eq!(stage.bus.count(kept).await, 28);
    stage.bus.execute("DELETE FROM validator.exposures").await;
    assert_eq!(days(&desk.asks("overview").await), all);
    stage.bus.execute("UPDATE api.tenants SET time_zone = 'Europe/Berlin'").await;
    assert_eq!(
        of(&days(&desk.asks("overview").await)[25]),
        ["0", "0", "0", "0", "0"],
        "other days, counted anew"
    );
    assert_eq!(stage.bus.count(kept).await, 28);

    // Of the organization: what the token lists, and nothing else.
    let request = v1::GetOverviewRequest { scope: v1::OverviewScope::Organization.into() };
    for (tenants, expected) in [(vec![stage.tenant], 1), (vec![stage.tenant, other], 2)] {
        let token = stage.token("ann", &tenants, &["viewer"]);
        let api = tonic::service::interceptor::InterceptedService::new(stage.channel.clone(), token);
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("x-parapet-tenant", stage.tenant.to_string().parse().unwrap());
        let seen = IntegrationServiceClient::new(api).get_overview(request).await.unwrap().into_inner();
        assert_eq!(seen.tenants.len(), expected);
        assert_eq!(seen.total.unwrap().disabled, 1);
    }
    stage.stop().await;
}
