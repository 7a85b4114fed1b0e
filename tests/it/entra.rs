//! The Entra adapter against the simulator: real names, real TLS, real permits.

mod memberships;

use std::collections::BTreeSet;
use std::sync::Arc;

use e2e::{Idp, Permits, walk};
use idp_simulator::log::Submission;
use idp_simulator::model::{Directory, Settings};
use serde_json::{Value, json};
use shared::id::ProviderKind;
use shared::integration::{EntraCloud, EntraConnection};
use shared::provider::entra::Entra;
use shared::provider::{
    Account, AccountKind, AccountState, Acted, Action, Attempted, Capability, Cursor, Listing, Missing, Next,
    PasswordAuthority, Provider, ProviderError, SignIns, Signal,
};
use shared::secret::SecretBytes;
use shared::verdict::{Reason, Verdict};
use time::Duration;

const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const APP: &str = "11111111-2222-4333-8444-555555555555";
const CHECKER: &str = "22222222-3333-4444-8555-666666666666";
const SECRET: &str = "Zx8Q~secret+value/with=signs";
const PERMISSIONS: [&str; 9] = [
    "User.Read.All",
    "User.RevokeSessions.All",
    "User.EnableDisableAccount.All",
    "IdentityRiskyUser.ReadWrite.All",
    "IdentityRiskyUser.Read.All",
    "AuditLog.Read.All",
    "Organization.Read.All",
    "Directory.Read.All",
    "OnPremDirectorySynchronization.Read.All",
];

/// A tenant, an adapter for it, and the simulator both live on.
struct Stage {
    idp: Idp,
    entra: Entra,
    directory: Arc<Directory>,
    /// The name under which attempts are counted: every stage is a directory of its own.
    budget: String,
}

impl Stage {
    /// A tenant whose settings are the defaults with these changes.
    async fn with(settings: Value, accounts: Value) -> Self {
        let idp = Idp::start().await;
        let mut tenant = json!({
            "tenant_id": TENANT,
            "domains": [
                {"name": "contoso.example"},
                {"name": "fed.contoso.example", "authority": "federated"},
                {"name": "pta.contoso.example", "authority": "pass_through"},
            ],
            "apps": [
                {"client_id": APP, "secrets": [{"value": SECRET}], "permissions": PERMISSIONS},
                {"client_id": CHECKER, "public": true},
            ],
            "licences": ["P2"],
            "risk_throttling": false,
        });
        merge(&mut tenant, &settings);
        let mut spec = json!({"name": "Contoso", "provider": {"entra_id": tenant}});
        merge(&mut spec, &accounts);
        let directory = idp.directory(spec);
        let entra = adapter(&idp, SECRET);
        Self { idp, entra, directory, budget: uuid::Uuid::new_v4().to_string() }
    }

    async fn people(settings: Value) -> Self {
        Self::with(settings, json!({"accounts": people()})).await
    }

    async fn generated(count: u64) -> Self {
        Self::with(json!({}), json!({"generated": {"seed": 7, "count": count}})).await
    }

    fn configure(&self, patch: &Value) {
        let Settings::EntraId(entra) = &*self.directory.settings() else { panic!("not an Entra tenant") };
        let mut merged = serde_json::to_value(entra).unwrap();
        merge(&mut merged, patch);
        self.directory.set_settings(Settings::EntraId(serde_json::from_value(merged).unwrap()));
    }

    fn patch(&self, login: &str, patch: &Value) {
        let now = self.idp.simulator.world.now();
        self.directory.accounts.patch(&self.id(login), patch, now).unwrap().unwrap();
    }

    fn id(&self, login: &str) -> String {
        self.directory.accounts.by_login(login).unwrap().id
    }

    async fn account(&self, login: &str) -> Account {
        self.entra.account(&self.id(login)).await.unwrap().unwrap()
    }

    /// Walks a listing to its end.
    async fn walk(
        &self,
        listing: Listing,
        from: Option<Cursor>,
    ) -> Result<(Vec<Account>, Cursor), ProviderError> {
        walk(&self.entra, listing, from).await
    }

