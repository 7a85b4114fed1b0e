//! Accounts, changes and policies as they are read, page by page, whatever the org does meanwhile.

use std::sync::Arc;

use serde_json::json;
use shared::provider::{
    AccountState, Cursor, Listing, Next, Provider, ProviderError,
    pace::{Pace, Share},
};
use time::Duration;

use super::{Stage, people};

#[tokio::test]
async fn a_full_listing_shows_the_deprovisioned_and_the_administrators_too() {
    let stage = Stage::generated(1234).await;
    let (all, _) = stage.walk(Listing::Full, None).await.unwrap();
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
    assert_eq!(stage.account("ann@acme.example").await.display_name, "Ann Lee");
    stage.patch_settings(json!({"dpop_nonces": ["rotated"]}));
    stage.account("ann@acme.example").await;
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
    assert!(matches!(throttled, Some(ProviderError::Paced { .. })), "{throttled:?}");
}

#[tokio::test]
async fn two_adapters_of_one_process_take_their_share_of_a_bucket_together_and_leave_the_rest() {
    let stage = Stage::people(json!({"buckets": {"user": 200}})).await;
    let id = stage.id("ann@acme.example");
    let pace = Arc::new(Pace::default());
    let share = Share::percent(25);
    let ours = [(); 2].map(|()| stage.another().paced(Arc::clone(&pace), share));
    // Half of the bucket is the application's, a quarter of that is ours: 25, the last four of them spread out.
    for okta in ours.iter().cycle().take(21) {
        okta.account(&id).await.unwrap();
    }
    let slowed = tokio::time::timeout(std::time::Duration::from_secs(2), ours[0].account(&id)).await;
    assert!(slowed.is_err(), "the share is nearly used up: {slowed:?}");
    for _ in 0..40 {
        stage.okta.account(&id).await.unwrap(); // the customer's other tools still get on
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

/// Staff and contractors, each with a policy of its own.
async fn two_policies(scopes: &[&str]) -> Stage {
    let settings = json!({"max_attempts": 10, "min_length": 10, "policies": [
        {"name": "Contractors", "max_attempts": 3, "groups": ["00gcontractors0000001"], "min_length": 6},
        {"name": "Nobody", "max_attempts": 2, "groups": ["00gnobody00000000001"], "min_length": 4, "active": false},
    ]});
    let accounts = json!([
        {"id": "00ustaff000000000001", "login": "staff@acme.example", "password": "right horse battery"},
        {"id": "00ucontractor0000001", "login": "contractor@acme.example", "password": "right horse battery"},
    ]);
    let groups =
        json!([{"id": "00gcontractors0000001", "name": "Contractors", "members": ["00ucontractor0000001"]}]);
    Stage::with(settings, json!({"scopes": scopes}), json!({"accounts": accounts, "groups": groups})).await
}

#[tokio::test]
async fn the_threshold_of_an_account_is_that_of_the_policies_it_can_fall_under() {
    let stage = two_policies(&["okta.users.read", "okta.policies.read", "okta.groups.read"]).await;
    let threshold = async |stage: &Stage, login: &str| {
        let account = stage.account(login).await;
        stage.okta.lockout_threshold(&account).await.unwrap()
    };
    assert_eq!(stage.okta.lockout_policy().await.unwrap().threshold, Some(3), "the strictest of all");
    assert_eq!(threshold(&stage, "staff@acme.example").await, Some(10));
    assert_eq!(threshold(&stage, "contractor@acme.example").await, Some(3));
    // Whose groups cannot be told may fall under any of them.
    let blind = two_policies(&["okta.users.read", "okta.policies.read"]).await;
    assert_eq!(threshold(&blind, "staff@acme.example").await, Some(3));
    let unread = two_policies(&["okta.users.read", "okta.groups.read"]).await;
    assert_eq!(threshold(&unread, "staff@acme.example").await, None);
}

#[tokio::test]
async fn what_every_password_satisfied_is_the_least_of_all_policies() {
    let stage = two_policies(&["okta.users.read", "okta.policies.read"]).await;
    let rules = stage.okta.password_rules().await.unwrap().unwrap();
    assert_eq!((rules.min_length, rules.min_lower, rules.min_digits), (4, 1, 1));
    let unread = two_policies(&["okta.users.read"]).await;
    assert_eq!(unread.okta.password_rules().await.unwrap(), None);
}
