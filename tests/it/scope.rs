//! Scopes: what a sync of groups brings in and lets go, how a scope is changed, and what a preview says.

use e2e::Idp;
use serde_json::{Value, json};
use shared::wire::v1;

use crate::{api_stage, sync_stage::Stage};

const PILOT: &str = "00gpilot000000000001";
const STAFF: &str = "00gstaff000000000001";

/// Twenty people; the pilot group has those with these numbers, the staff group everybody.
fn company(pilot: impl IntoIterator<Item = usize>) -> Value {
    let id = |n: usize| format!("00uperson0000000{n:04}");
    let people: Vec<_> =
        (0..20).map(|n| json!({"id": id(n), "login": format!("p{n}@acme.example")})).collect();
    json!({"accounts": people, "groups": [
        {"id": PILOT, "name": "Pilot", "members": pilot.into_iter().map(id).collect::<Vec<_>>()},
        {"id": STAFF, "name": "Staff", "members": (0..20).map(id).collect::<Vec<_>>()},
    ]})
}

const THERE: &str = "SELECT count(*) FROM sync.accounts WHERE removed_at IS NULL";
const MISSING: &str =
    "SELECT count(*) FROM sync.accounts WHERE missing_since IS NOT NULL AND removed_at IS NULL";

#[tokio::test]
async fn a_scoped_sync_reads_members_only_and_changes_bring_in_nobody_and_nobody_back() {
    let mut stage = Stage::new(company(0..12), 1000).await;
    stage.cover(&[PILOT]).await;
    let run = stage.sync(true).await;
    assert_eq!((run.state.as_str(), run.created), ("finished", 12), "{run:?}");

    for login in ["p3@acme.example", "p15@acme.example"] {
        stage.patch(login, &json!({"display_name": "Changed"}));
    }
    let run = stage.sync(false).await;
    assert_eq!((run.state.as_str(), run.created), ("finished", 0), "a stranger's change: {run:?}");
    let changed = "SELECT count(*) FROM sync.accounts WHERE display_name = 'Changed'";
    assert_eq!(stage.bus.count(changed).await, 1);

    // One person leaves the group and stays in the directory.
    stage.replace(&company(0..11));
    let run = stage.sync(true).await;
    assert_eq!((run.state.as_str(), run.missing), ("finished", 1), "{run:?}");
    stage.patch("p11@acme.example", &json!({"display_name": "Still here"}));
    stage.sync(false).await;
    assert_eq!(stage.bus.count(MISSING).await, 1, "a change is no membership");
    let run = stage.sync(true).await;
    assert_eq!((run.removed, stage.bus.count(THERE).await), (1, 11), "{run:?}");
}

#[tokio::test]
async fn a_scope_that_is_widened_under_a_run_is_read_by_it() {
    let stage = Stage::new(company(0..5), 1000).await;
    stage.cover(&[PILOT]).await;
    // The listing of the old scope is held up long enough for the new one to come.
    stage.idp.fault(json!({"operation": "okta.groups", "times": 1, "effect": {"status": {"status": 503}}}));
    let run = shared::id::SyncRunId::new();
    stage.request(run, true, 1).await;
    e2e::until("the fault was met", || async { stage.run(run).await.is_some_and(|r| !r.message.is_empty()) })
        .await;
    stage.cover(&[STAFF]).await;
    let run = stage.ended(run).await;
    assert_eq!((run.state.as_str(), stage.bus.count(THERE).await), ("finished", 20), "{run:?}");
}

