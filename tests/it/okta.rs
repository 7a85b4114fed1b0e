//! The Okta adapter against the simulator: real names, real TLS, real permits.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use e2e::{Idp, Permits};
use idp_simulator::model::{Directory, Settings};
use serde_json::{Value, json};
use shared::id::ProviderKind;
use shared::integration::OktaConnection;
use shared::provider::okta::{Okta, keys};
use shared::provider::{
    Account, AccountState, Acted, Action, Attempted, Capability, Cursor, Listing, Missing, Next, Provider,
    ProviderError, Signal,
};
use shared::secret::SecretBytes;
use shared::verdict::{Reason, Verdict};
use time::Duration;

const CLIENT: &str = "0oaparapet0000000001";
const ORG: &str = "00oacme0000000000001";
const SCOPES: [&str; 4] = ["okta.users.read", "okta.users.manage", "okta.policies.read", "okta.roles.read"];

/// An org, an adapter for it, and the simulator both live on.
struct Stage {
    idp: Idp,
    okta: Okta,
    directory: Arc<Directory>,
}

impl Stage {
    /// An org whose settings and service app are the defaults with these changes.
    async fn with(settings: Value, app: Value, accounts: Value) -> Self {
        let idp = Idp::start().await;
        let key = keys::generate().unwrap();
        let mut service = json!({"client_id": CLIENT, "scopes": SCOPES, "roles": ["SUPER_ADMIN"],
            "jwks": keys::jwks(std::slice::from_ref(&key.public))});
        merge(&mut service, app);
        let mut org =
            json!({"org_id": ORG, "subdomain": "acme", "mail_domain": "acme.example", "apps": [service]});
        merge(&mut org, settings);
        let mut spec = json!({"name": "Acme", "provider": {"okta": org}});
        merge(&mut spec, accounts);
        let directory = idp.directory(spec);
        let okta = adapter(&idp, "https://ACME.okta.com/", &key);
        Self { idp, okta, directory }
    }

    /// Some people told one by one.
    async fn people(settings: Value) -> Self {
        Self::with(settings, json!({}), json!({"accounts": people()})).await
    }

    /// A directory of generated accounts.
    async fn generated(count: u64) -> Self {
        Self::with(json!({}), json!({}), json!({"generated": {"seed": 7, "count": count}})).await
    }

    fn patch_settings(&self, patch: Value) {
        let Settings::Okta(okta) = &*self.directory.settings() else { panic!("not an Okta org") };
        let mut merged = serde_json::to_value(okta).unwrap();
        merge(&mut merged, patch);
        self.directory.set_settings(Settings::Okta(serde_json::from_value(merged).unwrap()));
    }

    fn patch(&self, login: &str, patch: Value) {
        let id = self.id(login);
        let now = self.idp.simulator.world.now();
        self.directory.accounts.patch(&id, &patch, now).unwrap().unwrap();
    }

    fn id(&self, login: &str) -> String {
        self.directory.accounts.by_login(login).unwrap().id
    }

    async fn account(&self, login: &str) -> Account {
        self.okta.account(&self.id(login)).await.unwrap().unwrap()
    }

    /// Walks a listing to its end.
    async fn walk(
        &self,
        listing: Listing,
        from: Option<Cursor>,
    ) -> Result<(Vec<Account>, Cursor), ProviderError> {
        let (mut all, mut at) = (Vec::new(), from);
        loop {
            let page = self.okta.accounts(listing, at.as_ref()).await?;
            all.extend(page.accounts);
            match page.next {
                Next::Page(cursor) => at = Some(cursor),
                Next::End(cursor) => return Ok((all, cursor.unwrap())),
            }
        }
    }
}

fn adapter(idp: &Idp, host: &str, key: &keys::ClientKey) -> Okta {
    let connection = OktaConnection { host: host.into(), client_id: CLIENT.into() };
    Okta::new(&connection, &key.kid, &key.pkcs8, idp.egress()).unwrap()
}

