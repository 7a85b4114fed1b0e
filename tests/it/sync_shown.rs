//! What people are told of syncs and of the accounts they brought: when everything is read again, how long a run takes,
//! what waits for a larger package, and all that is known about a person in one answer.

use std::collections::BTreeSet;

use e2e::{Bus, Idp};
use serde_json::{Value, json};
use shared::{id::TenantId, wire::v1};
use sqlx::Connection as _;
use time::{Date, Duration, OffsetDateTime};
use tonic::Code;

use crate::{
    api_stage::{self, package},
    sync_stage::{Stage, generated},
};

const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const APP: &str = "11111111-2222-4333-8444-555555555555";
const SECRET: &str = "Zx8Q~secret+value/with=signs";

#[tokio::test]
async fn a_full_run_comes_once_in_every_night_of_the_tenant_whatever_its_clock_does() {
    let bus = Bus::new().await;
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "America/Santiago",    // puts its clock forward at midnight
        "Australia/Lord_Howe", // by half an hour
        "Asia/Kolkata",
        "Pacific/Apia",
    ];
    for (zone, minute) in zones.into_iter().flat_map(|zone| [0, 90, 150, 299].map(|minute| (zone, minute))) {
        // For two years, each run takes twenty minutes.
        let nights: Vec<(Date, i64)> = sqlx::query_as(
            "WITH RECURSIVE nights AS (
                 SELECT sync.next_night('2026-01-01 12:00Z', $1, $2) AS due, 1 AS n
                 UNION ALL
                 SELECT sync.next_night(due + interval '20 minutes', $1, $2), n + 1 FROM nights WHERE n < 730)
             SELECT (due AT TIME ZONE $1)::date, extract(epoch FROM (due AT TIME ZONE $1)::time)::bigint / 60
             FROM nights ORDER BY n",
        )
        .bind(zone)
        .bind(minute)
        .fetch_all(&mut bus.superuser().await)
        .await
        .unwrap();
        let mut shifted = 0;
        for (at, (date, local)) in nights.iter().enumerate() {
            assert_eq!(*date, nights[0].0 + Duration::days(i64::try_from(at).unwrap()), "{zone} {minute}");
            shifted += i32::from(*local != i64::from(minute));
            assert!((0..=6 * 60).contains(local), "{zone} {minute}: {date} at minute {local}");
        }
        assert!(shifted <= 2, "{zone} {minute}: {shifted} nights at another time");
    }
    let unknown: OffsetDateTime =
        sqlx::query_scalar("SELECT sync.next_night('2026-01-01 12:00Z', 'Mars/Base', 60)")
            .fetch_one(&mut bus.superuser().await)
            .await
            .unwrap();
    assert_eq!(
        unknown,
        time::macros::datetime!(2026-01-02 01:00 UTC),
        "a zone that went away keeps nobody from reading"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_moves_a_tenant_to_a_time_zone_that_exists() {
    let stage = api_stage::Stage::new().await;
    let mut operator = stage.operator();
    let mut to = async |zone: &str| {
        let (tenant_id, time_zone) = (stage.tenant.to_string(), zone.to_owned());
        let request = v1::UpdateTenantTimeZoneRequest { tenant_id, time_zone };
        let moved = operator.update_tenant_time_zone(request).await;
        moved.map(|tenant| tenant.into_inner().tenant.unwrap().time_zone)
    };
    assert_eq!(to("Europe/Berlin").await.unwrap(), "Europe/Berlin");
    for wrong in ["Mars/Base", "right/UTC", "europe/berlin", ""] {
        assert_eq!(to(wrong).await.unwrap_err().code(), Code::InvalidArgument, "{wrong}");
    }
    let mut operator = stage.operator();
    let tenants =
        operator.list_tenants(v1::ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
    assert_eq!(tenants[0].time_zone, "Europe/Berlin");
    let request = v1::CreateTenantRequest {
        id: TenantId::new().to_string(),
        organization_id: stage.organization.to_string(),
        name: "elsewhere".into(),
        package: Some(package(&[v1::ProviderKind::Okta])),
        time_zone: "Asia/Kolkata".into(),
    };
    let made = operator.create_tenant(request.clone()).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!(made.time_zone, "Asia/Kolkata");
    let nowhere = v1::CreateTenantRequest { time_zone: "Nowhere".into(), ..request };
    assert_eq!(operator.create_tenant(nowhere).await.unwrap_err().code(), Code::InvalidArgument);
    stage.stop().await;
}

#[tokio::test]
async fn a_full_run_expects_as_many_accounts_as_the_last_one_read_where_the_provider_does_not_count() {
    let stage = Stage::new(generated(250), 1_000_000).await;
    let expected = async || {
        sqlx::query_scalar::<_, Option<i64>>(
            "SELECT accounts_expected FROM sync.runs ORDER BY started_at DESC LIMIT 1",
        )
        .fetch_one(&mut stage.bus.superuser().await)
        .await
        .unwrap()
    };
    let first = stage.sync(true).await;
    assert_eq!(expected().await, None, "nothing is known of the first");
    stage.sync(true).await;
    assert_eq!(expected().await, Some(first.seen));
    stage.sync(false).await;
    assert_eq!(expected().await, None, "nobody knows what changed");
}

#[tokio::test]
async fn identities_are_made_only_while_the_integration_and_the_package_say_so() {
    let stage = Stage::new(generated(40), 1_000_000).await;
    let bus = &stage.bus;
    let made = async || {
        let counts = "SELECT (SELECT count(*) FROM sync.accounts), (SELECT count(*) FROM sync.identities),
                             (SELECT count(*) FROM sync.identifiers) + (SELECT count(*) FROM sync.identifiers_skipped)";
        sqlx::query_as::<_, (i64, i64, i64)>(counts).fetch_one(&mut bus.superuser().await).await.unwrap()
    };
    let switch = "UPDATE api.integrations SET version = version + 1,
                      settings = jsonb_set(settings, '{identity_creation}', to_jsonb($1))";
    let switched = async |on: bool| {
        sqlx::query(switch).bind(on).execute(&mut bus.superuser().await).await.unwrap();
    };
    switched(false).await;
    assert_eq!(stage.sync(true).await.state, "finished");
    assert_eq!(made().await, (40, 0, 0), "accounts are synced all the same");
    bus.execute("UPDATE api.tenants SET identity_creation = false").await;
    switched(true).await;
    stage.sync(true).await;
    assert_eq!(made().await, (40, 0, 0), "the tenant is not entitled to it");
    bus.execute("UPDATE api.tenants SET identity_creation = true").await;
    stage.sync(false).await;
    let (accounts, identities, identifiers) = made().await;
    assert_eq!((accounts, identities), (40, 40), "nothing had to change in the directory");
    assert!(identifiers >= 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_how_long_a_sync_takes_when_the_next_comes_and_what_waits_for_a_larger_package() {
    let world = World::new(30, 40).await;
    let watched = world.admin.types("--json sync watch contoso").await;
    let last: Value = serde_json::from_str(watched.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["phase"], &last["accounts_expected"]),
        (&"SYNC_PHASE_DONE".into(), &"30".into()),
        "{last}"
    );
    assert_eq!(last["expected_end_at"], Value::Null, "it has ended");
    let waits: i64 = last["identifiers_skipped"].as_str().unwrap().parse().unwrap();
    assert_eq!(waits, world.stage.bus.count("SELECT count(*) FROM sync.identifiers_skipped").await);
    let said = last["message"].as_str().unwrap();
    assert!(
        said.starts_with(&format!("{waits} identifiers wait"))
            && said.ends_with("cap of 40 is reached; ask sales@parapet.example"),
        "{said}"
    );
    assert_eq!(
        world.stage.bus.count("SELECT count(*) FROM sync.identities").await,
        30,
        "profiles are made at the cap"
    );

    let shown = world.admin.asks("integration show contoso").await;
    assert_eq!(shown["last_sync"]["message"], said);
    let due: (OffsetDateTime, i32) = sqlx::query_as(
        "SELECT next_full_at, extract(hour FROM next_full_at AT TIME ZONE 'Asia/Tokyo')::integer FROM sync.directories",
    )
    .fetch_one(&mut world.stage.bus.superuser().await)
    .await
    .unwrap();
    let next = shown["sync_health"]["next_full_at"].as_str().unwrap();
    let next = OffsetDateTime::parse(next, &time::format_description::well_known::Rfc3339).unwrap();
    assert!((next - due.0).abs() < Duration::MILLISECOND, "{shown}");
    assert!((0..5).contains(&due.1), "{due:?}");
    let ahead = next - OffsetDateTime::now_utc();
    assert!((Duration::hours(7)..Duration::hours(34)).contains(&ahead), "{ahead}");
    world.stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_tells_all_about_a_person() {
    let world = World::new(1, 1000).await;
    world.admin.types("sync watch contoso").await;
    let account: Value = world.account();
    let mut db = world.stage.bus.superuser().await;
    let mut tx = db.begin().await.unwrap();
    for statement in [
        "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identity_id,
             identifier_id, integration_id, provider, directory_id, object_id, login_at_match, source, secret_form,
             received_at, history, wanted, state, verdict, verdict_reason, verdict_at)
         SELECT a.tenant_id, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'flare', a.account_id, a.identity_id,
             i.identifier_id, a.integration_id, a.provider, a.directory_id, a.object_id, a.login,
             '{\"id\":\"s\",\"name\":\"Leak\",\"kind\":\"breach\"}', 'plaintext', now(), false, true, 'decided', 'valid',
             NULL, now()
         FROM sync.accounts a JOIN sync.identifiers i USING (tenant_id, account_id) WHERE i.kind = 'login'",
        "INSERT INTO mitigation.mitigations (tenant_id, mitigation_id, exposure_id, account_id, integration_id, provider,
             directory_id, object_id, login, is_admin, action, state, automatic)
         SELECT tenant_id, gen_random_uuid(), exposure_id, account_id, integration_id, provider, directory_id, object_id,
             login_at_match, false, 'revoke_sessions', 'verified', true
         FROM validator.exposures",
    ] {
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();

    let login = account["login"].as_str().unwrap().to_lowercase();
    let listed = world.admin.asks(&format!("identity list --identifier {login}")).await;
    let id = listed[0]["id"].as_str().unwrap();
    let shown = world.admin.asks(&format!("identity show {id}")).await;
    let profile = &shown["identity"]["accounts"][0];
    let told =
        |of: &Value, names: &[&str]| -> Vec<Value> { names.iter().map(|name| of[*name].clone()).collect() };
    assert_eq!(
        told(
            profile,
            &["provider", "directory_id", "object_id", "login", "display_name", "state", "kind", "authority"]
        ),
        [
            "PROVIDER_KIND_ENTRA_ID".into(),
            TENANT.into(),
            account["id"].clone(),
            account["login"].clone(),
            account["display_name"].clone(),
            "ACCOUNT_STATE_ACTIVE".into(),
            "ACCOUNT_KIND_MEMBER".into(),
            "PASSWORD_AUTHORITY_CLOUD".into(),
        ]
    );
    assert_eq!(told(profile, &["hybrid", "is_admin"]), [Value::from(true), true.into()]);
    for date in ["password_changed_at", "created_at", "first_seen_at", "last_seen_at"] {
        assert!(profile[date].is_string(), "{date}: {profile}");
    }
    let values: BTreeSet<&str> =
        shown["identifiers"].as_array().unwrap().iter().filter_map(|i| i["value"].as_str()).collect();
    assert_eq!(values, BTreeSet::from([login.as_str(), "other@home.example"]));
    assert_eq!(shown["exposures"][0]["verdict"]["kind"], "VERDICT_KIND_VALID", "{shown}");
    assert_eq!(shown["mitigations"][0]["action"], "MITIGATION_ACTION_REVOKE_SESSIONS", "{shown}");
    assert_eq!(shown["mitigations"][0]["state"], "verified", "{shown}");

    // What the directory does not show any more is told as such.
    let now = world.idp.simulator.world.now();
    let object = account["id"].as_str().unwrap();
    world.directory.accounts.patch(object, &json!({"status": "deleted"}), now).unwrap().unwrap();
    world.admin.types("sync start contoso --watch").await;
    let shown = world.admin.asks(&format!("identity show {id}")).await;
    assert!(shown["identity"]["accounts"][0]["missing_since"].is_string(), "{shown}");
    world.stage.stop().await;
}

/// An Entra ID tenant at the simulator, read for a tenant in Tokyo with this cap.
struct World {
    stage: api_stage::Stage,
    idp: Idp,
    directory: std::sync::Arc<idp_simulator::model::Directory>,
    admin: api_stage::Desk,
}

impl World {
    async fn new(accounts: usize, identifier_cap: i64) -> Self {
        let idp = Idp::start().await;
        let people: Vec<Value> = (0..accounts)
            .map(|n| {
                json!({"login": format!("P{n}@contoso.example"), "email": format!("p{n}@contoso.example"),
                    "display_name": format!("Person {n}"), "other_emails": ["Other@home.example"], "hybrid": true,
                    "password": "correct horse battery 9", "roles": ["Global Administrator"]})
            })
            .collect();
        let directory = idp.directory(json!({"name": "contoso", "provider": {"entra_id": {
                "tenant_id": TENANT, "domains": [{"name": "contoso.example"}],
                "apps": [{"client_id": APP, "secrets": [{"value": SECRET}], "permissions": ["User.Read.All",
                    "RoleManagement.Read.Directory", "User.RevokeSessions.All", "User.EnableDisableAccount.All"]}]}},
            "accounts": people}));
        let stage = api_stage::Stage::with_directories(&idp).await;
        sqlx::query("UPDATE api.tenants SET identifier_cap = $1, time_zone = 'Asia/Tokyo'")
            .bind(identifier_cap)
            .execute(&mut stage.bus.superuser().await)
            .await
            .unwrap();
        let admin = stage.desk("ann", &["org_admin"]);
        let secret = admin.file("secret", SECRET);
        let add = format!(
            "integration add entra --name contoso --directory {TENANT} --client-id {APP} --secret-file {}",
            secret.display()
        );
        admin.asks(&add).await;
        admin.asks("integration test contoso").await;
        Self { stage, idp, directory, admin }
    }

    fn account(&self) -> Value {
        let (accounts, _) = self.directory.accounts.page(0, 1, |_| true);
        serde_json::to_value(&accounts[0]).unwrap()
    }
}
