//! What a directory no longer shows, when it is too much to be believed: held, shown, applied or dropped by a person.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::Arc,
};

use e2e::{Idp, until};
use idp_simulator::model::Directory;
use prost::Message;
use serde_json::{Value, json};
use shared::{
    id::TenantId,
    outbox::Topic,
    wire::{
        events::{AccountsChanged, AuditRecorded},
        v1::{self, removal_service_client::RemovalServiceClient},
    },
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::Code;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::{
    api::reason,
    api_stage::{Desk, Stage, package},
};

const TENANT: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const APP: &str = "11111111-2222-4333-8444-555555555555";
const SECRET: &str = "Zx8Q~secret+value/with=signs";

/// The API, a sync worker, and an Entra tenant at the simulator that was synced once.
struct World {
    stage: Stage,
    directory: Arc<Directory>,
    idp: Idp,
    admin: Desk,
    viewer: Desk,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<ExitCode>>,
}

impl World {
    async fn new(accounts: u64) -> Self {
        let (stage, idp) = (Box::pin(Stage::new()).await, Box::pin(Idp::start()).await);
        // What the switches that `integration add` leaves on need.
        let permissions = ["User.Read.All", "User.RevokeSessions.All", "User.EnableDisableAccount.All"];
        let app = json!({"client_id": APP, "secrets": [{"value": SECRET}], "permissions": permissions});
        let tenant = json!({"tenant_id": TENANT, "domains": [{"name": "contoso.example"}], "apps": [app]});
        let directory = idp.directory(json!({
            "name": "Contoso", "provider": {"entra_id": tenant}, "generated": {"seed": 7, "count": accounts},
        }));
        let (stop, asked) = oneshot::channel::<()>();
        let config = stage.sync_worker_config(&idp);
        let ended = tokio::spawn(identity_sync_worker::run(config, async move { drop(asked.await) }));
        let admin = stage.desk("ann", &["org_admin", "tenant_admin"]);
        let viewer = stage.desk("vic", &["viewer"]);
        let world = Self { stage, directory, idp, admin, viewer, stop, ended };
        let secret = world.admin.file("secret", SECRET);
        let add = format!(
            "integration add entra --name corp --directory {TENANT} --client-id {APP} --secret-file {}",
            secret.display()
        );
        world.admin.types(&add).await;
        until("the worker answers", || async {
            let tested = world.admin.command(["integration", "test", "corp"]).output().await.unwrap();
            let away = tested.status.code() == Some(3);
            assert!(away || tested.status.success(), "{tested:?}");
            !away
        })
        .await;
        world.admin.types("sync start corp --full --watch").await;
        assert_eq!(world.present().await, world.real());
        world
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        assert_eq!(format!("{:?}", self.ended.await.unwrap().unwrap()), format!("{:?}", ExitCode::SUCCESS));
        self.stage.stop().await;
    }

    /// Object ids of the accounts that the directory shows.
    fn real(&self) -> BTreeSet<String> {
        let (accounts, _) = self.directory.accounts.page(0, usize::MAX, |_| true);
        accounts.into_iter().map(|account| account.id).collect()
    }

    /// Object ids of the accounts that are there for us, neither removed nor missing.
    async fn present(&self) -> BTreeSet<String> {
        sqlx::query_scalar(
            "SELECT object_id FROM sync.accounts WHERE removed_at IS NULL AND missing_since IS NULL",
        )
        .fetch_all(&mut self.stage.bus.superuser().await)
        .await
        .unwrap()
        .into_iter()
        .collect()
    }

    /// Takes this many accounts out of the directory; returns their object ids.
    fn lose(&self, count: usize) -> Vec<String> {
        let lost: Vec<_> = self.real().into_iter().take(count).collect();
        self.set(&lost, "deleted");
        lost
    }

    fn set(&self, ids: &[String], status: &str) {
        let now = self.idp.simulator.world.now();
        for id in ids {
            self.directory.accounts.patch(id, &json!({ "status": status }), now).unwrap().unwrap();
        }
    }

    /// A full sync that ends without removing what it did not find; returns what its watcher is told to do next.
    async fn held(&self) -> String {
        let (code, said) = self.admin.fails("sync start corp --full --watch").await;
        assert_eq!(code, 1, "{said}");
        let next = said.split("next: parapet removal show ").nth(1).unwrap_or_else(|| panic!("{said}"));
        next.split_whitespace().next().unwrap().to_owned()
    }

    async fn count(&self, query: &'static str) -> i64 {
        self.stage.bus.count(query).await
    }

    /// The messages of a topic that nobody has taken yet.
    async fn taken<M: Message + Default>(&self, topic: Topic) -> Vec<M> {
        self.stage.bus.until_count("SELECT count(*) FROM sync.outbox", 0).await;
        let (_connection, channel) = self.stage.bus.channel().await;
        let mut taken = Vec::new();
        let options = lapin::options::BasicGetOptions { no_ack: true };
        while let Some(got) = channel.basic_get(topic.as_str().into(), options).await.unwrap() {
            taken.push(M::decode(got.data.as_slice()).unwrap());
        }
        taken
    }

    async fn audited(&self) -> BTreeMap<String, Vec<AuditRecorded>> {
        let mut by_type = BTreeMap::<_, Vec<_>>::new();
        for event in self.taken::<AuditRecorded>(Topic::AuditRecorded).await {
            by_type.entry(event.r#type.clone()).or_default().push(event);
        }
        by_type
    }
}

fn removals(stage: &Stage, roles: &[&str]) -> RemovalServiceClient<crate::api_stage::Api> {
    RemovalServiceClient::new(stage.by("ann", roles))
}

fn strings<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sudden_shrink_is_shown_and_applied_to_exactly_those_that_are_still_missing() {
    let world = World::new(60).await;
    let lost = world.lose(10);
    let plan = world.held().await;
    assert_eq!(world.present().await.len(), 60, "nothing is removed without a person");
    let shown = world.admin.command(["integration", "show", "corp"]).output().await.unwrap();
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains(&format!("next: parapet removal show {plan}")), "{said}");

    let listed = world.viewer.asks("removal list --integration corp --state held").await;
    assert_eq!(strings(&listed, "id"), [&plan]);
    assert_eq!(strings(&listed, "reason"), ["REMOVAL_PLAN_REASON_SHRUNK"]);
    assert_eq!((&listed[0]["accounts_known"], &listed[0]["accounts_missing"]), (&"60".into(), &"10".into()));
    let table = world.viewer.types(&format!("removal show {plan}")).await;
    assert!(table.contains("shrunk") && table.contains("MISSING SINCE"), "{table}");
    let shown = world.viewer.asks(&format!("removal show {plan}")).await;
    let objects: BTreeSet<_> = strings(&shown["accounts"], "object_id").into_iter().collect();
    assert_eq!(objects, lost.iter().map(String::as_str).collect());
    for account in shown["accounts"].as_array().unwrap() {
        assert!(account["missing_since"].is_string() && account["identifiers"] != json!(null), "{account}");
    }
    let mut client = removals(&world.stage, &["viewer"]);
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::GetRemovalPlanRequest { id: plan.clone(), page_size: 4, page_token };
        let page = client.get_removal_plan(request).await.unwrap().into_inner();
        pages.push(page.accounts.len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [4, 4, 2]);

    for deed in ["apply", "drop"] {
        let (code, said) = world.viewer.fails(&format!("removal {deed} {plan} --reason because")).await;
        assert!(code == 4 && said.contains("ROLE_MISSING"), "{said}");
    }

    // Three come back as they were: no account is written for it, and still the plan knows.
    let (back, gone) = lost.split_at(3);
    world.set(back, "active");
    world.admin.types("sync start corp --watch").await;
    let shown = world.viewer.asks(&format!("removal show {plan}")).await;
    assert_eq!(shown["plan"]["accounts_came_back"], "3");

    world.taken::<AccountsChanged>(Topic::AccountsChanged).await;
    let identifiers = world.count("SELECT count(*) FROM sync.identifiers").await;
    let applied = world.admin.asks(&format!("removal apply {plan} --reason left")).await;
    assert_eq!(applied["state"], "REMOVAL_PLAN_STATE_APPLIED");
    assert_eq!((&applied["decided_by"], &applied["decision_reason"]), (&"ann".into(), &"left".into()));
    for (field, expected) in
        [("accounts_removed", "7"), ("accounts_came_back", "3"), ("identities_removed", "7")]
    {
        assert_eq!(applied[field], expected, "{field}");
    }
    assert_eq!(world.present().await, world.real());
    let removed: BTreeSet<String> =
        sqlx::query_scalar("SELECT object_id FROM sync.accounts WHERE removed_at IS NOT NULL")
            .fetch_all(&mut world.stage.bus.superuser().await)
            .await
            .unwrap()
            .into_iter()
            .collect();
    assert_eq!(removed, gone.iter().cloned().collect());
    let left = world.count("SELECT count(*) FROM sync.identifiers").await;
    assert_eq!(applied["identifiers_removed"], (identifiers - left).to_string());
    assert!(identifiers - left >= 7);
    assert_eq!(world.count("SELECT identifiers FROM sync.usage").await, left);
    assert_eq!(world.count("SELECT count(*) FROM sync.identifier_lookup").await, left);
    let told: BTreeSet<Uuid> = world
        .taken::<AccountsChanged>(Topic::AccountsChanged)
        .await
        .into_iter()
        .flat_map(|message| message.account_ids)
        .map(|id| id.parse().unwrap())
        .collect();
    let removed: Vec<Uuid> =
        sqlx::query_scalar("SELECT account_id FROM sync.accounts WHERE removed_at IS NOT NULL")
            .fetch_all(&mut world.stage.bus.superuser().await)
            .await
            .unwrap();
    assert_eq!(told, removed.into_iter().collect(), "the validator is told of those that went");

    let again = world.admin.asks(&format!("removal apply {plan} --reason again")).await;
    assert_eq!(again, applied, "a second time changes nothing");
    let (code, said) = world.admin.fails(&format!("removal drop {plan} --reason no")).await;
    assert!(code == 6 && said.contains("PLAN_APPLIED"), "{said}");

    let events = world.audited().await;
    let [held] = &events["removals.held"][..] else { panic!("one plan: {events:?}") };
    let [done] = &events["removals.applied"][..] else { panic!("applied once: {events:?}") };
    assert_eq!((&held.object_id, &done.object_id), (&plan, &plan));
    assert_eq!(done.cause_id, held.cause_id, "the decision follows from the run that was held");
    let run = &events["sync.held"][0];
    assert_eq!(run.cause_id, held.cause_id);
    let actor = done.actor.clone().unwrap();
    assert_eq!((actor.id.as_str(), done.details["reason"].as_str()), ("ann", "left"));
    assert_eq!((&done.details["accounts"], &done.details["accounts_came_back"]), (&"7".into(), &"3".into()));
    assert!(!events.contains_key("removals.dropped"));

    let full = world.admin.types("sync start corp --full --watch").await;
    assert!(full.contains("done"), "{full}");
    assert_eq!(world.present().await, world.real());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_plan_removes_nothing_and_comes_back_only_with_a_further_full_run() {
    let world = World::new(60).await;
    let lost = world.lose(10);
    let first = world.held().await;
    let dropped = world.admin.asks(&format!("removal drop {first} --reason wait")).await;
    assert_eq!(
        (&dropped["state"], &dropped["decided_by"]),
        (&"REMOVAL_PLAN_STATE_DROPPED".into(), &"ann".into())
    );
    assert_eq!(world.admin.asks(&format!("removal drop {first} --reason again")).await, dropped);
    assert_eq!(world.present().await.len(), 60);
    let (code, said) = world.admin.fails(&format!("removal apply {first} --reason now")).await;
    assert!(code == 6 && said.contains("PLAN_DROPPED"), "{said}");

    world.admin.types("sync start corp --watch").await;
    assert_eq!(strings(&world.viewer.asks("removal list --state held").await, "id"), [""; 0]);
    assert_eq!(world.present().await.len(), 60, "a run of changes proposes nothing");
    let second = world.held().await;
    assert_ne!(second, first);
    assert_eq!(strings(&world.viewer.asks("removal list").await, "id"), [&second, &first], "newest first");

    // Everybody is back: the next full run has the last word about the plan.
    world.set(&lost, "active");
    world.admin.types("sync start corp --full --watch").await;
    for deed in ["apply", "drop"] {
        let (code, said) = world.admin.fails(&format!("removal {deed} {second} --reason late")).await;
        assert!(code == 6 && said.contains("PLAN_SUPERSEDED"), "{said}");
    }
    assert_eq!(world.present().await, world.real());
    assert_eq!(world.count("SELECT count(*) FROM sync.accounts WHERE removed_at IS NOT NULL").await, 0);

    let mut client = removals(&world.stage, &["viewer"]);
    let mut page_token = String::new();
    for expected in [&second, &first] {
        let request = v1::ListRemovalPlansRequest { page_size: 1, page_token, ..Default::default() };
        let page = client.list_removal_plans(request).await.unwrap().into_inner();
        assert_eq!(page.plans.iter().map(|p| &p.id).collect::<Vec<_>>(), [expected]);
        page_token = page.next_page_token;
    }
    assert_eq!(page_token, "");
    let events = world.audited().await;
    let [event] = &events["removals.dropped"][..] else { panic!("dropped once: {events:?}") };
    assert_eq!((event.object_id.as_str(), event.details["reason"].as_str()), (first.as_str(), "wait"));
    assert!(!events.contains_key("removals.applied") && !events.contains_key("accounts.removed"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_is_shown_as_what_it_is_and_never_applied() {
    let world = World::new(12).await;
    world.lose(12);
    let plan = world.held().await;
    let shown = world.viewer.asks(&format!("removal show {plan}")).await;
    assert_eq!(shown["plan"]["reason"], "REMOVAL_PLAN_REASON_EMPTY");
    assert_eq!(shown["accounts"].as_array().unwrap().len(), 12);
    let (code, said) = world.admin.fails(&format!("removal apply {plan} --reason sure")).await;
    assert!(code == 6 && said.contains("EMPTY_ANSWER") && said.contains("never a deletion"), "{said}");
    assert_eq!(world.present().await.len(), 12);
    let mut superuser = world.stage.bus.superuser().await;
    let forced = sqlx::query("UPDATE sync.removal_plans SET state = 'applied', decided_by = 'root'")
        .execute(&mut superuser)
        .await;
    assert!(forced.unwrap_err().to_string().contains("removal_plans_nothing_empty_deletes"));
    world.admin.types(&format!("removal drop {plan} --reason seen")).await;
    assert_eq!(world.present().await.len(), 12);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_only_gets_its_identity_late_has_not_come_back() {
    let world = World::new(20).await;
    world.lose(5);
    let plan = world.held().await;
    world.stage.bus.execute("UPDATE sync.accounts SET identity_id = NULL").await;
    world.admin.types("sync start corp --watch").await;
    assert_eq!(world.count("SELECT count(*) FROM sync.accounts WHERE identity_id IS NULL").await, 0);
    let applied = world.admin.asks(&format!("removal apply {plan} --reason left")).await;
    assert_eq!((&applied["accounts_came_back"], &applied["accounts_removed"]), (&Value::Null, &"5".into()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_plan_is_applied_once_however_many_ask_at_once() {
    let world = World::new(1300).await;
    world.lose(1200);
    let plan = world.held().await;
    let asked = (0..4).map(|_| {
        let mut client = removals(&world.stage, &["tenant_admin"]);
        let request = v1::ApplyRemovalPlanRequest { id: plan.clone(), reason: "merger".into() };
        async move { client.apply_removal_plan(request).await.unwrap().into_inner().plan.unwrap() }
    });
    for answer in futures::future::join_all(asked).await {
        assert_eq!((answer.state(), answer.accounts_removed), (v1::RemovalPlanState::Applied, 1200));
    }
    assert_eq!(world.present().await, world.real());
    assert_eq!(world.count("SELECT count(*) FROM sync.identities WHERE removed_at IS NOT NULL").await, 1200);
    assert_eq!(world.audited().await["removals.applied"].len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_neither_sees_nor_decides_about_a_plan() {
    let world = World::new(12).await;
    world.lose(3);
    let plan = world.held().await;
    let other = world.stage.new_tenant(&package(&[v1::ProviderKind::EntraId])).await;
    let mut stranger = RemovalServiceClient::new(world.stage.by_in(other, &["tenant_admin", "viewer"]));
    let listed = stranger.list_removal_plans(v1::ListRemovalPlansRequest::default()).await.unwrap();
    assert!(listed.into_inner().plans.is_empty());
    let id = plan.clone();
    let got = stranger.get_removal_plan(v1::GetRemovalPlanRequest { id, ..Default::default() }).await;
    let request = v1::ApplyRemovalPlanRequest { id: plan.clone(), reason: "mine".into() };
    let applied = stranger.apply_removal_plan(request).await.map(drop);
    let request = v1::DropRemovalPlanRequest { id: plan.clone(), reason: "mine".into() };
    let dropped = stranger.drop_removal_plan(request).await.map(drop);
    for answer in [got.map(drop), applied, dropped] {
        let status = answer.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NOT_FOUND"));
    }
    assert_eq!(strings(&world.viewer.asks("removal list --state held").await, "id"), [&plan]);
    assert_eq!(world.present().await.len(), 12);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_without_a_reason_or_without_the_worker_is_refused_with_what_helps() {
    let stage = Stage::new().await;
    let mut client = removals(&stage, &["tenant_admin"]);
    let request = v1::ApplyRemovalPlanRequest { id: "plan".into(), reason: " ".into() };
    let status = client.apply_removal_plan(request).await.unwrap_err();
    let details = status.get_error_details();
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!((status.code(), fields), (Code::InvalidArgument, vec!["id", "reason"]));
    let request = v1::DropRemovalPlanRequest { id: TenantId::new().to_string(), reason: "why".into() };
    let status = client.drop_removal_plan(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "UNAVAILABLE"));
    assert!(status.get_error_details().retry_info().is_some());
    stage.stop().await;
}