fn people() -> Value {
    json!([
        {"login": "ann@acme.example", "password": "right horse battery", "given_name": "Ann", "family_name": "Lee"},
        {"login": "mfa@acme.example", "password": "right horse battery", "second_factor": "required"},
        {"login": "enrol@acme.example", "password": "right horse battery", "second_factor": "unregistered"},
        {"login": "old@acme.example", "password": "right horse battery", "password_expired": true},
        {"login": "gone@acme.example", "password": "right horse battery", "status": "deprovisioned"},
        {"login": "off@acme.example", "password": "right horse battery", "status": "suspended"},
        {"login": "boss@acme.example", "password": "right horse battery", "roles": ["ORG_ADMIN"]},
        {"login": "fed@acme.example", "authority": "federated"},
        {"login": "warn@acme.example", "password": "right horse battery", "gate": "PASSWORD_WARN"},
        {"login": "denied@acme.example", "password": "right horse battery", "gate": "E0000085"},
    ])
}

/// Overlays one JSON object on another; arrays are replaced.
fn merge(target: &mut Value, patch: Value) {
    idp_simulator::model::merge(target, &patch);
}

// --- sign-in, once ---------------------------------------------------------------------------------------------------------

/// Submits once, with the account as it was read before.
async fn verify(stage: &Stage, permits: &Permits, before: &Account, password: &str) -> Attempted {
    let verifier = stage.okta.verifier().unwrap();
    let connection = verifier.connect().await.unwrap();
    let permit = permits.permit(ProviderKind::Okta, ORG, before).await;
    verifier.verify(permit, connection, before, &SecretBytes::new(password.into())).await
}

// --- connection test -------------------------------------------------------------------------------------------------

fn wanted() -> BTreeSet<Capability> {
    [Capability::Read, Capability::Validate, Capability::RevokeSessions, Capability::DisableAccount].into()
}

/// What each capability lacks.
async fn missing(okta: &Okta) -> Vec<(Capability, Option<Missing>)> {
    let report = okta.test(&wanted()).await;
    report.capabilities.into_iter().map(|test| (test.capability, test.result.err())).collect()
}

fn reasons(found: &[(Capability, Option<Missing>)]) -> Vec<&'static str> {
    found.iter().map(|(_, missing)| missing.as_ref().map_or("", |m| m.reason)).collect()
}

#[tokio::test]
async fn a_well_set_up_app_passes_every_test_and_names_its_org() {
    let stage = Stage::people(json!({})).await;
    let report = stage.okta.test(&wanted()).await;
    assert!(report.capabilities.iter().all(|c| c.result.is_ok()), "{report:?}");
    assert_eq!(report.directory_id.as_deref(), Some(ORG));
    assert_eq!(stage.okta.directory_id().await.unwrap(), ORG);
    // It changed nothing, and the sign-in probe meant nobody.
    assert!(stage.idp.changes().is_empty());
    let probes = stage.idp.submissions();
    assert!(probes.len() == 1 && probes.iter().all(|probe| probe.account.is_none()));
}

#[tokio::test]
async fn every_kind_of_proof_of_possession_is_met() {
    for dpop in ["off", "required", "nonce"] {
        let stage = Stage::with(json!({}), json!({"dpop": dpop}), json!({"accounts": people()})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), [""; 4], "{dpop}");
    }
}

#[tokio::test]
async fn scopes_that_are_not_granted_are_named_for_the_capabilities_that_need_them() {
    let stage =
        Stage::with(json!({}), json!({"scopes": ["okta.users.read"]}), json!({"accounts": people()})).await;
    let found = missing(&stage.okta).await;
    assert_eq!(reasons(&found), ["", "", "consent_missing", "consent_missing"]);
    let told = found[2].1.as_ref().unwrap();
    assert!(told.not_granted && told.message.contains("okta.users.manage"), "{told:?}");
}