    /// Submits once, with the account as it was read before.
    async fn verify(&self, permits: &Permits, login: &str, password: &str) -> Attempted {
        let before = self.account(login).await;
        let verifier = self.entra.verifier().unwrap();
        let connection = verifier.connect().await.unwrap();
        let permit = permits.permit(ProviderKind::EntraId, &self.budget, &before).await;
        verifier.verify(permit, connection, &before, &SecretBytes::new(password.into())).await
    }
}

fn adapter(idp: &Idp, secret: &str) -> Entra {
    let connection = EntraConnection {
        cloud: EntraCloud::Global,
        tenant: TENANT.into(),
        client_id: APP.into(),
        ropc_client_id: Some(CHECKER.into()),
    };
    Entra::new(idp.egress(), connection, SecretBytes::new(secret.into())).unwrap()
}

fn people() -> Value {
    json!([
        {"login": "ann@contoso.example", "password": "right \"horse\" & ü", "last_sign_in": "2026-03-01T10:00:00Z"},
        {"login": "mfa@contoso.example", "password": "right horse", "second_factor": "required"},
        {"login": "old@contoso.example", "password": "right horse", "password_expired": true},
        {"login": "off@contoso.example", "password": "right horse", "status": "disabled"},
        {"login": "boss@contoso.example", "password": "right horse", "roles": ["Global Administrator"]},
        {"login": "none@contoso.example"},
        {"login": "fay@fed.contoso.example", "password": "right horse"},
        {"login": "pia@pta.contoso.example", "password": "right horse", "hybrid": true},
        {"login": "eve_home.example#EXT#@contoso.example", "guest": true},
    ])
}

fn merge(target: &mut Value, patch: &Value) {
    idp_simulator::model::merge(target, patch);
}

async fn reasons(entra: &Entra) -> Vec<&'static str> {
    let wanted: BTreeSet<Capability> = Capability::ALL.into();
    let report = entra.test(&wanted).await;
    report
        .capabilities
        .into_iter()
        .map(|test| test.result.err().map_or("", |missing| missing.reason))
        .collect()
}

// --- connection test ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn refusals_of_the_application_are_told_apart_for_every_capability() {
    let stage = Stage::people(json!({})).await;
    assert_eq!(reasons(&adapter(&stage.idp, "wrong")).await, ["secret_invalid"; 5]);
    stage.configure(&json!({"apps": [{"client_id": APP, "secrets": [{"value": SECRET, "expires": "2020-01-01T00:00:00Z"}]}]}));
    assert_eq!(reasons(&stage.entra).await, ["secret_expired"; 5]);
    stage.configure(&json!({"apps": []}));
    assert_eq!(reasons(&stage.entra).await, ["app_missing"; 5]);
}

#[tokio::test]
async fn what_is_not_granted_or_not_licensed_is_named_where_it_is_needed() {
    let stage = Stage::people(json!({})).await;
    let app = |permissions: &[&str]| {
        json!({"apps": [{"client_id": APP, "secrets": [{"value": SECRET}], "permissions": permissions},
            {"client_id": CHECKER}]})
    };
    stage.configure(&app(&["User.Read.All"]));
    let wanting = ["", "client_type", "consent_missing", "consent_missing", "consent_missing"];
    assert_eq!(reasons(&stage.entra).await, wanting, "and the checking application is not public");
    let stage = Stage::people(json!({"licences": ["P1"]})).await;
    assert_eq!(reasons(&stage.entra).await, ["", "", "", "", "licence_missing"]);
    let stage = Stage::people(json!({"address_blocked": true})).await;
    assert_eq!(reasons(&stage.entra).await, [""; 5], "nobody's name is answered before addresses are judged");
}

