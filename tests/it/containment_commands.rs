//! The commands that contain accounts as they are typed: many at once, followed, approved, and the policy behind them.

use e2e::Idp;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    api_stage::Stage,
    policy::{hold, integration, people},
};

fn texts<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_contains_many_accounts_at_once_and_follows_them_to_their_end() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 4).await;
    let ada = stage.desk("ada", &["analyst"]);
    for (options, said) in [
        ("--action revoke-sessions --reason leak", "select some with a filter"),
        ("--account x --feed flare --action revoke-sessions --reason leak", "not both"),
        ("--feed flare --reason leak", "--action"),
        ("--feed flare --action revoke-sessions", "--reason"),
        ("--feed none --action revoke-sessions --reason leak", "has no account"),
    ] {
        let (code, told) = ada.fails(&format!("mitigate {options}")).await;
        assert!(code != 0 && told.contains(said), "{options}: {told}");
    }
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.mitigation_requests").await, 0);

    let some =
        format!("mitigate --account {},{} --action revoke-sessions --reason leak", accounts[0], accounts[1]);
    let named = ada.asks(&some).await;
    assert_eq!((&named["accounts"], named.get("bulk")), (&"2".into(), None), "{named}");
    let many = ada
        .asks("mitigate --feed flare --verdict valid --action revoke-sessions,disable-account --reason leak")
        .await;
    assert_eq!((&many["accounts"], &many["bulk"]), (&"4".into(), &true.into()), "{many}");

    let request: Uuid = many["id"].as_str().unwrap().parse().unwrap();
    let approval = hold(&stage, "many_accounts", Some(request), &accounts, 0).await;
    let told = ada.types(&format!("mitigation progress {request} --wait")).await;
    assert!(told.starts_with("0 of 8 planned mitigations are decided, 8 held for a second person"), "{told}");
    let table = ada.types("approval list").await;
    assert!(table.contains("many_accounts") && table.contains("ada"), "{table}");
    let shown = ada.asks(&format!("approval show {approval}")).await;
    assert_eq!(
        (&shown["approval"]["held"], &shown["approval"]["administrators"]),
        (&"8".into(), &"1".into())
    );
    assert_eq!(shown["mitigations"].as_array().unwrap().len(), 8);
    assert_eq!(ada.fails(&format!("approval show {}", Uuid::now_v7())).await.0, 5, "not found");
    let listed = ada.asks(&format!("mitigation list --approval {approval} --action disable-account")).await;
    assert_eq!(listed.as_array().unwrap().len(), 4);

    let waiting = async { ada.asks(&format!("mitigation progress {request} --wait")).await };
    stage.bus.execute("UPDATE mitigation.mitigations SET state = 'done', held_by = NULL").await;
    let finish = async {
        stage
            .bus
            .execute(
                "UPDATE mitigation.mitigations SET state = 'refused', reason = 'admin_target' WHERE is_admin;
                 UPDATE mitigation.mitigations SET state = 'verified' WHERE NOT is_admin",
            )
            .await;
    };
    let (progress, ()) = tokio::join!(waiting, finish);
    assert_eq!((&progress["planned"], &progress["finished"]), (&"8".into(), &"8".into()));
    assert_eq!(texts(&progress["counts"], "state"), ["refused", "verified"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_changes_the_policy_and_sees_what_changed() {
    let stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, Uuid::now_v7(), 2).await;
    let (ann, ada) = (stage.desk("ann", &["tenant_admin"]), stage.desk("ada", &["analyst"]));
    let shown = ada.types("policy show").await;
    for line in [
        "brake.accounts_per_hour",
        "protected.administrators",
        "approval.first_run",
        "disable_account, revoke",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let printed = ann.file("printed.json", ann.types("--json policy show").await);
    let file =
        ann.file("policy.toml", "verdicts = ['valid', 'valid-expired']\n[brake]\naccounts_per_hour = 5\n");
    let told = ann.types(&format!("policy set {} --reason ticket", file.display())).await;
    assert_eq!(
        told,
        "version 1 is in force:\n  brake.accounts_per_hour: 20 -> 5\n  verdicts: valid, valid_second_factor, valid_expired -> \
         valid, valid_expired\n"
    );
    // What was printed before the change would take it back.
    let (code, said) = ann.fails(&format!("policy set {} --reason ticket", printed.display())).await;
    assert!(code == 6 && said.contains("POLICY_CHANGED"), "{said}");

    let protect = format!("policy protect {} --break-glass --note safe --reason ticket", accounts[0]);
    let told = ann.types(&protect).await;
    assert!(told.contains("protected.accounts.user1@x.example: nothing -> break-glass: safe"), "{told}");
    assert!(ann.types(&protect).await.starts_with("nothing changed; version 2"));
    let (_, said) = ann.fails("policy protect nobody@x.example --reason ticket").await;
    assert!(said.contains("no account signs in as"), "{said}");
    assert!(
        ann.fails("policy unprotect user2@x.example --reason ticket").await.1.contains("is not protected")
    );
    let told = ann.types("policy unprotect USER1@x.example --reason ticket").await;
    assert!(told.contains("break-glass: safe -> nothing"), "{told}");
    let (code, _) = ada.fails(&protect).await;
    assert_eq!(code, 4, "an analyst may not");

    let editor = ann
        .file("editor", "#!/bin/sh\nsed -i 's/\"accounts_per_hour\": 5/\"accounts_per_hour\": 7/' \"$1\"\n");
    let mut edit = ann.command(["policy", "edit", "--reason", "ticket"]);
    edit.env("VISUAL", format!("sh {}", editor.display()));
    let output = edit.output().await.unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("version 4") && told.contains("accounts_per_hour: 5 -> 7"), "{told}");
    let (code, said) = ann.fails("policy simulate --days 91").await;
    assert!(code == 6 && said.contains("1 to 90"), "{said}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_done_is_shown_before_it_is_asked_for_and_a_second_person_decides_about_what_is_held() {
    let idp = Idp::start().await;
    let mut stage = Stage::new().await;
    let accounts = people(&stage, stage.tenant, integration(&stage).await, 3).await;
    stage.activate_all().await;
    let roles = ["analyst", "approver"];
    let (ada, bob) = (stage.desk("ada", &roles), stage.desk("bob", &roles));
    let plan = "mitigation plan --feed flare --action revoke-sessions";
    assert_eq!(ada.fails(plan).await.0, 3, "the executor is away");

    stage.start_executor(&idp).await;
    let told = ada.types(plan).await;
    assert!(
        told.starts_with(
            "Of 3 accounts, 2 WOULD BE ACTED ON, 1 would be HELD for a second person, 0 would be REFUSED"
        ),
        "{told}"
    );
    assert!(told.contains("Nothing was done."), "{told}");
    assert!(told.contains("user3@x.example") && told.contains("privileged_account"), "{told}");
    let off = ada.asks(&format!("mitigation plan --account {} --action mark-compromised", accounts[0])).await;
    assert_eq!(off["counts"][0]["reason"], "switched_off", "{off}");
    let told = ada.types("policy simulate --days 7").await;
    assert!(told.contains("4 valid verdicts") && told.contains("the policy is as it was"), "{told}");
    assert_eq!(stage.bus.count("SELECT count(*) FROM mitigation.mitigations").await, 0);

    let request =
        ada.asks(&format!("mitigate --account {} --action revoke-sessions --reason leak", accounts[2])).await;
    let progress = ada.asks(&format!("mitigation progress {} --wait", request["id"].as_str().unwrap())).await;
    assert_eq!(progress["counts"][0]["state"], "held", "{progress}");
    let approvals = bob.asks("approval list").await;
    let id = approvals[0]["id"].as_str().unwrap();
    assert_eq!(
        (&approvals[0]["requested_by"], &approvals[0]["administrators"]),
        (&"ada".into(), &"1".into())
    );
    let (code, said) = ada.fails(&format!("approval approve {id} --reason sure")).await;
    assert!(code == 4 && said.contains("SAME_PERSON"), "{said}");
    let (code, said) =
        bob.fails(&format!("approval approve {id} --only {} --reason x", Uuid::now_v7())).await;
    assert_eq!(code, 5, "{said}");
    let rejected = bob.asks(&format!("approval reject {id} --reason mistaken")).await;
    assert_eq!(
        (&rejected["state"], &rejected["decider_name"]),
        (&"APPROVAL_STATE_REJECTED".into(), &"bob".into())
    );
    let (code, said) = bob.fails(&format!("approval approve {id} --reason sure")).await;
    assert!(code == 6 && said.contains("REJECTED"), "{said}");

    let request =
        ada.asks(&format!("mitigate --account {} --action revoke-sessions --reason leak", accounts[2])).await;
    let request = request["id"].as_str().unwrap();
    ada.asks(&format!("mitigation progress {request} --wait")).await;
    for _ in 0..2 {
        let cancelled = bob.asks(&format!("mitigation cancel {request} --reason mistaken")).await;
        assert_eq!((&cancelled["dropped"], &cancelled["request"]["id"]), (&"1".into(), &request.into()));
    }
    let progress = ada.asks(&format!("mitigation progress {request}")).await;
    assert_eq!(progress["counts"][0]["reason"], "cancelled", "{progress}");
    let unknown = format!("mitigation cancel {} --reason x", Uuid::now_v7());
    assert_eq!(ada.fails(&unknown).await.0, 5);
    stage.stop().await;
}