#[tokio::test]
async fn without_any_grant_everything_lacks_consent() {
    let stage = Stage::with(json!({}), json!({"scopes": []}), json!({"accounts": people()})).await;
    assert_eq!(reasons(&missing(&stage.okta).await), ["consent_missing"; 4]);
}

#[tokio::test]
async fn an_app_without_a_role_is_told_so_and_never_sees_an_empty_directory() {
    let stage = Stage::with(json!({}), json!({"roles": []}), json!({"accounts": people()})).await;
    assert_eq!(reasons(&missing(&stage.okta).await), ["role_missing", "", "role_missing", "role_missing"]);
    let refused = stage.okta.accounts(Listing::Full, None).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Refused(Missing { reason: "role_missing", .. })), "{refused:?}");
}

#[tokio::test]
async fn a_role_that_cannot_suspend_is_found_by_acting_on_nobody() {
    let stage =
        Stage::with(json!({}), json!({"roles": ["HELP_DESK_ADMIN"]}), json!({"accounts": people()})).await;
    assert_eq!(reasons(&missing(&stage.okta).await), ["", "", "", "role_missing"]);
    assert!(stage.idp.changes().is_empty());
}

#[tokio::test]
async fn refusals_of_the_client_are_told_apart() {
    for (app, reason) in [
        (json!({"jwks_uri": "http://127.0.0.1:9/jwks.json"}), "jwks_unreachable"),
        (json!({"jwks_uri": "http://jwks.acme.example/jwks.json"}), "jwks_unreachable"),
        (json!({"jwks": null}), "key_missing"),
        (json!({"jwks": keys::jwks(&[keys::generate().unwrap().public])}), "key_unknown"),
        (json!({"client_id": "0oasomebodyelse00001"}), "client_unknown"),
        (json!({"active": false}), "client_unknown"),
        (json!({"in_zone": false}), "network_zone"),
    ] {
        let stage = Stage::with(json!({}), app, json!({"accounts": people()})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), [reason; 4]);
    }
}

#[tokio::test]
async fn keys_are_fetched_from_the_integrations_url() {
    let key = keys::generate().unwrap();
    let document = keys::jwks(std::slice::from_ref(&key.public));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/.well-known/7/jwks.json", listener.local_addr().unwrap());
    let serve = axum::Router::new()
        .route("/.well-known/7/jwks.json", axum::routing::get(async move || axum::Json(document)));
    tokio::spawn(async move { axum::serve(listener, serve).await });
    let stage =
        Stage::with(json!({}), json!({"jwks": null, "jwks_uri": url}), json!({"accounts": people()})).await;
    let okta = adapter(&stage.idp, "acme.okta.com", &key);
    assert_eq!(reasons(&missing(&okta).await), [""; 4]);
}

#[tokio::test]
async fn a_host_without_an_org_is_said_to_be_none() {
    let idp = Idp::start().await;
    let okta = adapter(&idp, "nobody.okta.com", &keys::generate().unwrap());
    assert_eq!(reasons(&missing(&okta).await), ["host_unknown"; 4]);
}

#[tokio::test]
async fn a_sign_in_endpoint_that_cannot_prove_a_password_fails_the_test_of_validation_only() {
    for (authn, reason) in [
        ("withdrawn", "method_unavailable"),
        ("blocked", "address_blocked"),
        ("factors_first", "password_not_first"),
    ] {
        let stage = Stage::people(json!({"authn": authn})).await;
        assert_eq!(reasons(&missing(&stage.okta).await), ["", reason, "", ""]);
    }
}

// --- reading ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_full_listing_shows_every_account_once_the_deprovisioned_too() {
    let stage = Stage::generated(1234).await;
    let (all, _) = stage.walk(Listing::Full, None).await.unwrap();
    let distinct: HashSet<&str> = all.iter().map(|a| a.object_id.as_str()).collect();
    assert_eq!((all.len(), distinct.len()), (1234, 1234));
    assert!(all.iter().any(|a| a.state == AccountState::Deprovisioned));
    let admins = all.iter().filter(|a| a.is_admin).count();
    let (truly, _) = stage.directory.accounts.page(0, 2000, |a| !a.roles.is_empty());
    assert_eq!(admins, truly.len());
    assert!(admins > 0);
}