// --- reading --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn deletions_are_listed_with_the_changes() {
    let stage = Stage::generated(20).await;
    let (all, cursor) = stage.walk(Listing::Full, None).await.unwrap();
    let (nothing, cursor) = stage.walk(Listing::Changes, Some(cursor)).await.unwrap();
    assert!(nothing.is_empty());

    let (first, second) = (all[0].clone(), all[1].clone());
    stage.patch(&first.login, &json!({"status": "disabled", "display_name": "Changed"}));
    stage.patch(&second.login, &json!({"status": "deleted"}));
    let (changed, _) = stage.walk(Listing::Changes, Some(cursor)).await.unwrap();
    assert_eq!(changed.len(), 2);
    assert_eq!((changed[0].state, changed[0].display_name.as_str()), (AccountState::Disabled, "Changed"));
    assert!(changed[1].removed && changed[1].object_id == second.object_id);
}

#[tokio::test]
async fn accounts_are_read_with_everything_that_decides_about_them() {
    let stage = Stage::people(json!({})).await;
    let ann = stage.account("ann@contoso.example").await;
    assert_eq!(
        (ann.state, ann.authority, ann.kind),
        (AccountState::Active, PasswordAuthority::Cloud, AccountKind::Member)
    );
    assert!(ann.password_changed_at.is_some() && ann.last_sign_in_at.is_some() && !ann.is_admin);
    assert!(stage.account("boss@contoso.example").await.is_admin);
    assert_eq!(stage.account("off@contoso.example").await.state, AccountState::Disabled);
    assert_eq!(stage.account("fay@fed.contoso.example").await.authority, PasswordAuthority::Federated);
    assert!(stage.account("pia@pta.contoso.example").await.hybrid);
    assert_eq!(stage.account("eve_home.example#EXT#@contoso.example").await.kind, AccountKind::Guest);
    let nobody = stage.entra.account("00000000-0000-4000-8000-000000000000").await.unwrap();
    assert_eq!(nobody, None);
    let hashless = Stage::people(json!({"password_hash_sync": false})).await;
    assert_eq!(hashless.account("pia@pta.contoso.example").await.authority, PasswordAuthority::Ad);
}

#[tokio::test]
async fn whether_an_account_is_under_the_rule_is_read_and_followed() {
    let stage = Stage::people(json!({})).await;
    let (all, cursor) = stage.walk(Listing::Full, None).await.unwrap();
    let under = |login: &str| all.iter().find(|a| a.login == login).unwrap().under_policy;
    assert_eq!(under("ann@contoso.example"), Some(true));
    for other in
        ["fay@fed.contoso.example", "pia@pta.contoso.example", "eve_home.example#EXT#@contoso.example"]
    {
        assert_eq!(under(other), Some(false), "{other}");
    }
    stage.patch("ann@contoso.example", &json!({"password_policies": "DisableStrongPassword"}));
    let (changed, cursor) = stage.walk(Listing::Changes, Some(cursor)).await.unwrap();
    assert_eq!(changed[0].under_policy, Some(false));
    stage.patch("ann@contoso.example", &json!({"password_policies": "None"}));
    let (changed, _) = stage.walk(Listing::Changes, Some(cursor)).await.unwrap();
    assert_eq!(changed[0].under_policy, None, "a delta does not show what never had a value");
    assert_eq!(stage.account("ann@contoso.example").await.under_policy, Some(true));
}

#[tokio::test]
async fn complex_passwords_are_counted_on_only_where_the_licences_show_no_school() {
    let stage = Stage::people(json!({})).await;
    let rules = async || {
        // A fresh adapter, as each run of a sync has.
        let rules = adapter(&stage.idp, SECRET).password_rules().await.unwrap().unwrap();
        assert_eq!((rules.min_length, rules.min_lower, rules.min_upper, rules.min_digits), (8, 0, 0, 0));
        (rules.min_classes, rules.state)
    };
    let business = rules().await;
    assert_eq!(business.0, 3);
    stage.configure(&json!({"licences": ["P2", "Education"]}));
    let school = rules().await;
    assert!(school.0 == 0 && school.1 != business.1);
    stage.configure(&json!({"licences": []}));
    assert_eq!(rules().await, school);
    stage.configure(&json!({"licences": ["P2"], "apps": [
        {"client_id": APP, "secrets": [{"value": SECRET}], "permissions": ["User.Read.All"]}]}));
    assert_eq!(rules().await, school, "licences may not be read");
}

