//! The control port.

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, TENANT, spec, stage, stage_with};

#[tokio::test]
async fn the_root_lists_routes_and_operations() {
    let stage = stage().await;
    let root = stage.control(Method::GET, "/", &Value::Null).await;
    assert!(root["routes"].as_array().unwrap().iter().any(|r| r == "POST /faults"));
    assert!(root["operations"].as_array().unwrap().iter().any(|o| o == "entra.password"));
}

#[tokio::test]
async fn accounts_are_listed_page_by_page_with_their_passwords() {
    let mut spec = spec();
    spec["generated"] = json!({"seed": 3, "count": 1_000_000});
    let stage = stage_with(spec).await;
    let summary = stage.control(Method::GET, &format!("/directories/{TENANT}"), &Value::Null).await;
    assert_eq!(summary["accounts"], 1_000_003);
    let path = format!("/directories/{TENANT}/accounts?position=999000&limit=1500");
    let page = stage.control(Method::GET, &path, &Value::Null).await;
    let accounts = page["accounts"].as_array().unwrap();
    assert_eq!((accounts.len(), &page["next"]), (1003, &Value::Null));
    let last = accounts.last().unwrap();
    assert_eq!(last["login"], "hy@contoso.example");
    let some = accounts
        .iter()
        .find(|a| {
            a["password"].is_string()
                && a["authority"] == "cloud"
                && a["status"] == "active"
                && a["second_factor"] == "none"
                && a["password_expired"] == false
                && a["guest"] == false
        })
        .unwrap();
    let (login, password) = (some["login"].as_str().unwrap(), some["password"].as_str().unwrap());
    assert_eq!(stage.sign_in(login, password).await, (200, None));
}

#[tokio::test]
async fn a_patched_account_answers_with_its_new_truth_under_its_new_name() {
    let stage = stage().await;
    let before = stage.account(ANN).await;
    stage.patch(ANN, json!({"login": "anna@contoso.example", "password": "new-horse"})).await;
    assert_eq!(stage.sign_in("ann@contoso.example", "new-horse").await, (400, Some(50034)));
    assert_eq!(stage.sign_in("anna@contoso.example", "new-horse").await, (200, None));
    let after = stage.account(ANN).await;
    assert_ne!(before["password_changed"], after["password_changed"]);
    let (status, _) = stage
        .try_control(Method::PATCH, &format!("/directories/{TENANT}/accounts/{ANN}"), &json!({"nonsense": 1}))
        .await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_is_unknown_is_404_and_a_reset_forgets_everything() {
    let stage = stage().await;
    assert_eq!(stage.try_control(Method::GET, "/directories/nowhere", &Value::Null).await.0, 404);
    stage.sign_in("ann@contoso.example", "x").await;
    stage.control(Method::POST, "/reset", &Value::Null).await;
    assert_eq!(stage.control(Method::GET, "/directories", &Value::Null).await, json!([]));
    assert_eq!(stage.control(Method::GET, "/log", &Value::Null).await["last"], 0);
}

#[tokio::test]
async fn the_log_is_read_from_a_sequence_on_and_appended_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("log.jsonl");
    let specs = directory.path().join("directories.json");
    std::fs::write(&specs, json!([spec()]).to_string()).unwrap();
    let config = idp_simulator::Config {
        directories: vec![specs],
        log: Some(file.clone()),
        ..idp_simulator::Config::default()
    };
    let simulator = idp_simulator::start(config).await.unwrap();
    let stage = crate::stage::Stage { simulator, http: reqwest::Client::builder().build().unwrap() };
    for n in 0..5 {
        stage.sign_in("ann@contoso.example", &format!("wrong-{n}")).await;
    }
    let log = stage.control(Method::GET, "/log?after=3", &Value::Null).await;
    let sequences: Vec<&Value> = log["entries"].as_array().unwrap().iter().map(|e| &e["seq"]).collect();
    assert_eq!(sequences, [4, 5]);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 5);
    stage.simulator.shutdown().await;
}