#[tokio::test]
async fn changes_since_the_last_run_are_listed_and_nothing_else() {
    let stage = Stage::generated(500).await;
    let world = &stage.idp.simulator.world;
    // The generated accounts are old; the run starts now.
    let (_, cursor) = stage.walk(Listing::Full, None).await.unwrap();
    let (one, _) = stage.directory.accounts.page(10, 1, |a| a.lock.failures == 0);
    stage.directory.accounts.patch(&one[0].id, &json!({"display_name": "New Name"}), world.now()).unwrap();
    let (changed, next) = stage.walk(Listing::Changes, Some(cursor)).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].display_name, "New Name");
    // Within the overlap a change is seen again, never missed.
    let (again, _) = stage.walk(Listing::Changes, Some(next)).await.unwrap();
    assert_eq!(again.len(), 1);
}

#[tokio::test]
async fn a_cursor_of_another_kind_or_of_nobody_starts_over() {
    let stage = Stage::generated(300).await;
    let (_, changes) = stage.walk(Listing::Full, None).await.unwrap();
    let Next::Page(full) = stage.okta.accounts(Listing::Full, None).await.unwrap().next else { panic!() };
    let unknown = Cursor(full.0.replace("after=", "after=x"));
    for (listing, cursor) in [
        (Listing::Full, changes),
        (Listing::Changes, full),
        (Listing::Full, unknown),
        (Listing::Full, Cursor("{}".into())),
    ] {
        let error = stage.okta.accounts(listing, Some(&cursor)).await.unwrap_err();
        assert!(matches!(error, ProviderError::CursorExpired), "{error:?}");
    }
    let smuggled = r#"{"at":"listed","started":0,"path":"@evil.example/api/v1/users"}"#;
    assert!(stage.okta.accounts(Listing::Full, Some(&Cursor(smuggled.into()))).await.is_err());
}

#[tokio::test]
async fn a_run_outlives_its_token_and_the_nonce() {
    let stage = Stage::generated(700).await;
    let first = stage.okta.accounts(Listing::Full, None).await.unwrap();
    let Next::Page(cursor) = first.next else { panic!("one page only") };
    stage.idp.simulator.world.advance(Duration::hours(2));
    stage.patch_settings(json!({"dpop_nonces": ["rotated"]}));
    let (rest, _) = stage.walk(Listing::Full, Some(cursor)).await.unwrap();
    assert_eq!(first.accounts.len() + rest.len(), 700);
}

#[tokio::test]
async fn an_api_that_asks_for_nonces_gets_them() {
    let stage = Stage::people(json!({"api_nonce": true})).await;
    assert_eq!(stage.account("ann@acme.example").await.display_name, "");
    stage.patch_settings(json!({"dpop_nonces": ["rotated"]}));
    stage.account("ann@acme.example").await;
}

#[tokio::test]
async fn a_throttle_is_reported_with_the_servers_own_wait() {
    let stage = Stage::people(json!({})).await;
    stage.idp.fault(json!({"operation": "okta.users.list",
        "effect": {"throttle": {"hint": {"rate_limit_reset": 30}}}}));
    let error = stage.okta.accounts(Listing::Full, None).await.unwrap_err();
    let ProviderError::Throttled { retry_after: Some(wait) } = error else { panic!("{error:?}") };
    assert!((29..=32).contains(&wait.as_secs()), "{wait:?}");
    stage.okta.accounts(Listing::Full, None).await.unwrap();
}

