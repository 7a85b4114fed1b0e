//! Outbound events, as a customer's own system sees them: a queue of its own, bound to the one exchange.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Duration};

use e2e::{
    Bus, servers, until,
    validation::{Leak, World, login, object, password},
};
use lapin::{
    Channel, Connection,
    options::{BasicGetOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use shared::{
    id::{MessageId, ProviderKind},
    outbox::OUTBOUND_EXCHANGE,
    provider::Action,
    queue::{self, declare_topology},
};
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    messaging::{EFFECTS, Effect, TOPIC, enqueue},
    mitigation_stage::{Stage, free, people, switched},
};

const QUEUE: &str = "siem.parapet";

/// A customer's queue, bound as documented.
struct Listener {
    channel: Channel,
    _connection: Connection,
}

/// An event as it arrived.
#[derive(Debug, PartialEq)]
struct Heard {
    routing_key: String,
    message_id: String,
    content_type: String,
    text: String,
    event: Value,
}

impl Listener {
    async fn bound((connection, channel): (Connection, Channel)) -> Self {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await.unwrap();
        let (exchange, every) = (OUTBOUND_EXCHANGE.into(), "#".into());
        channel
            .queue_bind(QUEUE.into(), exchange, every, QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
        Self { channel, _connection: connection }
    }

    async fn next(&self) -> Option<Heard> {
        let got =
            self.channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await.unwrap()?.delivery;
        let text = String::from_utf8(got.data.clone()).unwrap();
        let properties = &got.properties;
        Some(Heard {
            routing_key: got.routing_key.to_string(),
            message_id: properties.message_id().as_ref().unwrap().to_string(),
            content_type: properties.content_type().as_ref().unwrap().to_string(),
            event: serde_json::from_str(&text).unwrap(),
            text,
        })
    }

    /// Everything until now.
    async fn all(&self) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some(next) = self.next().await {
            heard.push(next);
        }
        heard
    }

    /// Waits for this many, and returns what came.
    async fn wait(&self, count: usize) -> Vec<Heard> {
        let heard = tokio::sync::Mutex::new(Vec::new());
        until("the events have come", || async {
            let mut heard = heard.lock().await;
            heard.extend(self.all().await);
            heard.len() >= count
        })
        .await;
        heard.into_inner()
    }
}

impl Heard {
    /// What every event has, whatever it tells. Returns its data without that.
    fn data(&self) -> Value {
        let mut envelope = self.event.clone();
        let data = envelope.as_object_mut().unwrap().remove("data").unwrap();
        let at = envelope.as_object_mut().unwrap().remove("time").unwrap();
        let at = OffsetDateTime::parse(at.as_str().unwrap(), &Rfc3339).unwrap();
        assert!((OffsetDateTime::now_utc() - at).abs() < time::Duration::minutes(10), "{at}");
        assert_eq!(
            envelope,
            json!({ "specversion": "1.0", "id": self.message_id, "source": "/parapet", "type": self.routing_key,
                    "datacontenttype": "application/json" })
        );
        assert_eq!(self.content_type, "application/cloudevents+json");
        data
    }
}

fn program() -> PathBuf {
    e2e::program("validator-under-test")
}

fn leak(account: usize, password: impl Into<String>) -> Leak {
    Leak { account, password: password.into() }
}

/// Puts an event into the validator's outbox.
async fn put(db: &mut PgConnection, destination: &str, body: &Value) -> Uuid {
    let id = MessageId::new().uuid();
    sqlx::query("INSERT INTO validator.outbox (id, topic, body) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(destination)
        .bind(body.to_string().into_bytes())
        .execute(db)
        .await
        .unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn proven_verdicts_are_told_with_what_they_concern_and_no_secret() {
    let world = World::new(3).await;
    let listener = Listener::bound(world.channel().await).await;
    // The third proves nothing: a mask.
    world.leak(&[leak(0, password(0)), leak(1, "wrong-guess-1"), leak(2, "********")]).await;
    let _validator = world.validator(&program(), None);
    world.until("SELECT count(*) FROM validator.exposures WHERE state = 'decided'", 3).await;
    // The same again costs no attempt.
    world.leak(&[leak(0, password(0)), leak(1, "wrong-guess-1")]).await;
    world.until("SELECT count(*) FROM validator.exposures WHERE state = 'decided'", 5).await;
    world.until("SELECT count(*) FROM validator.outbox", 0).await;
    let heard = listener.all().await;

    let mut db = world.superuser().await;
    let mut expected = BTreeSet::new();
    let proven: Vec<(Uuid, Uuid, String, String, Vec<u8>)> = sqlx::query_as(
        "SELECT exposure_id, account_id, object_id, verdict, digest FROM validator.exposures
         WHERE verdict IN ('valid', 'invalid')",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    for (exposure, account, object_id, verdict, digest) in proven {
        let n = usize::from(object_id == object(1));
        let data = json!({
            "schema": 1, "tenant_id": world.tenant, "integration_id": world.integration, "provider": "entra_id",
            "directory_id": world.directory, "account_id": account, "object_id": object(n), "login": login(n),
            "exposure_id": exposure, "verdict": verdict, "cause_id": exposure,
        });
        expected.insert((format!("{verdict}_credential"), data.to_string()));
        for event in &heard {
            assert!(!event.text.contains(&hex::encode(&digest)), "{event:?}");
        }
    }
    assert_eq!(expected.len(), 3, "two attempts and the valid one's repetition");
    let told: BTreeSet<_> =
        heard.iter().map(|event| (event.routing_key.clone(), event.data().to_string())).collect();
    assert_eq!(told, expected);
    assert_eq!(heard.len(), 3, "each once");
    assert_eq!(world.submissions().len(), 2);
    for secret in [&password(0), "wrong-guess-1", "********"] {
        assert!(heard.iter().all(|event| !event.text.contains(secret)), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_one_event_however_often_its_turn_and_its_event_are_delivered() {
    let world = World::new(1).await;
    let listener = Listener::bound(world.channel().await).await;
    // A relay whose deletions of events are lost.
    world
        .execute(
            "CREATE FUNCTION validator.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             GRANT EXECUTE ON FUNCTION validator.keep() TO parapet_validator;
             CREATE TRIGGER keep BEFORE DELETE ON validator.outbox FOR EACH ROW
                 WHEN (OLD.topic LIKE 'parapet.outbound/%') EXECUTE FUNCTION validator.keep()",
        )
        .await;
    world.leak(&[leak(0, "wrong-guess-1")]).await;
    let _validator = world.validator(&program(), None);
    let first = listener.wait(1).await;
    world.execute("UPDATE validator.outbox SET ready_at = clock_timestamp()").await;
    let again = listener.wait(1).await;
    assert_eq!(first[0], again[0], "the same event, the same id");
    world.execute("DROP TRIGGER keep ON validator.outbox").await;
    world.execute("UPDATE validator.outbox SET ready_at = clock_timestamp()").await;
    world.until("SELECT count(*) FROM validator.outbox", 0).await;
    listener.all().await;

    // The turn once more, as a message that was handled and not acknowledged.
    let (work, exposure) = (Uuid::now_v7(), world.exposure(0).await);
    let due = shared::wire::events::ValidationDue {
        tenant_id: world.tenant.to_string(),
        work_id: work.to_string(),
        exposure_id: exposure.to_string(),
    };
    let handled =
        "SELECT count(*) FROM validator.inbox WHERE consumer = 'validation.due' AND status = 'done'";
    let before = world.count(handled).await;
    sqlx::query(
        "INSERT INTO validator.work (work_id, tenant_id, directory, kind, subject, priority, due_at, state, lease_until)
         VALUES ($1, $2, $3, 'validate', $4, 0, clock_timestamp(), 'in_flight', clock_timestamp() + interval '10 minutes')",
    )
    .bind(work)
    .bind(world.tenant)
    .bind(&world.directory)
    .bind(exposure.uuid())
    .execute(&mut world.superuser().await)
    .await
    .unwrap();
    world.send(shared::outbox::Topic::ValidationDue, &due, 20).await;
    world.until(handled, before + 20).await;
    world.until("SELECT count(*) FROM validator.outbox", 0).await;
    assert_eq!(listener.all().await, []);
    assert_eq!(world.verdicts(0).await, [("invalid".to_owned(), None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mitigation_is_told_when_it_takes_effect_and_its_undo_is_not() {
    const VERIFIED: &str = "SELECT count(*) FROM mitigation.mitigations WHERE state = 'verified'";
    let settings = switched(&[Action::RevokeSessions, Action::DisableAccount], true, true);
    let mut stage = Stage::new(ProviderKind::Okta, people(2), settings, free()).await;
    let listener = Listener::bound(stage.bus.channel().await).await;
    stage.prove("u000@acme.example", "valid", 3).await;
    let heard = listener.wait(2).await;
    let mut told = BTreeSet::new();
    for event in &heard {
        assert_eq!(event.routing_key, "mitigated_credential");
        told.insert(event.data().to_string());
    }
    let rows: Vec<(Uuid, Uuid, Uuid, Uuid, Uuid, String, String)> = sqlx::query_as(
        "SELECT tenant_id, mitigation_id, integration_id, account_id, exposure_id, action, object_id
         FROM mitigation.mitigations",
    )
    .fetch_all(&mut stage.bus.superuser().await)
    .await
    .unwrap();
    let expected: BTreeSet<_> = rows
        .into_iter()
        .map(|(tenant, mitigation, integration, account, exposure, action, object)| {
            json!({
                "schema": 1, "tenant_id": tenant, "integration_id": integration, "provider": "okta",
                "directory_id": "00oacme0000000000001", "account_id": account, "object_id": object,
                "login": "u000@acme.example", "mitigation_id": mitigation, "mitigation_action": action,
                "exposure_id": exposure,
            })
            .to_string()
        })
        .collect();
    assert_eq!(told, expected);

    // A person asks for what is in effect already: another mitigation, another event, without an exposure.
    stage.ask("ann", &["u000@acme.example"], &[Action::DisableAccount], 1).await;
    let heard = listener.wait(1).await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    let data = heard[0].data();
    assert_eq!(data["mitigation_action"], "disable_account");
    assert_eq!(data.get("exposure_id"), None);

    // All of it is looked at once more, and one is taken back.
    stage.until("SELECT count(*) FROM mitigation.work", 0).await;
    stage.until(VERIFIED, 3).await;
    let automatic =
        "SELECT mitigation_id FROM mitigation.mitigations WHERE action = 'disable_account' AND automatic";
    stage.undo("ann", &stage.ids(automatic).await, None, false).await;
    stage
        .until(
            "SELECT count(*) FROM mitigation.mitigations WHERE undoes IS NOT NULL AND state = 'verified'",
            1,
        )
        .await;
    stage.until(VERIFIED, 2).await;
    stage.until("SELECT count(*) FROM mitigation.work", 0).await;
    stage.until("SELECT count(*) FROM mitigation.outbox", 0).await;
    assert_eq!(listener.all().await, []);
    stage.stop().await;
}

#[tokio::test]
async fn what_nobody_is_bound_to_leaves_the_outbox_and_the_stacks_users_may_send_it() {
    let bus = Bus::new().await;
    let broker = &bus.common.broker;
    let validator = parapet::stack::SERVICES.iter().find(|s| s.name == "credential-validator").unwrap();
    let rabbitmq = &servers().await.rabbitmq;
    rabbitmq.permit(&broker.vhost, &broker.user, &validator.permissions()).await.unwrap();
    for event in ["valid_credential", "invalid_credential", "mitigated_credential"] {
        put(&mut bus.superuser().await, &format!("{OUTBOUND_EXCHANGE}/{event}"), &json!({})).await;
    }
    let running = bus.start("validator", "parapet_validator").await;
    running.service.spawn_relay(&["outbox"]);
    bus.until_count("SELECT count(*) FROM validator.outbox WHERE tries = 0", 0).await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.outbox").await, 0, "sent at the first try");
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn without_the_exchange_events_wait_and_everything_else_goes_on() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let (connection, channel) = bus.channel().await;
    channel.exchange_delete(OUTBOUND_EXCHANGE.into(), ExchangeDeleteOptions::default()).await.unwrap();
    let mut events = Vec::new();
    for n in 0..10 {
        let destination = format!("{OUTBOUND_EXCHANGE}/valid_credential");
        events.push(put(&mut bus.superuser().await, &destination, &json!({ "n": n })).await.to_string());
    }
    let running = bus.start("validator", "parapet_validator").await;
    // Both are sent together, and no other message is ever given back because of an event.
    enqueue(running.service.db(), (0..200).map(|n| format!("first {n}"))).await;
    bus.execute(
        "CREATE TABLE validator.given_back (id uuid);
         CREATE FUNCTION validator.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
             $$ BEGIN INSERT INTO validator.given_back VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER UPDATE ON validator.outbox FOR EACH ROW
             WHEN (NEW.last_error IS NOT NULL AND NEW.topic NOT LIKE 'parapet.outbound/%') EXECUTE FUNCTION validator.note()",
    )
    .await;
    queue::spawn_consumer(&running.service, TOPIC, 8, Effect::new(running.service.db(), Duration::ZERO));
    running.service.spawn_relay(&["outbox"]);
    let refused =
        "SELECT count(*) FROM validator.outbox WHERE tries > 0 AND last_error LIKE '%parapet.outbound%'";
    bus.until_count(refused, 10).await;
    enqueue(running.service.db(), (0..500).map(|n| format!("good {n}"))).await;
    bus.until_count("SELECT count(*) FROM validator.effects", 700).await;
    bus.until_count("SELECT count(*) FROM validator.outbox", 10).await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.given_back").await, 0);

    declare_topology(&bus.common.broker).await.unwrap();
    let listener = Listener::bound((connection, channel)).await;
    bus.execute("UPDATE validator.outbox SET ready_at = clock_timestamp()").await;
    let heard: BTreeSet<_> = listener.wait(10).await.into_iter().map(|event| event.message_id).collect();
    assert_eq!(heard, events.into_iter().collect());
    bus.until_count("SELECT count(*) FROM validator.outbox", 0).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn what_only_a_newer_replica_can_send_stays_for_it_and_holds_up_nothing() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    for n in 0..300 {
        let destination = format!("{OUTBOUND_EXCHANGE}/event_of_a_later_version");
        put(&mut bus.superuser().await, &destination, &json!({ "n": n })).await;
    }
    let running = bus.start("validator", "parapet_validator").await;
    queue::spawn_consumer(&running.service, TOPIC, 8, Effect::new(running.service.db(), Duration::ZERO));
    running.service.spawn_relay(&["outbox"]);
    enqueue(running.service.db(), (0..500).map(|n| format!("good {n}"))).await;
    bus.until_count("SELECT count(*) FROM validator.effects", 500).await;
    let kept = "SELECT count(*) FROM validator.outbox WHERE tries > 0 AND last_error = 'unknown destination'";
    bus.until_count(kept, 300).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}