/// An Entra ID tenant whose pilot group has every third of 30 accounts, and one more group with all.
fn contoso() -> Value {
    json!({"name": "contoso", "provider": {"entra_id": {
            "tenant_id": TENANT, "domains": [{"name": "contoso.example"}],
            "apps": [{"client_id": APP, "secrets": [{"value": SECRET}],
                      "permissions": ["User.Read.All", "GroupMember.Read.All", "User.RevokeSessions.All",
                          "User.EnableDisableAccount.All"]}]}},
        "generated": {"seed": 7, "count": 30},
        "groups": [{"id": GROUP, "name": "Pilot", "every": 3}, {"id": WIDER, "name": "Staff", "every": 1}]})
}
const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const APP: &str = "11111111-2222-4333-8444-555555555555";
const SECRET: &str = "Zx8Q~secret+value/with=signs";
const GROUP: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000001";
const WIDER: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000002";
const NOWHERE: &str = "6d1f8f6e-1f0a-4a53-9d2e-00000000000f";

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_previewed_tested_and_changed_without_a_gap_in_service() {
    let idp = Idp::start().await;
    let directory = idp.directory(contoso());
    let stage = api_stage::Stage::with_directories(&idp).await;
    let admin = stage.desk("ann", &["org_admin"]);
    let secret = admin.file("secret", SECRET);
    let add = format!(
        "integration add entra --name contoso --directory {TENANT} --client-id {APP} --secret-file {} --group {GROUP}",
        secret.display()
    );
    let dry = admin.asks(&format!("{add} --dry-run")).await;
    assert_eq!(dry[0]["state"], "CAPABILITY_STATE_WORKING", "{dry}");
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.integrations").await, 0, "nothing was saved");
    admin.asks(&add).await;
    admin.asks("integration test contoso").await;
    admin.types("sync watch contoso").await;
    assert_eq!(stage.bus.count(THERE).await, 10);

    let wider = admin.asks(&format!("integration preview contoso --group {WIDER},{GROUP}")).await;
    let counts = |of: &Value| {
        ["accounts_added", "accounts_kept", "accounts_removed"]
            .map(|name| of[name].as_str().unwrap_or("0").to_owned())
    };
    assert_eq!(counts(&wider), ["20", "10", "0"], "whoever is in both groups counts once: {wider}");
    assert_eq!(wider["added_sample"].as_array().unwrap().len(), 20);
    let narrower = admin.asks("integration preview contoso --whole-directory").await;
    assert_eq!(counts(&narrower), ["20", "10", "0"]);
    let left = stage.bus.count("SELECT count(*) FROM sync.scope_preview_accounts").await;
    assert_eq!(left, 0, "a preview leaves nothing behind");

    // A scope that cannot be read does not replace the one that works.
    let (code, said) = admin.fails(&format!("integration update contoso --group {NOWHERE}")).await;
    assert!(code != 0 && said.contains("the old one stays") && said.contains(NOWHERE), "{said}");
    let (_, said) = admin.fails(&format!("integration update contoso --group {NOWHERE} --dry-run")).await;
    assert!(said.contains("did not pass"), "{said}");
    let (_, said) = admin.fails(&format!("integration preview contoso --group {NOWHERE}")).await;
    assert!(said.contains("no group"), "{said}");
    let (_, said) = admin.fails("integration update contoso --group Pilot").await;
    assert!(said.contains("object ids of groups"), "{said}");
    let shown = admin.asks("integration show contoso").await;
    assert_eq!(
        (&shown["status"], &shown["settings"]["scope"]["group_ids"][0]),
        (&"INTEGRATION_STATUS_ACTIVE".into(), &GROUP.into())
    );

    let updated = admin.asks(&format!("integration update contoso --group {WIDER}")).await;
    assert_eq!(updated["status"], "INTEGRATION_STATUS_ACTIVE");
    stage.bus.until_count(THERE, 30).await;

    // Narrowed again, twenty of thirty are left out: more than is believed without a person. That one of them changes
    // in the directory does not make it a member.
    admin.types(&format!("integration update contoso --group {GROUP}")).await;
    stage.bus.until_count("SELECT count(*) FROM sync.removal_plans WHERE state = 'held'", 1).await;
    let plan = admin.asks("removal list --state held").await[0]["id"].as_str().unwrap().to_owned();
    let shown = admin.asks(&format!("removal show {plan}")).await;
    let left_out = shown["accounts"][0]["object_id"].as_str().unwrap_or_else(|| panic!("{shown}"));
    let now = idp.simulator.world.now();
    directory.accounts.patch(left_out, &json!({"display_name": "Still here"}), now).unwrap().unwrap();
    admin.types("sync start contoso --watch").await;
    admin.types(&format!("removal apply {plan} --reason narrowed")).await;
    assert_eq!(stage.bus.count(THERE).await, 10);

    let viewer = stage.desk("vic", &["viewer"]);
    let (code, _) = viewer.fails(&format!("integration preview contoso --group {WIDER}")).await;
    assert_eq!(code, 4, "a viewer may not");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsaved_configuration_is_tested_with_its_own_secret_and_leaves_nothing_behind() {
    let idp = Idp::start().await;
    idp.directory(contoso());
    let stage = api_stage::Stage::with_directories(&idp).await;
    let mut client =
        v1::integration_service_client::IntegrationServiceClient::new(stage.by("ann", &["org_admin"]));
    let draft = |secret: &str| v1::TestIntegrationRequest {
        integration: Some(v1::Integration {
            config: Some(v1::integration::Config::Entra(v1::EntraConfig {
                tenant: TENANT.into(),
                client_id: APP.into(),
                ..Default::default()
            })),
            settings: Some(v1::IntegrationSettings::default()),
            ..Default::default()
        }),
        credentials: Some(v1::IntegrationCredentials {
            credentials: Some(v1::integration_credentials::Credentials::Entra(v1::EntraCredentials {
                client_secret: secret.into(),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    let passed = client.test_integration(draft(SECRET)).await.unwrap().into_inner();
    assert!(passed.passed && passed.integration.is_none() && passed.sync_run_id.is_empty(), "{passed:?}");
    let failed = client.test_integration(draft("another~secret")).await.unwrap().into_inner();
    assert_eq!((failed.passed, failed.results[0].reason.as_str()), (false, "secret_invalid"));
    let okta = v1::TestIntegrationRequest {
        integration: Some(v1::Integration {
            config: Some(v1::integration::Config::Okta(v1::OktaConfig {
                host: "acme.okta.com".into(),
                client_id: "0oa1".into(),
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(crate::api::reason(&client.test_integration(okta).await.unwrap_err()), "SAVE_FIRST");
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.integrations").await, 0);
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.integration_secrets").await, 0);
    stage.stop().await;
}