#[tokio::test]
async fn a_bucket_that_is_used_up_is_not_asked_again() {
    let stage = Stage::people(json!({"buckets": {"user": 20}})).await;
    let id = stage.id("ann@acme.example");
    let mut throttled = None;
    // Half of the bucket is ours; the last call of it is held back for some seconds.
    for _ in 0..12 {
        if let Err(error) = stage.okta.account(&id).await {
            throttled = Some(error);
            break;
        }
    }
    assert!(matches!(throttled, Some(ProviderError::Throttled { .. })), "{throttled:?}");
}

#[tokio::test]
async fn outages_and_nonsense_are_errors_never_accounts() {
    let stage = Stage::people(json!({})).await;
    for effect in [
        json!({"status": {"status": 503}}),
        json!("reset"),
        json!("wrong_json"),
        json!("html"),
        json!({"oversized": {"bytes": 20_000_000}}),
        json!({"redirect": {"location": "https://acme.okta.com/api/v1/users?limit=200"}}),
    ] {
        stage.idp.fault(json!({"operation": "okta.users.list", "effect": effect}));
        let error = stage.okta.accounts(Listing::Full, None).await.unwrap_err();
        assert!(
            !matches!(error, ProviderError::Refused(_) | ProviderError::CursorExpired),
            "{effect} {error:?}"
        );
    }
}

#[tokio::test]
async fn the_strictest_active_policy_is_the_threshold() {
    let policies = json!([{"name": "Strict", "max_attempts": 6}, {"name": "Never", "max_attempts": 0},
        {"name": "Stricter but off", "max_attempts": 3, "active": false}]);
    let stage = Stage::people(json!({"max_attempts": 8, "policies": policies})).await;
    assert_eq!(stage.okta.lockout_policy().await.unwrap().threshold, Some(6));
    stage.patch_settings(json!({"max_attempts": 0, "policies": []}));
    assert_eq!(stage.okta.lockout_policy().await.unwrap().threshold, None);
    let unread =
        Stage::with(json!({}), json!({"scopes": ["okta.users.read"]}), json!({"accounts": people()})).await;
    assert_eq!(unread.okta.lockout_policy().await.unwrap().threshold, None);
}

#[tokio::test]
async fn an_account_is_read_with_its_state_and_its_blocks() {
    let stage = Stage::people(json!({})).await;
    assert_eq!(stage.account("ann@acme.example").await.state, AccountState::Active);
    assert_eq!(stage.account("old@acme.example").await.state, AccountState::PasswordExpired);
    assert!(stage.account("boss@acme.example").await.is_admin);
    assert_eq!(stage.okta.account("00unobody00000000000").await.unwrap(), None);
    // An org without the feature of blocks is read without them.
    stage.patch_settings(json!({"blocks_feature": false}));
    assert_eq!(stage.account("ann@acme.example").await.state, AccountState::Active);
}

// --- sign-in ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn each_answer_costs_one_submission_and_proves_what_it_proves() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let right = "right horse battery";
    for (n, (login, password, verdict)) in [
        ("ann@acme.example", right, Verdict::Valid),
        ("ann@acme.example", "wrong", Verdict::Invalid),
        ("mfa@acme.example", right, Verdict::ValidSecondFactor),
        ("enrol@acme.example", right, Verdict::ValidSecondFactor),
        ("old@acme.example", right, Verdict::ValidExpired),
        ("warn@acme.example", right, Verdict::Valid),
        ("denied@acme.example", right, Verdict::Inconclusive(Reason::Refused)),
        ("off@acme.example", right, Verdict::Inconclusive(Reason::AccountState)),
    ]
    .into_iter()
    .enumerate()
    {
        let before = stage.account(login).await;
        // Each with a limiter's view of its own account; the spacing of one account is not this test's matter.
        let payer = Account { object_id: format!("00utest{n}"), ..before.clone() };
        let verifier = stage.okta.verifier().unwrap();
        let connection = verifier.connect().await.unwrap();
        let permit = permits.permit(ProviderKind::Okta, ORG, &payer).await;
        let secret = SecretBytes::new(password.into());
        let attempted = verifier.verify(permit, connection, &before, &secret).await;
        assert_eq!(attempted.verdict, verdict, "{login} {password}");
        assert!(attempted.request_id.is_some());
        assert_eq!(stage.idp.submissions().len(), n + 1);
    }
}