#[tokio::test]
async fn without_sign_in_activity_reading_goes_on_without_it() {
    let stage = Stage::people(json!({"licences": []})).await;
    assert_eq!(stage.account("ann@contoso.example").await.last_sign_in_at, None);
    assert_eq!(stage.walk(Listing::Full, None).await.unwrap().0.len(), 9);
}

#[tokio::test]
async fn the_log_of_sign_ins_tells_of_the_owner_and_leaves_us_out() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let id = stage.id("ann@contoso.example");
    let log = async || {
        let since = stage.idp.simulator.world.now() - Duration::days(30);
        let read = stage.entra.sign_ins(&id, since).await.unwrap().unwrap();
        (read.last_success.is_some(), read.failures)
    };
    assert_eq!(log().await, (false, 0), "her last sign-in is older than what is kept");
    stage.idp.mistype(TENANT, &id, 2).await;
    assert_eq!(
        stage.verify(&permits, "ann@contoso.example", "right \"horse\" & ü").await.verdict,
        Verdict::Valid
    );
    assert_eq!(log().await, (false, 2), "our success is not hers");
    // Microsoft dates to the second.
    stage.idp.simulator.world.advance(Duration::seconds(2));
    stage.idp.sign_in(TENANT, &id).await;
    stage.idp.simulator.world.advance(Duration::seconds(2));
    stage.idp.mistype(TENANT, &id, 1).await;
    assert_eq!(log().await, (true, 1));
    stage.idp.mistype(TENANT, &id, 10).await;
    assert_eq!(log().await, (true, SignIns::LOCKED), "the tenth locked her, the eleventh met the lock");
}

#[tokio::test]
async fn our_own_submissions_are_listed_page_by_page_and_nobody_else_s() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let (login, world) = ("ann@contoso.example", &stage.idp.simulator.world);
    let id = stage.id(login);
    stage.idp.mistype(TENANT, &id, 1).await;
    stage.verify(&permits, login, "wrong").await;
    let ours = stage.idp.submissions().pop().unwrap();
    assert_eq!(ours.client_id.as_deref(), Some(CHECKER));
    for client_id in [Some(CHECKER.to_owned()), Some(APP.to_owned())] {
        for _ in 0..600 {
            world.submitted(&stage.directory, Submission { client_id: client_id.clone(), ..ours.clone() });
        }
    }
    let now = world.now();
    let listed = stage.entra.own_sign_ins(now - Duration::hours(1), now).await.unwrap().unwrap();
    let entries: BTreeSet<_> = listed.iter().map(|own| &own.entry).collect();
    assert_eq!((listed.len(), entries.len()), (601, 601), "more than a page, each once");
    assert!(listed.iter().all(|own| own.object_id == id && now - own.at < Duration::minutes(10)));
    let earlier = stage.entra.own_sign_ins(now - Duration::hours(2), now - Duration::hours(1)).await;
    assert_eq!(earlier.unwrap(), Some(vec![]));
    stage.configure(&json!({"licences": []}));
    assert_eq!(stage.entra.own_sign_ins(now - Duration::hours(1), now).await.unwrap(), None);
}

#[tokio::test]
async fn a_log_that_may_not_be_read_is_no_error_and_one_that_throttles_holds_nothing_else() {
    let ann = "ann@contoso.example";
    let since = time::OffsetDateTime::now_utc() - Duration::days(30);
    let unlicensed = Stage::people(json!({"licences": []})).await;
    assert_eq!(unlicensed.entra.sign_ins(&unlicensed.id(ann), since).await.unwrap(), None);
    let stage = Stage::people(json!({})).await;
    let id = stage.id(ann);
    assert!(stage.entra.sign_ins(&id, since).await.unwrap().is_some());
    // What was granted when the token was issued; the licence ends meanwhile.
    stage.configure(&json!({"licences": []}));
    assert_eq!(stage.entra.sign_ins(&id, since).await.unwrap(), None);
    stage.configure(&json!({"licences": ["P2"]}));
    stage
        .idp
        .fault(json!({"operation": "graph.sign_ins", "effect": {"throttle": {"hint": {"seconds": 30}}}}));
    let told = stage.entra.sign_ins(&id, since).await;
    assert!(matches!(told, Err(ProviderError::Throttled { .. })), "{told:?}");
    let next = stage.entra.sign_ins(&id, since).await;
    assert!(matches!(next, Err(ProviderError::Paced { wait }) if wait.as_secs() > 20), "{next:?}");
    assert!(stage.entra.account(&id).await.is_ok(), "its quota is its own");
}

