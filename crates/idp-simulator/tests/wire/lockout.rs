//! Smart lockout, and who is to blame for a lock.

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, TENANT, stage};

#[tokio::test]
async fn the_tenth_wrong_password_locks_and_then_even_the_right_one_is_refused() {
    let stage = stage().await;
    for n in 0..10 {
        assert_eq!(stage.sign_in("ann@contoso.example", &format!("wrong-{n}")).await, (400, Some(50126)));
    }
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(50053)));
    let locks: Vec<Value> = stage.log("change").await.into_iter().filter(|e| e["action"] == "lock").collect();
    assert_eq!(locks.len(), 1);
    assert_eq!((&locks[0]["actor"], &locks[0]["detail"]["failures_wire"]), (&json!("wire"), &json!(10)));
    let submissions = stage.log("submission").await;
    assert_eq!(submissions[9]["locked"], true);
    assert_eq!(
        (&submissions[10]["correct"], &submissions[10]["answer"]),
        (&json!(true), &json!("400 AADSTS50053"))
    );
}

#[tokio::test]
async fn a_lock_ends_after_a_minute_and_the_next_failure_locks_for_longer() {
    let stage = stage().await;
    for n in 0..10 {
        stage.sign_in("ann@contoso.example", &format!("wrong-{n}")).await;
    }
    stage.control(Method::POST, "/clock", &json!({"advance_s": 61})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "wrong-again").await, (400, Some(50126)));
    stage.control(Method::POST, "/clock", &json!({"advance_s": 61})).await;
    assert_eq!(
        stage.sign_in("ann@contoso.example", "right-horse").await,
        (400, Some(50053)),
        "twice as long"
    );
    stage.control(Method::POST, "/clock", &json!({"advance_s": 61})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (200, None));
}

#[tokio::test]
async fn repeating_one_of_the_last_three_wrong_passwords_does_not_count() {
    let stage = stage().await;
    for _ in 0..20 {
        stage.sign_in("ann@contoso.example", "same").await;
    }
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 1);
    for password in ["b", "c", "d", "same"] {
        stage.sign_in("ann@contoso.example", password).await;
    }
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 5, "the fourth last is forgotten");
}

#[tokio::test]
async fn pass_through_accounts_have_no_such_memory() {
    let stage = stage().await;
    let pia = json!({"login": "pia@pta.contoso.example", "password": "right-horse"});
    stage.control(Method::POST, &format!("/directories/{TENANT}/accounts"), &pia).await;
    for _ in 0..3 {
        stage.sign_in("pia@pta.contoso.example", "same").await;
    }
    assert_eq!(stage.account("pia@pta.contoso.example").await["lock"]["failures"], 3);
}

#[tokio::test]
async fn the_owner_mistypes_signs_in_and_is_told_apart_from_the_wire() {
    let stage = stage().await;
    let path = |verb: &str| format!("/directories/{TENANT}/accounts/{ANN}/{verb}");
    stage.control(Method::POST, &path("wrong-passwords"), &json!({"count": 8})).await;
    stage.sign_in("ann@contoso.example", "wrong").await;
    let lock = stage.account(ANN).await["lock"].clone();
    assert_eq!((&lock["failures_owner"], &lock["failures_wire"]), (&json!(8), &json!(1)));
    stage.control(Method::POST, &path("sign-in"), &Value::Null).await;
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 0);
    stage.control(Method::POST, &path("wrong-passwords"), &json!({"count": 10})).await;
    let (status, _) = stage.try_control(Method::POST, &path("sign-in"), &Value::Null).await;
    assert_eq!(status, 409, "locked");
    stage.control(Method::POST, &path("unlock"), &Value::Null).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (200, None));
}

#[tokio::test]
async fn a_blocked_address_looks_like_a_lock_and_counts_nothing() {
    let stage = stage().await;
    stage.configure(json!({"address_blocked": true})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(50053)));
    assert_eq!(stage.account(ANN).await["lock"]["failures"], 0);
}

#[tokio::test]
async fn the_government_clouds_lock_after_three() {
    let mut spec = crate::stage::spec();
    spec["provider"]["entra_id"]["cloud"] = json!("us_gov");
    let stage = crate::stage::stage_with(spec).await;
    for n in 0..3 {
        stage.sign_in("ann@contoso.example", &format!("wrong-{n}")).await;
    }
    assert_eq!(stage.sign_in("ann@contoso.example", "right-horse").await, (400, Some(50053)));
}