#[tokio::test]
async fn a_refusal_of_a_locked_account_is_never_invalid() {
    for settings in [
        json!({"max_attempts": 2}),
        json!({"max_attempts": 2, "show_lockout_failures": true}),
        json!({"max_attempts": 2, "unknown_device_lockout": true}),
    ] {
        let (stage, permits) = (Stage::people(settings).await, Permits::start().await);
        let before = stage.account("ann@acme.example").await;
        assert_eq!(before.state, AccountState::Active);
        // The owner mistypes between our reading and our attempt.
        stage
            .patch("ann@acme.example", json!({"lock": {"failures": 2, "failures_owner": 2, "locked": true}}));
        for password in ["wrong", "right horse battery"] {
            let payer = Account { object_id: format!("00u{password}").replace(' ', ""), ..before.clone() };
            let verifier = stage.okta.verifier().unwrap();
            let connection = verifier.connect().await.unwrap();
            let permit = permits.permit(ProviderKind::Okta, ORG, &payer).await;
            let secret = SecretBytes::new(password.into());
            let attempted = verifier.verify(permit, connection, &before, &secret).await;
            assert_eq!(attempted.verdict, Verdict::Inconclusive(Reason::LockedOrBlocked));
            assert_eq!(attempted.signal, Signal::Locked);
        }
    }
}

#[tokio::test]
async fn a_refusal_without_a_second_look_at_the_account_proves_nothing() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let before = stage.account("ann@acme.example").await;
    stage.idp.fault(json!({"operation": "okta.users.get", "effect": "wrong_json", "times": 9}));
    let attempted = verify(&stage, &permits, &before, "wrong").await;
    assert_eq!(attempted.verdict, Verdict::Inconclusive(Reason::StateUnread));
    assert_eq!(stage.idp.submissions().len(), 1);
}

#[tokio::test]
async fn whatever_happens_to_the_answer_the_password_is_submitted_once() {
    let permits = Permits::start().await;
    for (effect, verdict) in [
        (json!("reset"), Verdict::Inconclusive(Reason::Unknown)),
        (
            json!({"redirect": {"location": "https://acme.okta.com/api/v1/authn"}}),
            Verdict::Inconclusive(Reason::UnreadableAnswer),
        ),
        (json!({"status": {"status": 503}}), Verdict::Inconclusive(Reason::Unknown)),
        (json!("wrong_json"), Verdict::Inconclusive(Reason::UnreadableAnswer)),
        (json!("html"), Verdict::Inconclusive(Reason::UnreadableAnswer)),
        (json!({"oversized": {"bytes": 1_000_000}}), Verdict::Inconclusive(Reason::UnreadableAnswer)),
    ] {
        let stage = Stage::people(json!({})).await;
        let before = stage.account("ann@acme.example").await;
        stage.idp.fault(json!({"operation": "okta.password", "effect": effect}));
        let payer =
            Account { object_id: format!("00u{}", stage.idp.simulator.addr.port()), ..before.clone() };
        let verifier = stage.okta.verifier().unwrap();
        let connection = verifier.connect().await.unwrap();
        let permit = permits.permit(ProviderKind::Okta, ORG, &payer).await;
        let secret = SecretBytes::new(b"right horse battery".to_vec());
        let attempted = verifier.verify(permit, connection, &before, &secret).await;
        assert_eq!(attempted.verdict, verdict, "{effect}");
        assert_eq!(stage.idp.submissions().len(), 1, "{effect}");
    }
}