#[tokio::test]
async fn reports_are_asked_for_five_times_in_ten_seconds_and_no_more() {
    let stage = Stage::people(json!({})).await;
    let (id, since) = (stage.id("ann@contoso.example"), time::OffsetDateTime::now_utc() - Duration::days(30));
    for _ in 0..5 {
        assert!(stage.entra.sign_ins(&id, since).await.unwrap().is_some());
    }
    let sixth = stage.entra.sign_ins(&id, since).await;
    assert!(matches!(sixth, Err(ProviderError::Paced { .. })), "{sixth:?}");
}

#[tokio::test]
async fn expired_and_foreign_cursors_start_the_listing_again() {
    let stage = Stage::generated(1100).await;
    let page = stage.entra.accounts(Listing::Full, None).await.unwrap();
    let Next::Page(next) = page.next else { panic!("one page only") };
    stage.idp.simulator.world.advance(Duration::seconds(700));
    let expired = stage.entra.accounts(Listing::Full, Some(&next)).await;
    assert!(matches!(expired, Err(ProviderError::CursorExpired)), "{expired:?}");
    let (_, cursor) = stage.walk(Listing::Full, None).await.unwrap();
    stage.configure(&json!({"delta_valid_from": "2999-01-01T00:00:00Z"}));
    let gone = stage.entra.accounts(Listing::Changes, Some(&cursor)).await;
    assert!(matches!(gone, Err(ProviderError::CursorExpired)), "{gone:?}");
    let elsewhere =
        Cursor(json!({"changes": {"next": "https://evil.example/v1.0/users/delta?x"}}).to_string());
    let refused = stage.entra.accounts(Listing::Changes, Some(&elsewhere)).await;
    assert!(matches!(refused, Err(ProviderError::Protocol(_))), "{refused:?}");
}

#[tokio::test]
async fn a_token_is_fetched_once_for_many_callers_and_replaced_when_it_dies() {
    let stage = Stage::people(json!({})).await;
    // A second token request would fail.
    stage.idp.fault(json!({"operation": "entra.token", "skip": 1, "effect": {"status": {"status": 500}}}));
    let id = stage.id("ann@contoso.example");
    let many =
        futures::future::join_all((0..20).map(|_| stage.entra.containment(&id, Action::MarkCompromised)))
            .await;
    assert!(many.iter().all(Result::is_ok));
    assert_eq!(stage.idp.simulator.world.faults.unfired().len(), 1);
    stage.idp.simulator.world.faults.clear();
    stage.idp.simulator.world.advance(Duration::hours(2));
    assert!(
        stage.entra.containment(&id, Action::MarkCompromised).await.is_ok(),
        "a refused token is replaced once"
    );
}

#[tokio::test]
async fn graph_is_left_alone_for_as_long_as_it_asks_whoever_calls() {
    let stage = Stage::people(json!({})).await;
    stage.account("ann@contoso.example").await;
    stage
        .idp
        .fault(json!({"operation": "graph.users.get", "effect": {"throttle": {"hint": {"seconds": 30}}}}));
    let id = stage.id("ann@contoso.example");
    let told = stage.entra.account(&id).await;
    assert!(
        matches!(told, Err(ProviderError::Throttled { retry_after: Some(wait) }) if wait.as_secs() == 30),
        "{told:?}"
    );
    // The fault has fired: only our own patience keeps the next calls, of any kind, from being sent.
    let next = stage.entra.account(&id).await;
    assert!(matches!(next, Err(ProviderError::Paced { wait }) if wait.as_secs() > 25), "{next:?}");
    let act = stage.entra.act(Action::RevokeSessions, &id).await;
    assert!(matches!(act, Err(ProviderError::Paced { .. })), "{act:?}");
    assert!(stage.idp.changes().is_empty());
}