#[tokio::test]
async fn a_throttled_sign_in_is_deferred_by_the_servers_own_wait() {
    let (stage, permits) = (Stage::people(json!({})).await, Permits::start().await);
    let before = stage.account("ann@acme.example").await;
    stage.idp.fault(json!({"operation": "okta.password",
        "effect": {"throttle": {"hint": {"rate_limit_reset": 20}}}}));
    let attempted = verify(&stage, &permits, &before, "wrong").await;
    assert!(matches!(attempted.verdict, Verdict::Deferred(_, Reason::Throttled)), "{attempted:?}");
    let Signal::Throttled(wait) = attempted.signal else { panic!("{attempted:?}") };
    assert!((19..=22).contains(&wait.as_secs()), "{wait:?}");
}

// --- containment -----------------------------------------------------------------------------------------------------

fn done(acted: &Acted) -> bool {
    matches!(acted, Acted::Done { request_id: Some(_) })
}

fn refusal(acted: &Acted) -> &'static str {
    match acted {
        Acted::Refused { reason, .. } => reason,
        Acted::Done { .. } => "done",
    }
}

#[tokio::test]
async fn an_account_is_suspended_verified_and_brought_back() {
    let stage = Stage::people(json!({})).await;
    let id = stage.id("ann@acme.example");
    for _ in 0..2 {
        assert!(done(&stage.okta.act(Action::DisableAccount, &id).await.unwrap()));
        let seen = stage.okta.containment(&id, Action::DisableAccount).await.unwrap().unwrap();
        assert_eq!(seen.state, AccountState::Disabled);
    }
    for _ in 0..2 {
        assert!(done(&stage.okta.undo(Action::DisableAccount, &id).await.unwrap()));
        assert_eq!(
            stage.okta.containment(&id, Action::DisableAccount).await.unwrap().unwrap().state,
            AccountState::Active
        );
    }
    let actions: Vec<String> = stage.idp.changes().into_iter().map(|change| change.action).collect();
    assert_eq!(actions, ["suspend", "unsuspend"], "repeating is harmless");
}

#[tokio::test]
async fn sessions_are_ended_with_their_oauth_tokens() {
    let stage = Stage::people(json!({})).await;
    let id = stage.id("ann@acme.example");
    assert!(done(&stage.okta.act(Action::RevokeSessions, &id).await.unwrap()));
    let changes = stage.idp.changes();
    assert_eq!(
        (changes[0].action.as_str(), &changes[0].detail["oauth_tokens"]),
        ("revoke_sessions", &json!(true))
    );
    assert_eq!(changes[0].account, id);
    assert_eq!(refusal(&stage.okta.undo(Action::RevokeSessions, &id).await.unwrap()), "not_undoable");
}

#[tokio::test]
async fn what_okta_refuses_is_told_with_its_reason() {
    let stage = Stage::with(
        json!({}),
        json!({"roles": ["ORG_ADMIN", "okta.iam.read"]}),
        json!({"accounts": people()}),
    )
    .await;
    let suspend =
        async |login: &str| refusal(&stage.okta.act(Action::DisableAccount, &stage.id(login)).await.unwrap());
    assert_eq!(suspend("boss@acme.example").await, "admin_target");
    assert_eq!(suspend("gone@acme.example").await, "wrong_state");
    stage.patch("mfa@acme.example", json!({"lock": {"locked": true}}));
    assert_eq!(suspend("mfa@acme.example").await, "wrong_state");
    let gone = stage.okta.act(Action::DisableAccount, "00unobody00000000000").await.unwrap();
    assert_eq!(refusal(&gone), "account_gone");
    assert!(stage.idp.changes().is_empty());

    let helpless =
        Stage::with(json!({}), json!({"scopes": ["okta.users.read"]}), json!({"accounts": people()})).await;
    let acted = helpless.okta.act(Action::RevokeSessions, &helpless.id("ann@acme.example")).await.unwrap();
    assert_eq!(refusal(&acted), "permission_missing");
}