#[tokio::test]
async fn the_threshold_is_read_where_somebody_changed_it_and_else_the_clouds() {
    let stage = Stage::people(json!({})).await;
    assert_eq!(stage.entra.lockout_policy().await.unwrap().threshold, Some(10));
    stage.configure(&json!({"lockout": {"threshold": 6, "duration_s": 60}}));
    assert_eq!(stage.entra.lockout_policy().await.unwrap().threshold, Some(6));
    let blind = Stage::people(json!({"apps": [{"client_id": APP, "secrets": [{"value": SECRET}],
        "permissions": ["User.Read.All"]}]}))
    .await;
    assert_eq!(blind.entra.lockout_policy().await.unwrap().threshold, None);
}

// --- password check -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_only_microsoft_says_is_understood_and_no_character_is_lost() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let cases = [
        ("ann@contoso.example", "right \"horse\" & ü", Verdict::Valid),
        ("none@contoso.example", "right horse", Verdict::NotTestable(Reason::Passwordless)),
        ("fay@fed.contoso.example", "right horse", Verdict::NotTestable(Reason::Federated)),
    ];
    for (n, (login, password, verdict)) in cases.into_iter().enumerate() {
        let attempted = stage.verify(&permits, login, password).await;
        assert_eq!(attempted.verdict, verdict, "{login}");
        assert_eq!(stage.idp.submissions().len(), n + 1);
    }
    let spaces = stage.verify(&permits, "pia@pta.contoso.example", " right horse").await;
    assert_eq!(spaces.verdict, Verdict::NotTestable(Reason::SecretUnusable));
    assert_eq!(stage.idp.submissions().len(), 3, "what cannot be sent faithfully is not sent");
}

#[tokio::test]
async fn a_lock_and_a_wrong_configuration_prove_nothing_and_say_so() {
    let (stage, permits) = (Stage::people(json!({"address_blocked": true})).await, Permits::start().await);
    let locked = stage.verify(&permits, "ann@contoso.example", "wrong").await;
    assert_eq!(
        (locked.verdict, locked.signal),
        (Verdict::Inconclusive(Reason::LockedOrBlocked), Signal::Locked)
    );
    assert_eq!(locked.code.as_deref(), Some("AADSTS50053"));
    stage.configure(
        &json!({"apps": [{"client_id": APP, "secrets": [{"value": SECRET}], "permissions": PERMISSIONS}]}),
    );
    let refused = stage.verify(&permits, "mfa@contoso.example", "right horse").await;
    assert_eq!(refused.verdict, Verdict::Inconclusive(Reason::Configuration));
    assert_eq!((refused.signal, refused.code.as_deref()), (Signal::Configuration, Some("AADSTS700016")));
}

// --- containment ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_microsoft_refuses_is_told_with_its_reason() {
    let refused =
        async |stage: &Stage, action, login: &str| match stage.entra.act(action, &stage.id(login)).await {
            Ok(Acted::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
    let stage = Stage::people(json!({"hybrid_writes": "refuse", "licences": ["P1"]})).await;
    assert_eq!(refused(&stage, Action::DisableAccount, "boss@contoso.example").await, "admin_target");
    assert_eq!(refused(&stage, Action::DisableAccount, "pia@pta.contoso.example").await, "ad_mastered");
    assert_eq!(refused(&stage, Action::MarkCompromised, "ann@contoso.example").await, "licence_missing");
    let wrong = adapter(&stage.idp, "wrong")
        .containment(&stage.id("ann@contoso.example"), Action::DisableAccount)
        .await;
    assert!(
        matches!(wrong, Err(ProviderError::Refused(Missing { reason: "secret_invalid", .. }))),
        "{wrong:?}"
    );
}
